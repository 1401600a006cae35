"""Packed texts: laid end to end, so that linear layers compute no padding; attention groups texts of similar length.

A batch [B, L] computes its padding in every layer; packed into [1, T] it computes none. Attention, a twentieth of the
work at the lengths of sentences, is done group by group of neighbours in length: to all tokens, to those before
(causal) or near (sliding windows), with positions counted in each text. The vectors are those of padded texts to
rounding. Source: the unpadding of Portes et al. 2023 (MosaicBERT, arXiv 2312.17482), without its kernels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipeline.encoder import cpu_dropout

NAME = "packed"
# By model type: the first position of a text, learned or rotary; 1 counts from after the padding id.
_FIRST_POSITION = {
    **dict.fromkeys(("bert", "electra", "albert", "distilbert"), 0),
    **dict.fromkeys(("roberta", "xlm-roberta", "camembert"), 1),
    **dict.fromkeys(("modernbert", "nomic_bert", "jina_embeddings_v3", "eurobert"), 0),
    **dict.fromkeys(("qwen2", "qwen3", "llama", "mistral", "gemma", "gemma2", "gemma3_text"), 0),
}
_MAX_PADDING = 0.15  # share of a group's slots in attention


@dataclass(frozen=True)
class Group:
    """Neighbouring texts whose attention is computed together, padded to the longest: `rows` texts, `tokens` tokens."""

    rows: int
    length: int  # of the longest text
    tokens: int
    slots: Tensor | None  # [tokens] slot of each token among rows * length; None where all texts have the same length
    bias: Tensor | None  # [rows, 1, 1, length] -inf where there is no token
    bands: dict["Band", Tensor] = field(default_factory=dict, compare=False)

    def masked(self, band: "Band") -> Tensor | None:
        """Bias [rows or 1, 1, length or 1, length]: -inf where there is no token and outside a band.

        Every slot sees itself, so that none without a token sees nothing, which would be no number.
        """
        if band == EVERYTHING:
            return self.bias
        if band not in self.bands:
            device = None if self.bias is None else self.bias.device
            distance = torch.arange(self.length, device=device)
            distance = distance[:, None] - distance
            seen = torch.ones_like(distance, dtype=torch.bool) if not band.causal else distance >= 0
            seen = seen if band.window is None else seen & (distance.abs() < band.window)
            seen = seen if self.bias is None else (seen & (self.bias == 0)) | (distance == 0)
            bias = torch.zeros(seen.shape, dtype=torch.float64, device=device).masked_fill(~seen, -torch.inf)
            self.bands[band] = bias if self.bias is not None else bias[None, None]
        return self.bands[band]


@dataclass(frozen=True)
class Band:
    """Which tokens of its text a token attends to: all, those up to itself, those nearer than `window`."""

    causal: bool = False
    window: int | None = None

    @classmethod
    def of(cls, module: Any, window: int | None) -> "Band":
        """Band of an attention module; a model whose configuration says `is_causal: false` sees both sides."""
        stated = getattr(getattr(module, "config", None), "is_causal", True)
        return cls(bool(getattr(module, "is_causal", False)) and stated is not False, window)


EVERYTHING = Band()


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
    """Whether positions and masks of this architecture are known, so that it can take packed texts.

    Code of a model's own may do more with the states of a text than transformers' class of the same name does.
    """
    known = transformer.config.model_type in _FIRST_POSITION and not has_own_code(transformer)
    return known and not getattr(transformer.config, "is_decoder", False)


def has_own_code(transformer: Any) -> bool:
    """Whether the class of a transformer came with its model directory."""
    return type(transformer).__module__.startswith("transformers_modules.")


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
    position_ids = _positions(config, ids, packing).unsqueeze(0)
    layout = {"groups": packing.groups} if config._attn_implementation == NAME else packing.boundaries
    output = transformer(input_ids=ids.unsqueeze(0), position_ids=position_ids, **layout, **inputs)
    return output.last_hidden_state.squeeze(0)  # type: ignore[no-any-return]


def _positions(config: Any, ids: Tensor, packing: Packing) -> Tensor:
    """Positions [T] as the architecture counts them: from 0, or from after the padding id and without such tokens."""
    if not _FIRST_POSITION[config.model_type]:
        return packing.positions
    padding = int(config.pad_token_id or 0)
    real = (ids != padding).long()
    counted = real.cumsum(0)
    starts = torch.arange(len(ids), device=ids.device) - packing.positions
    return (counted - counted[starts] + real[starts]) * real + padding


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
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of each text to itself: query [1, heads, T, d], key and value, of as many or fewer heads, into
    [1, T, heads * d].
    """
    counts = [group.tokens for group in groups]
    columns = [torch.split(column[0].transpose(0, 1), counts) for column in (query * scaling, key, value)]
    fused = not module.training and not torch.is_grad_enabled()  # in training its backward costs more than it saves
    band = Band.of(module, sliding_window)
    attend = partial(_attend, band=band, softcap=softcap, dropout=dropout, fused=fused and softcap is None)
    parts = [attend(group, q, k, v) for group, q, k, v in zip(groups, *columns, strict=True)]
    return torch.cat(parts).unsqueeze(0), None


def share_heads(column: Tensor, heads: int) -> Tensor:
    """Repeat the heads [1, h, T, d] of grouped queries (Ainslie et al. 2023), so that each query head has one."""
    return column if column.shape[1] == heads else column.repeat_interleave(heads // column.shape[1], dim=1)


def _attend(
    group: Group,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    band: Band,
    softcap: float | None,
    dropout: float,
    fused: bool,
) -> Tensor:
    """Attention within one group: [tokens, heads, d], keys and values of as many or fewer heads, into
    [tokens, heads * d].
    """
    _, heads, head_dim = query.shape
    query, key, value = (_pad(group, column) for column in (query, key, value))
    bias = group.masked(band)
    bias = None if bias is None else bias.to(query)
    if fused:
        key, value = (share_heads(column, heads) for column in (key, value))
        output = nn.functional.scaled_dot_product_attention(query, key, value, bias, scale=1.0)
    else:
        scores = _multiply_heads(query, key.transpose(2, 3))
        scores = scores if softcap is None else (scores / softcap).tanh() * softcap
        weights = (scores if bias is None else scores + bias).softmax(dim=-1)
        output = _multiply_heads(cpu_dropout.dropout(weights, dropout) if dropout else weights, value)
    output = output.transpose(1, 2).reshape(group.rows * group.length, heads * head_dim)
    if group.slots is None:
        return output
    return _GatherRows.apply(output, group.slots)  # type: ignore[no-any-return, no-untyped-call]


def _multiply_heads(left: Tensor, right: Tensor) -> Tensor:
    """Products of heads [B, H, n, m] with [B, h, m, k] into [B, H, n, k]; each of the h serves H / h neighbours.

    A head that is shared is not copied for each of them, as `share_heads` does: backward would keep all the copies.
    """
    rows, heads, length, inner = left.shape
    shared = right.shape[1]
    if shared == heads:
        return left @ right
    return (left.reshape(rows, shared, -1, inner) @ right).reshape(rows, heads, length, -1)


def _pad(group: Group, column: Tensor) -> Tensor:
    """Tokens [tokens, heads, d] of a group as padded texts [rows, heads, length, d]."""
    _, heads, head_dim = column.shape
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
