"""Pooling: the token states of each text into one vector. The only file that knows a pooling mode.

A mode is one function of `TokenStates` and one line in `POOLING_MODES`, and nothing else: padded and packed texts,
left and right padding, excluded prompts, model directories read and written, and calibration for int8 all go through
them. Modes have the names and the meaning of Sentence Transformers' module `Pooling`.

    vectors = pool(PaddedStates(states, mask), "mean")
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pipeline.core.errors import UserError
from pipeline.encoder.packing import Packing


class TokenStates(ABC):
    """Token states of B texts, whether padded or packed, of which an excluded prompt's tokens are left out."""

    @abstractmethod
    def positions(self) -> Tensor:
        """Position of each token in its text, counted from 0 at the first one, a prompt's included: [B, L] or [T]."""

    @abstractmethod
    def sum(self, weights: Tensor | None = None) -> Tensor:
        """Sum of each text's states [B, H], float32 at least, each times its weight (shaped as `positions`)."""

    @abstractmethod
    def total(self, weights: Tensor | None = None) -> Tensor:
        """Sum of each text's weights [B, 1], without weights the number of its tokens; at least 1."""

    @abstractmethod
    def max(self) -> Tensor:
        """Largest value of each text's states [B, H] in each dimension."""

    @abstractmethod
    def first(self) -> Tensor:
        """State of each text's first token [B, H]."""

    @abstractmethod
    def last(self) -> Tensor:
        """State of each text's last token [B, H]."""


@dataclass(frozen=True)
class PaddedStates(TokenStates):
    """States [B, L, H] of texts padded on either side, by their mask [B, L]; `skip` [B] leading tokens are left out."""

    states: Tensor
    mask: Tensor
    skip: Tensor | None = None

    @cached_property
    def _pooled(self) -> Tensor:
        """Mask [B, L] of the tokens that are pooled."""
        return self.mask if self.skip is None else self.mask * (self.positions() >= self.skip[:, None])

    def positions(self) -> Tensor:
        """Position of each token in its text, [B, L]."""
        return self.mask.cumsum(dim=1) - 1

    def sum(self, weights: Tensor | None = None) -> Tensor:
        """Weighted sum of each text's states, [B, H]."""
        return (upcast_half(self.states) * self._weights(weights).unsqueeze(-1)).sum(dim=1)

    def total(self, weights: Tensor | None = None) -> Tensor:
        """Sum of each text's weights, [B, 1]."""
        return self._weights(weights).sum(dim=1, keepdim=True).clamp(min=1)

    def _weights(self, weights: Tensor | None) -> Tensor:
        return self._pooled if weights is None else self._pooled * weights

    def max(self) -> Tensor:
        """Largest value in each dimension, [B, H]."""
        return upcast_half(self.states).masked_fill(self._pooled.unsqueeze(-1) == 0, float("-inf")).amax(dim=1)

    def first(self) -> Tensor:
        """State of the first token, [B, H]."""
        return self._at(self._pooled.argmax(dim=1))

    def last(self) -> Tensor:
        """State of the last token, [B, H]."""
        return self._at(self.mask.shape[1] - 1 - self.mask.flip(1).argmax(dim=1))

    def _at(self, columns: Tensor) -> Tensor:
        return upcast_half(self.states[torch.arange(len(columns), device=columns.device), columns])


@dataclass(frozen=True)
class PackedStates(TokenStates):
    """States [T, H] of texts laid end to end; `skip` [B] leading tokens of each are left out."""

    states: Tensor
    packing: Packing
    skip: Tensor | None = None

    @cached_property
    def _texts(self) -> Tensor:
        """Text of each token, [T]."""
        return self.packing.texts

    @cached_property
    def _pooled(self) -> Tensor | None:
        """Mask [T] of the tokens that are pooled; None for all."""
        return None if self.skip is None else self.packing.positions >= self.skip[self._texts]

    def positions(self) -> Tensor:
        """Position of each token in its text, [T]."""
        return self.packing.positions

    def sum(self, weights: Tensor | None = None) -> Tensor:
        """Weighted sum of each text's states, [B, H]."""
        states, scale = upcast_half(self.states), self._weights(weights)
        states = states if scale is None else states * scale[:, None]
        return self._per_text(states, 0.0).index_add(0, self._texts, states)

    def total(self, weights: Tensor | None = None) -> Tensor:
        """Sum of each text's weights, [B, 1]."""
        if weights is None:
            count = self.packing.lengths if self.skip is None else self.packing.lengths - self.skip
        else:
            scale = self._weights(weights)
            assert scale is not None
            count = scale.new_zeros(len(self.packing.lengths)).index_add(0, self._texts, scale)
        return count.clamp(min=1)[:, None]

    def _weights(self, weights: Tensor | None) -> Tensor | None:
        if weights is None or self._pooled is None:
            return self._pooled if weights is None else weights
        return self._pooled * weights

    def max(self) -> Tensor:
        """Largest value in each dimension, [B, H]."""
        states = upcast_half(self.states)
        states = states if self._pooled is None else states.masked_fill(~self._pooled[:, None], float("-inf"))
        texts = self._texts[:, None].expand_as(states)
        return self._per_text(states, float("-inf")).scatter_reduce(0, texts, states, "amax")

    def first(self) -> Tensor:
        """State of the first token, [B, H]."""
        starts, lengths = self.packing.starts, self.packing.lengths
        if self.skip is not None:
            starts = starts + torch.where(lengths > self.skip, self.skip, 0)
        return upcast_half(self.states.index_select(0, starts))

    def last(self) -> Tensor:
        """State of the last token, [B, H]."""
        return upcast_half(self.states.index_select(0, self.packing.starts + self.packing.lengths - 1))

    def _per_text(self, states: Tensor, value: float) -> Tensor:
        return states.new_full((len(self.packing.lengths), states.shape[1]), value)


def upcast_half(tensor: Tensor) -> Tensor:
    """A tensor of half precision as float32, others as they are."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def mean(tokens: TokenStates) -> Tensor:
    """Mean of the token states."""
    return tokens.sum() / tokens.total()


def mean_sqrt_len_tokens(tokens: TokenStates) -> Tensor:
    """Sum of the token states over the square root of their number."""
    summed = tokens.sum()
    return summed / tokens.total().to(summed.dtype).sqrt()


def weightedmean(tokens: TokenStates) -> Tensor:
    """Mean of the token states weighted by their position, 1 for the first (Muennighoff 2022, SGPT)."""
    weights = tokens.positions() + 1
    return tokens.sum(weights) / tokens.total(weights)


def max_over_time(tokens: TokenStates) -> Tensor:
    """Largest value of the token states in each dimension; 0 where a text is nothing but its excluded prompt."""
    vectors = tokens.max()
    return vectors.masked_fill(vectors.isneginf(), 0.0)


def cls(tokens: TokenStates) -> Tensor:
    """State of the first token, in BERT's models [CLS]."""
    return tokens.first()


def lasttoken(tokens: TokenStates) -> Tensor:
    """State of the last token, the only one that has seen the whole text in a causal model."""
    return tokens.last()


@dataclass(frozen=True)
class PoolingMode:
    """How a mode computes its vectors, and its key in a model directory's `1_Pooling/config.json`."""

    function: Callable[[TokenStates], Tensor]
    config_key: str


# In the order in which Sentence Transformers puts the vectors of several modes that are stated by their keys.
POOLING_MODES = {
    "cls": PoolingMode(cls, "pooling_mode_cls_token"),
    "max": PoolingMode(max_over_time, "pooling_mode_max_tokens"),
    "mean": PoolingMode(mean, "pooling_mode_mean_tokens"),
    "mean_sqrt_len_tokens": PoolingMode(mean_sqrt_len_tokens, "pooling_mode_mean_sqrt_len_tokens"),
    "weightedmean": PoolingMode(weightedmean, "pooling_mode_weightedmean_tokens"),
    "lasttoken": PoolingMode(lasttoken, "pooling_mode_lasttoken"),
}
Modes = str | tuple[str, ...]


def pool(tokens: TokenStates, modes: Modes) -> Tensor:
    """Token states of B texts into vectors [B, H], of M modes [B, M * H] side by side, float32 at least.

    Raises UserError for an unknown mode.
    """
    if isinstance(modes, str):
        return require_mode(modes).function(tokens)
    return torch.cat([require_mode(mode).function(tokens) for mode in modes], dim=-1)


def mode_names(modes: Modes) -> tuple[str, ...]:
    """List the modes of which each text's vectors are laid side by side."""
    return (modes,) if isinstance(modes, str) else modes


def require_modes(modes: Any) -> Modes:
    """Return one mode or several as they are; raises UserError for an unknown one and for none."""
    for mode in mode_names(modes) or (modes,):
        require_mode(mode)
    return modes  # type: ignore[no-any-return]


def require_mode(mode: Any) -> PoolingMode:
    """Look up a mode by its name; raises UserError with the choices for another."""
    if not isinstance(mode, str) or mode not in POOLING_MODES:
        raise UserError(f"pooling {mode!r} is not supported; choose from {', '.join(POOLING_MODES)}")
    return POOLING_MODES[mode]


WIDTH_KEYS = ("word_embedding_dimension", "embedding_dimension")
_OTHER_KEYS = (*WIDTH_KEYS, "pooling_mode", "include_prompt")


def read_pooling(config: Mapping[str, Any]) -> Modes:
    """Name the modes of a model directory's pooling settings, which older and newer versions write differently.

    Newer ones have `pooling_mode: cls`, or a list, older ones a key for each mode; several are laid side by side.
    Settings without any mean the mean, as in Sentence Transformers. Raises UserError for unknown modes and for keys
    that have no meaning here.
    """
    unknown = [key for key in config if key not in _OTHER_KEYS and not key.startswith("pooling_mode_")]
    if unknown:
        raise UserError(f"pooling: {', '.join(unknown)} has no meaning here; known are {', '.join(_OTHER_KEYS)}")
    if "pooling_mode" in config:
        stated = config["pooling_mode"]
        modes = tuple(stated) if isinstance(stated, list) else (stated,)
    else:
        flags = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
        known = {mode.config_key: name for name, mode in POOLING_MODES.items()}
        modes = tuple(name for key, name in known.items() if key in flags)
        modes += tuple(key for key in flags if key not in known)
    modes = modes or ("mean",)
    return require_modes(modes[0] if len(modes) == 1 else modes)


def pooling_config(modes: Modes, dim: int, *, include_prompt: bool) -> dict[str, Any]:
    """Settings of modes over states of `dim` dimensions, as `1_Pooling/config.json` holds them.

    Every version of Sentence Transformers reads them; an order of several modes that only a list can state is for
    those since 6.
    """
    require_modes(modes)
    names = mode_names(modes)
    if list(names) != [name for name in POOLING_MODES if name in names]:
        return {"embedding_dimension": dim, "pooling_mode": list(names), "include_prompt": include_prompt}
    flags = {mode.config_key: name in names for name, mode in POOLING_MODES.items()}
    return {"word_embedding_dimension": dim, **flags, "include_prompt": include_prompt}


def range_means(states: Tensor, ranges: Sequence[tuple[int, int]]) -> Tensor:
    """Mean [P, H] of the states [L, H] of each range of tokens (first, last + 1); zero for one without a token."""
    position = torch.arange(len(states), device=states.device)
    first, last = (torch.tensor(side, device=states.device)[:, None] for side in zip(*ranges, strict=True))
    inside = ((position >= first) & (position < last)).float()
    return inside @ states / inside.sum(dim=1, keepdim=True).clamp(min=1)
