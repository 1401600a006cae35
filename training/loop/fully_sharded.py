"""Ranks share the weights, their gradients and the optimiser's states (FSDP2), for models that no GPU holds whole.

Each rank holds its rows of every weight. A block of the transformer gathers its weights when it computes, forward and
backward, and frees them after; what is in no block (embeddings, the last norm, the modules after pooling) is gathered
for a whole pass. Gathering takes all ranks, so they make the same number of passes: a rank that has texts for fewer
passes one of a single token. In half precision blocks gather, and compute in, half precision, while the rows that the
optimiser changes and the reduction of gradients stay in float32.
Sources: Rajbhandari et al. 2020 (ZeRO, arXiv 1910.02054), Zhao et al. 2023 (PyTorch FSDP, arXiv 2304.11277).
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from pipeline.core.errors import UserError
from pipeline.encoder.config import Role
from pipeline.encoder.encoder import Encoder
from pipeline.encoder.static_encoder import StaticTable
from pipeline.encoder.tokenizer import Tokens
from training.loop.checkpointing import listed_parts
from training.loop.embed_module import OnePassModule
from training.loop.gradient_cache import Encode, GradientCache, PlainPass
from training.loop.gradient_sync import gradient_sync
from training.loop.placement import Placement, TextEncoder
from training.losses.gather import world


class FullySharded(Placement):
    """A module whose weights all ranks share; the learnable scalars of the loss are whole on each."""

    def __init__(
        self, encoder: Encoder, scalars: Mapping[str, float], precision: torch.dtype, device: torch.device
    ) -> None:
        """Shard a module in place; raises UserError for an encoder that is not one transformer."""
        if type(encoder) is not Encoder or isinstance(encoder.transformer, StaticTable):
            raise UserError(
                "loop.parallel fsdp: shares the blocks of one transformer; this model is of another kind, set ddp"
            )
        self.module = OnePassModule(encoder, scalars)
        self.module.scalars.to(device)
        whole = set(self.module.scalars.parameters())
        self.model = shard(self.module, blocks(encoder.transformer), precision, device.type, whole)

    def encoder_pass(self, encode: Encode, cache_tokens: int | None) -> PlainPass | GradientCache:
        """In passes of the encoder's token budget or the cache's, the smaller; a plain step keeps all their graphs."""
        encoder = self.module.encoder
        budget = min(encoder.token_budget, cache_tokens or encoder.token_budget)
        scalars = dict(self.module.scalars.items())
        keep_graphs = cache_tokens is None
        return GradientCache(encode, self.model, scalars, budget, encoder.split_batches, keep_graphs=keep_graphs)

    def text_encoder(self, encode: Encode) -> TextEncoder:
        """An encoder that all ranks use together."""
        return SharedEncoder(self.module.encoder, self.model, encode)


def shard(
    module: nn.Module,
    parts: Sequence[nn.Module],
    precision: torch.dtype,
    device: str,
    whole: Collection[nn.Parameter] = (),
) -> nn.Module:
    """Share the parameters of a module among all ranks, in place, and return it; those of `whole` stay as they are.

    Each of `parts` gathers its weights by itself, in `precision`. Weights in main memory come to the device part by
    part, so that it need never hold them all.
    """
    mesh = init_device_mesh(device, (world()[1],))
    half = precision in (torch.bfloat16, torch.float16)
    policy = MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=torch.float32) if half else MixedPrecisionPolicy()
    for part in parts:
        fully_shard(part, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh, ignored_params=set(whole))
    return module


def blocks(transformer: nn.Module) -> list[nn.Module]:
    """The blocks of a transformer that gather by themselves: its layers.

    None where layers share them (ALBERT): such a block would be gathered, and its gradients reduced, at each layer.
    """
    layers = listed_parts(transformer)
    return layers if len(layers) >= getattr(transformer.config, "num_hidden_layers", 0) else []


class SharedEncoder:
    """An encoder whose weights ranks share: all of them encode at the same time, each its own texts."""

    def __init__(self, encoder: Encoder, model: nn.Module, encode: Encode) -> None:
        self.encoder, self.model, self.encode_pass = encoder, model, encode
        self.similarity = encoder.similarity

    @property
    def device(self) -> torch.device:
        """The device that computes."""
        return self.encoder.device

    def encode(self, texts: Sequence[str], role: Role) -> npt.NDArray[np.float32]:
        """Texts of a role into vectors [N, D] in input order, without dropout."""
        skip = [self.encoder.prompt_length(role)] * len(texts)
        return self.encode_tokens(self.encoder.tokenize(texts, role), skip).float().cpu().numpy()

    @torch.no_grad()
    def encode_tokens(self, tokens: Tokens, skip: Sequence[int] | None = None) -> Tensor:
        """Token ids of N texts into vectors [N, D] in input order, without dropout.

        The weights that a pass has gathered are freed at the end, so that the next one sees what changed in between.
        """
        skipped = skip or [0] * len(tokens)
        batches = self.encoder.split_batches([len(row) for row in tokens], self.encoder.token_budget)
        batches = gradient_sync(self.model).equal_passes(batches)
        was_training = self.model.training
        self.model.eval()
        parts = [self.encode_pass([tokens[i] for i in batch], [skipped[i] for i in batch]) for batch in batches]
        self.model.train(was_training)
        assert isinstance(self.model, FSDPModule)
        self.model.reshard()
        if not parts:
            return torch.zeros(0, self.encoder.dim, device=self.device)
        order = np.concatenate(batches)
        return torch.cat(parts).index_select(0, torch.from_numpy(np.argsort(order, kind="stable")).to(self.device))
