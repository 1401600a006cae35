"""Where the weights of a step lie: whole on every rank, or shared by all ranks."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipeline.encoder.config import Role
from pipeline.encoder.tokenizer import Tokens
from training.loop.embed_module import EmbedModule
from training.loop.gradient_cache import Encode, GradientCache, PlainPass


class TextEncoder(Protocol):
    """What validation, and a loss that compares with the base, need of an encoder."""

    similarity: str

    @property
    def device(self) -> torch.device:
        """The device that computes."""

    def encode(self, texts: Sequence[str], role: Role) -> npt.NDArray[np.float32]:
        """Texts of a role into vectors [N, D] in input order, without dropout."""

    def encode_tokens(self, tokens: Tokens, skip: Sequence[int] | None = None) -> Tensor:
        """Token ids of N texts into vectors [N, D] in input order."""


class Placement(ABC):
    """A module as the ranks hold it, and what of a step depends on that.

    `module` has the encoder, the scalars and the parameters that train; `model` is what a step calls in its place.
    """

    module: EmbedModule
    model: nn.Module

    @abstractmethod
    def encoder_pass(self, encode: Encode, cache_tokens: int | None) -> PlainPass | GradientCache:
        """Forward and backward pass of a step: plain, or in chunks of `cache_tokens` tokens.

        `encode` calls `model`, in the precision of the step.
        """

    @abstractmethod
    def text_encoder(self, encode: Encode) -> TextEncoder:
        """The encoder as validation uses it, on all ranks at the same time; `encode` as for `encoder_pass`."""
