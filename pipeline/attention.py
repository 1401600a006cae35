"""Which attention a model computes, and whether its texts are packed: no padding in any layer.

`varlen` packs: on a CPU as pipeline/packing.py does, on a GPU by torch's own kernel (`torch.nn.attention.varlen`: half
precision, no dropout). `flash_attention_2` packs for the package flash-attn. Source: Dao 2023 (arXiv 2307.08691).
"""

import importlib.util
from typing import Any, Literal

import torch
from torch import Tensor

from pipeline import packing
from pipeline.errors import UserError

Attention = Literal["auto", "eager", "sdpa", "flash_attention_2", "varlen"]
PACKED = ("flash_attention_2", "varlen")


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


def pack(asked: Attention, transformer: Any, device: str, *, to_train: bool) -> bool:
    """Let a loaded transformer take packed texts where that was asked for, or (auto) trains faster: on a CPU.

    Raises UserError for a model of which it is not known that it can.
    """
    if asked == "auto":
        return to_train and device == "cpu" and packing.enable(transformer)
    if asked not in PACKED:
        return False
    if not packing.known(transformer):
        kind = transformer.config.model_type
        raise UserError(f"encoder.attention {asked}: not known for models of type {kind}; choose auto or sdpa")
    if asked == "varlen" and device == "cpu":
        return packing.enable(transformer)
    if asked == "varlen":
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        ALL_ATTENTION_FUNCTIONS.register("varlen", varlen)
        transformer.set_attn_implementation("varlen")
    return True


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
    """Attention of packed rows [1, heads, T, d] into [1, T, heads, d]; `known` says where the texts end."""
    from torch.nn.attention.varlen import varlen_attn

    if dropout:
        raise UserError("encoder.attention varlen: on a GPU has no dropout; set loop.dropout 0.0, or choose sdpa")
    if query.dtype == torch.float32:
        raise UserError("encoder.attention varlen: on a GPU needs half precision; set loop.precision or choose sdpa")
    ends, longest = known["cu_seq_lens_q"], known["max_length_q"]
    query, key, value = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
    found = varlen_attn(query, key, value, ends, ends, longest, longest, scale=scaling)
    assert isinstance(found, Tensor)
    return found[None], None
