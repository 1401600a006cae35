"""Which attention a model computes, and whether its texts are packed: no padding in any layer.

`varlen` packs: on a CPU as pipeline/packing.py does, on a GPU by the kernel that torch brings (half precision), which
`auto` takes where it can. `flash_attention_2` packs for the package flash-attn. Source: Dao 2023 (arXiv 2307.08691).
"""

import importlib.util
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.core.errors import UserError
from pipeline.encoder import packing

Attention = Literal["auto", "eager", "sdpa", "flash_attention_2", "varlen"]
PACKED = ("flash_attention_2", "varlen")


def without_cudnn(device: str) -> None:
    """Turn cuDNN's attention off on a GPU: it plans anew, for some 60 ms, each shape that a batch of texts can have."""
    if device.startswith("cuda"):
        torch.backends.cuda.enable_cudnn_sdp(False)


def choose(asked: Attention, device: str, dtype: torch.dtype, *, to_train: bool) -> str | None:
    """Name the attention to load a model with; None leaves it to the model, or to `pack`.

    Raises UserError for what this machine or precision does not have.
    """
    cuda = device.startswith("cuda")
    if asked == "flash_attention_2" and not (cuda and importlib.util.find_spec("flash_attn")):
        raise UserError(
            "encoder.attention flash_attention_2: needs a GPU and the package flash-attn; choose auto, sdpa or varlen"
        )
    if asked in PACKED and cuda and not to_train and dtype == torch.float32:
        raise UserError(f"encoder.attention {asked}: on a GPU needs encoder.dtype bfloat16 or float16; or choose sdpa")
    if asked == "auto":
        return "eager" if to_train and not cuda else None
    return None if asked == "varlen" else asked


def pack(asked: Attention, transformer: Any, device: str, dtype: torch.dtype, *, to_train: bool) -> bool:
    """Let a loaded transformer that computes in `dtype` take packed texts where asked for, or (auto) where faster.

    That is so on a CPU in training, on a GPU wherever its kernel can. Raises UserError for a model of which it is not
    known that it can.
    """
    cpu = device == "cpu"
    if asked == "auto":
        if cpu:
            return to_train and packing.enable(transformer)
        return fits(transformer, dtype) and packing.adopt(transformer, "varlen", varlen)
    if asked not in PACKED:
        return False
    if not packing.known(transformer):
        kind = transformer.config.model_type
        raise UserError(f"encoder.attention {asked}: not known for models of type {kind}; choose auto or sdpa")
    if asked == "varlen":
        return packing.enable(transformer) if cpu else packing.adopt(transformer, "varlen", varlen)
    return True


def fits(transformer: Any, dtype: torch.dtype) -> bool:
    """Whether the GPU's kernel for texts of many lengths can compute this model in this precision."""
    if dtype not in (torch.bfloat16, torch.float16) or not packing.known(transformer) or torch.version.hip:
        return False
    width = transformer.config.hidden_size // transformer.config.num_attention_heads
    return width % 8 == 0 and width <= 256 and torch.cuda.get_device_capability() >= (8, 0)


def varlen(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **known: Any,
) -> tuple[Tensor, None]:
    """Attention of packed rows [1, heads, T, d] into [1, T, heads, d]; `known` says where the texts end.

    The operator is the one that torch's nested tensors call, dropout and gradient included; `torch.nn.attention.varlen`
    has no dropout. In float32, in which a model is validated, texts are padded for it.
    """
    ends, longest = known["cu_seq_lens_q"], known["max_length_q"]
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
    if query.dtype == torch.float32:
        return _padded(query, key, value, ends, longest, scaling, dropout)[None], None
    operator = torch.ops.aten._flash_attention_forward
    found = operator(query, key, value, ends, ends, longest, longest, dropout, False, False, scale=scaling)[0]
    assert isinstance(found, Tensor)
    return found[None], None


def _padded(
    query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int, scaling: float | None, dropout: float
) -> Tensor:
    """Attention of packed rows [T, heads, d] each, padded to [B, heads, longest, d] on the way."""
    there = torch.arange(longest, device=ends.device) < ends.diff()[:, None]

    def spread(packed: Tensor) -> Tensor:
        held = packed.new_zeros(*there.shape, *packed.shape[1:])
        held[there] = packed
        return held.transpose(1, 2)

    attend = nn.functional.scaled_dot_product_attention
    mask = there[:, None, None, :]
    found = attend(spread(query), spread(key), spread(value), mask, dropout_p=dropout, scale=scaling)
    return found.transpose(1, 2)[there]
