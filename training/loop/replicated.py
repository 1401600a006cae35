"""Every rank holds all weights; gradients are reduced by DistributedDataParallel (DDP)."""

from collections.abc import Mapping

import torch
from torch.nn.parallel import DistributedDataParallel

from pipeline.encoder.encoder import Encoder
from training.loop.embed_module import EmbedModule
from training.loop.gradient_cache import Encode, GradientCache, PlainPass
from training.loop.placement import Placement, TextEncoder
from training.losses.gather import world


class Replicated(Placement):
    """A whole module on every rank; alone, and where nothing trains, there is nothing to reduce."""

    def __init__(
        self, encoder: Encoder, scalars: Mapping[str, float], precision: torch.dtype, device: torch.device
    ) -> None:
        """Bring a module to the device; `precision` is the caller's to compute in, weights keep theirs."""
        self.module = self.model = EmbedModule(encoder, scalars).to(device)
        if world()[1] > 1 and any(value.requires_grad for value in self.module.parameters()):
            self.model = DistributedDataParallel(self.module, broadcast_buffers=False, gradient_as_bucket_view=True)

    def encoder_pass(self, encode: Encode, cache_tokens: int | None) -> PlainPass | GradientCache:
        """Plain, or in chunks that the encoder cuts further where its own token budget is smaller."""
        scalars = dict(self.module.scalars.items())
        if cache_tokens is None:
            return PlainPass(encode, scalars)
        return GradientCache(encode, self.model, scalars, cache_tokens, self.module.encoder.split_batches)

    def text_encoder(self, encode: Encode) -> TextEncoder:
        """The encoder itself, which a rank may use alone; it computes in the precision of its weights."""
        return self.module.encoder
