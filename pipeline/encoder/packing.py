"""Packed texts: laid end to end, so that linear layers compute no padding; attention groups texts of similar length.

A batch [B, L] computes its padding in every layer; packed into [1, T] it computes none. Attention, a twentieth of the
work at the lengths of sentences, is done group by group of neighbours in length. The vectors are those of padded texts
to rounding. Source: the unpadding of Portes et al. 2023 (MosaicBERT, arXiv 2312.17482), without its kernels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipeline.encoder import cpu_dropout

NAME = "packed"
_FIRST_POSITION = {"bert": 0, "roberta": 1, "xlm-roberta": 1, "camembert": 1}  # 1: counts from after the padding id
_MAX_PADDING = 0.15  # share of a group's slots in attention


@dataclass(frozen=True)
class Group:
    """Neighbouring texts whose attention is computed together, padded to the longest: `rows` texts, `tokens` tokens."""

    rows: int
    length: int  # of the longest text
    tokens: int
    slots: Tensor | None  # [tokens] slot of each token among rows * length; None where all texts have the same length
    bias: Tensor | None  # [rows, 1, 1, length] -inf where there is no token


@dataclass(frozen=True)
class Packing:
    """The layout of B texts of falling length laid end to end as T tokens."""

    lengths: Tensor  # [B]
    positions: Tensor  # [T] position of each token in its text
    sizes: Sequence[int]  # the lengths, where no GPU has to be asked

    @classmethod
    def from_lengths(cls, lengths: Sequence[int], device: torch.device) -> "Packing":
        """Lay out texts of these lengths, the longest first."""
        sizes = np.asarray(lengths)
        positions = np.arange(sizes.sum()) - np.repeat(sizes.cumsum() - sizes, sizes)
        return cls(torch.from_numpy(sizes).to(device), torch.from_numpy(positions).to(device), lengths)

    @cached_property
    def groups(self) -> list[Group]:
        """Texts in groups of which at most `_MAX_PADDING` is padding; only attention by groups asks for them."""
        groups, start, sizes = [], 0, self.sizes
        while start < len(sizes):
            end, tokens = start, 0
            while end < len(sizes) and tokens + sizes[end] >= (1 - _MAX_PADDING) * sizes[start] * (end - start + 1):
                tokens += sizes[end]
                end += 1
            groups.append(_group(np.asarray(sizes[start:end]), self.lengths.device))
            start = end
        return groups

    @property
    def starts(self) -> Tensor:
        """Index of the first token of each text, [B]."""
        return self.lengths.cumsum(0) - self.lengths

    @property
    def texts(self) -> Tensor:
        """Text of each token, [T]."""
        return torch.repeat_interleave(torch.arange(len(self.lengths), device=self.lengths.device), self.lengths)

    @property
    def boundaries(self) -> dict[str, Any]:
        """Where texts begin and end, as variable-length attention kernels take it."""
        offsets = nn.functional.pad(self.lengths.cumsum(0), (1, 0)).to(torch.int32)
        longest = self.sizes[0]
        return {"cu_seq_lens_q": offsets, "cu_seq_lens_k": offsets, "max_length_q": longest, "max_length_k": longest}


def _group(lengths: npt.NDArray[Any], device: torch.device) -> Group:
    rows, longest = len(lengths), int(lengths[0])
    mask = np.arange(longest) < lengths[:, None]
    if mask.all():
        return Group(rows, longest, rows * longest, None, None)
    bias = np.where(mask, 0.0, -np.inf)[:, None, None, :]
    slots = torch.from_numpy(np.flatnonzero(mask)).to(device)
    return Group(rows, longest, int(lengths.sum()), slots, torch.from_numpy(bias).to(device))


def supports_packing(transformer: Any) -> bool:
    """Whether positions and masks of this architecture are known, so that it can take packed texts."""
    return transformer.config.model_type in _FIRST_POSITION and not getattr(transformer.config, "is_decoder", False)


def enable_packing(transformer: Any) -> bool:
    """Let a transformer take packed texts; returns False for an architecture that `supports_packing` does not know."""
    return supports_packing(transformer) and register_attention(transformer, NAME, packed_attention)


def register_attention(transformer: Any, name: str, function: Callable[..., Any]) -> bool:
    """Have a transformer compute its attention by a function, which transformers knows by `name` from then on.

    Returns True, so that it can end a condition.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(name, function)
    transformer.set_attn_implementation(name)
    return True


def packed_forward(transformer: Any, ids: Tensor, packing: Packing, **inputs: Tensor) -> Tensor:
    """Token ids [T] of packed texts into token states [T, H]; `inputs` are further ones of the model."""
    config = transformer.config
    first = _FIRST_POSITION[config.model_type] * (1 + int(config.pad_token_id or 0))
    position_ids = (packing.positions + first).unsqueeze(0)
    layout = {"groups": packing.groups} if config._attn_implementation == NAME else packing.boundaries
    output = transformer(input_ids=ids.unsqueeze(0), position_ids=position_ids, **layout, **inputs)
    return output.last_hidden_state.squeeze(0)  # type: ignore[no-any-return]


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float = 1.0,
    dropout: float = 0.0,
    *,
    groups: list[Group],
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of each text to itself: query, key, value [1, heads, T, d] into [1, T, heads * d]."""
    counts = [group.tokens for group in groups]
    columns = [torch.split(column[0].transpose(0, 1), counts) for column in (query * scaling, key, value)]
    fused = not module.training and not torch.is_grad_enabled()  # in training its backward costs more than it saves
    attend = partial(_attend, dropout=dropout, fused=fused)
    parts = [attend(group, q, k, v) for group, q, k, v in zip(groups, *columns, strict=True)]
    return torch.cat(parts).unsqueeze(0), None


def _attend(group: Group, query: Tensor, key: Tensor, value: Tensor, *, dropout: float, fused: bool) -> Tensor:
    """Attention within one group: [tokens, heads, d] each into [tokens, heads * d]."""
    _, heads, head_dim = query.shape
    query, key, value = (_pad(group, column, heads, head_dim) for column in (query, key, value))
    bias = None if group.bias is None else group.bias.to(query.dtype)
    if fused:
        output = nn.functional.scaled_dot_product_attention(query, key, value, bias, scale=1.0)
    else:
        scores = query @ key.transpose(2, 3)
        weights = (scores if bias is None else scores + bias).softmax(dim=-1)
        output = (cpu_dropout.dropout(weights, dropout) if dropout else weights) @ value
    output = output.transpose(1, 2).reshape(group.rows * group.length, heads * head_dim)
    if group.slots is None:
        return output
    return _GatherRows.apply(output, group.slots)  # type: ignore[no-any-return, no-untyped-call]


def _pad(group: Group, column: Tensor, heads: int, head_dim: int) -> Tensor:
    """Tokens [tokens, heads, d] of a group as padded texts [rows, heads, length, d]."""
    if group.slots is not None:
        column = _ScatterRows.apply(column, group.slots, group.rows * group.length)  # type: ignore[no-untyped-call]
    return column.reshape(group.rows, group.length, heads, head_dim).transpose(1, 2)


class _ScatterRows(torch.autograd.Function):
    """Put rows [n, ...] into distinct `slots` [n] of zeros [total, ...]; the gradient is a plain selection."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, slots: Tensor, total: int) -> Tensor:
        ctx.save_for_backward(slots)
        return rows.new_zeros(total, *rows.shape[1:]).index_copy_(0, slots, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (slots,) = ctx.saved_tensors
        return grad.index_select(0, slots), None, None


class _GatherRows(torch.autograd.Function):
    """Take the distinct `slots` [n] of rows [total, ...]; the gradient is copied, not added up."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, slots: Tensor) -> Tensor:
        ctx.save_for_backward(slots)
        ctx.total = len(rows)
        return rows.index_select(0, slots)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (slots,) = ctx.saved_tensors
        return grad.new_zeros(ctx.total, *grad.shape[1:]).index_copy_(0, slots, grad), None
