"""Texts laid end to end: linear layers see tokens alone, only attention sees texts, in groups of nearly one length.

A batch [B, L] computes its padding in every layer; packed into [1, T] it computes none. Attention, a twentieth of the
work at the lengths of sentences, is done group by group of neighbours in length. The vectors are those of the padded
way to rounding. Source: the unpadding of Portes et al. 2023 (MosaicBERT, arXiv 2312.17482), without its kernels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.encoder.cpu_dropout import dropout as drop

NAME = "packed"
_FIRST_POSITION = {"bert": 0, "roberta": 1, "xlm-roberta": 1, "camembert": 1}  # 1: counts from after the padding id
_PADDING = 0.15  # of a group's places in attention


@dataclass(frozen=True)
class Group:
    """Neighbouring texts whose attention is computed together: `rows` texts of at most `length` of `tokens` tokens."""

    rows: int
    length: int
    tokens: int
    at: Tensor | None  # [tokens] place of each token among rows * length; None where every text has the same length
    bias: Tensor | None  # [rows, 1, 1, length] -inf where there is no token


@dataclass(frozen=True)
class Packing:
    """How texts of falling length lie end to end."""

    lengths: Tensor  # [B]
    positions: Tensor  # [T] place of each token in its text
    sizes: Sequence[int]  # the lengths, where no GPU has to be asked

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> "Packing":
        """Pack texts of these lengths, the longest first."""
        size = np.asarray(lengths)
        places = np.arange(size.sum()) - np.repeat(size.cumsum() - size, size)
        return cls(torch.from_numpy(size).to(device), torch.from_numpy(places).to(device), lengths)

    @cached_property
    def groups(self) -> list[Group]:
        """Texts in groups of which at most `_PADDING` is padding; only attention by groups asks for them."""
        groups, start, size = [], 0, self.sizes
        while start < len(size):
            end, tokens = start, 0
            while end < len(size) and tokens + size[end] >= (1 - _PADDING) * size[start] * (end - start + 1):
                tokens += size[end]
                end += 1
            groups.append(_group(np.asarray(size[start:end]), self.lengths.device))
            start = end
        return groups

    @property
    def starts(self) -> Tensor:
        """Place of the first token of each text, [B]."""
        return self.lengths.cumsum(0) - self.lengths

    @property
    def texts(self) -> Tensor:
        """Text of each token, [T]."""
        return torch.repeat_interleave(torch.arange(len(self.lengths), device=self.lengths.device), self.lengths)

    @property
    def ends(self) -> dict[str, Any]:
        """Where texts end, as the kernels for texts of many lengths take it."""
        ends = nn.functional.pad(self.lengths.cumsum(0), (1, 0)).to(torch.int32)
        longest = self.sizes[0]
        return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}


def _group(lengths: "np.ndarray[Any, Any]", device: torch.device) -> Group:
    rows, longest = len(lengths), int(lengths[0])
    there = np.arange(longest) < lengths[:, None]
    if there.all():
        return Group(rows, longest, rows * longest, None, None)
    bias = np.where(there, 0.0, -np.inf)[:, None, None, :]
    at = torch.from_numpy(np.flatnonzero(there)).to(device)
    return Group(rows, longest, int(lengths.sum()), at, torch.from_numpy(bias).to(device))


def known(transformer: Any) -> bool:
    """Whether positions and masks of this architecture are known, so that it can take packed texts."""
    return transformer.config.model_type in _FIRST_POSITION and not getattr(transformer.config, "is_decoder", False)


def enable(transformer: Any) -> bool:
    """Let a transformer take packed texts; False for an architecture whose positions or masks this does not know."""
    return known(transformer) and adopt(transformer, NAME, attention)


def adopt(transformer: Any, name: str, function: Callable[..., Any]) -> bool:
    """Have a transformer compute its attention by a function, which transformers knows by name from then on; True."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(name, function)
    transformer.set_attn_implementation(name)
    return True


def states(transformer: Any, ids: Tensor, packing: Packing, **extra: Tensor) -> Tensor:
    """Token ids [T] of packed texts into token states [T, H]."""
    config = transformer.config
    first = _FIRST_POSITION[config.model_type] * (1 + int(config.pad_token_id or 0))
    positions = (packing.positions + first).unsqueeze(0)
    where = {"groups": packing.groups} if config._attn_implementation == NAME else packing.ends
    found = transformer(input_ids=ids.unsqueeze(0), position_ids=positions, **where, **extra)
    return found.last_hidden_state.squeeze(0)  # type: ignore[no-any-return]


def attention(
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
    _, heads, width = query.shape
    query, key, value = (_spread(group, column, heads, width) for column in (query, key, value))
    bias = None if group.bias is None else group.bias.to(query.dtype)
    if fused:
        found = nn.functional.scaled_dot_product_attention(query, key, value, bias, scale=1.0)
    else:
        scores = query @ key.transpose(2, 3)
        weights = (scores if bias is None else scores + bias).softmax(dim=-1)
        found = (drop(weights, dropout) if dropout else weights) @ value
    found = found.transpose(1, 2).reshape(group.rows * group.length, heads * width)
    taken: Tensor = found if group.at is None else _Take.apply(found, group.at)  # type: ignore[no-untyped-call]
    return taken


def _spread(group: Group, column: Tensor, heads: int, width: int) -> Tensor:
    """Tokens [tokens, heads, d] of a group as padded texts [rows, heads, length, d]."""
    if group.at is not None:
        column = _Put.apply(column, group.at, group.rows * group.length)  # type: ignore[no-untyped-call]
    return column.reshape(group.rows, group.length, heads, width).transpose(1, 2)


class _Put(torch.autograd.Function):
    """Rows [n, ...] to distinct places `at` [n] of zeros [total, ...]; the gradient is a plain selection."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, at: Tensor, total: int) -> Tensor:
        ctx.save_for_backward(at)
        return rows.new_zeros(total, *rows.shape[1:]).index_copy_(0, at, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (at,) = ctx.saved_tensors
        return grad.index_select(0, at), None, None


class _Take(torch.autograd.Function):
    """Rows `at` [n], all distinct, of [total, ...]; the gradient is copied, not added up."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, at: Tensor) -> Tensor:
        ctx.save_for_backward(at)
        ctx.total = len(rows)
        return rows.index_select(0, at)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (at,) = ctx.saved_tensors
        return grad.new_zeros(ctx.total, *grad.shape[1:]).index_copy_(0, at, grad), None


def pool(token_states: Tensor, packing: Packing, mode: str, skip: Tensor | None = None) -> Tensor:
    """Token states [T, H] into [B, H], float32 at least; `mode` is mean, cls or max; `skip` [B] leading tokens.

    The same as `encoder.pool` of the padded texts.
    """
    starts = packing.starts if skip is None else packing.starts + skip
    if mode == "cls":
        return wide(token_states.index_select(0, starts))
    texts = packing.texts
    held = None if skip is None else packing.positions >= skip[texts]
    shape = (len(packing.lengths), token_states.shape[1])
    tokens = wide(token_states)
    if mode == "max":
        tokens = tokens if held is None else tokens.masked_fill(~held[:, None], float("-inf"))
        return tokens.new_full(shape, float("-inf")).scatter_reduce(0, texts[:, None].expand_as(tokens), tokens, "amax")
    tokens = tokens if held is None else tokens * held[:, None]
    count = packing.lengths if skip is None else packing.lengths - skip
    return tokens.new_zeros(shape).index_add(0, texts, tokens) / count.clamp(min=1)[:, None]


def wide(tensor: Tensor) -> Tensor:
    """A tensor of half precision as float32, others as they are."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
