"""The attention implementation that a model computes, and whether its texts are packed (laid end to end, no padding).

`varlen` packs: on a CPU as packing.py does, on a GPU by the variable-length kernel that torch brings (half precision),
which `auto` takes where it can. `flash_attention_2` packs for the package flash-attn. Source: Dao 2023
(arXiv 2307.08691).
"""

import importlib.util
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.core.errors import UserError
from pipeline.core.progress import say_once
from pipeline.encoder import packing

Attention = Literal["auto", "eager", "sdpa", "flash_attention_2", "varlen"]
PACKED = ("flash_attention_2", "varlen")


def disable_cudnn_attention(device: str) -> None:
    """Turn off cuDNN's attention on a GPU, which plans each new shape of a batch for about 60 ms."""
    if device.startswith("cuda"):
        torch.backends.cuda.enable_cudnn_sdp(False)


def resolve_attention(attention: Attention, device: str, dtype: torch.dtype, *, to_train: bool) -> str | None:
    """Name the attention implementation to load a model with; None leaves it to the model, or to packed texts.

    Raises UserError for what this machine or precision does not have.
    """
    cuda = device.startswith("cuda")
    if attention == "flash_attention_2" and not (cuda and importlib.util.find_spec("flash_attn")):
        raise UserError(
            "encoder.attention flash_attention_2: needs a GPU and the package flash-attn; choose auto, sdpa or varlen"
        )
    if attention in PACKED and cuda and not to_train and dtype == torch.float32:
        raise UserError(
            f"encoder.attention {attention}: on a GPU needs encoder.dtype bfloat16 or float16; or choose sdpa"
        )
    if attention == "auto":
        return "eager" if to_train and not cuda else None
    return None if attention == "varlen" else attention


def use_packed_attention(
    attention: Attention, transformer: Any, device: str, dtype: torch.dtype, *, to_train: bool
) -> bool:
    """Let a loaded transformer that computes in `dtype` take packed texts, where requested or (auto) where faster.

    Packing is faster on a CPU in training, and on a GPU wherever its kernel can compute the model. Returns whether the
    transformer takes packed texts from now on. Raises UserError for an architecture that cannot be packed.
    """
    cpu = device == "cpu"
    if attention == "auto":
        if (cpu and to_train) or not cpu:
            _say_padded(transformer)
        if cpu:
            return to_train and packing.enable_packing(transformer)
        return supports_varlen(transformer, dtype) and _use_varlen(transformer)
    if attention not in PACKED:
        return False
    if not packing.supports_packing(transformer):
        model_type = transformer.config.model_type
        raise UserError(
            f"encoder.attention {attention}: not known for models of type {model_type}; choose auto or sdpa"
        )
    if attention == "varlen":
        return packing.enable_packing(transformer) if cpu else _use_varlen(transformer)
    return True


def _say_padded(transformer: Any) -> None:
    """Say, once a process, that an architecture's texts are padded because packing does not know it."""
    if not packing.supports_packing(transformer):
        own, kind = packing.has_own_code(transformer), transformer.config.model_type
        unknown = "the model's own code" if own else f"models of type {kind}"
        say_once(f"encoder: texts are padded: packing does not know {unknown}")


def _use_varlen(transformer: Any) -> bool:
    return packing.register_attention(transformer, "varlen", varlen_attention)


def supports_varlen(transformer: Any, dtype: torch.dtype) -> bool:
    """Whether the GPU's variable-length kernel can compute this model in this precision."""
    if dtype not in (torch.bfloat16, torch.float16) or not packing.supports_packing(transformer) or torch.version.hip:
        return False
    config = transformer.config
    if getattr(config, "attn_logit_softcapping", None):
        return False
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return head_dim % 8 == 0 and head_dim <= 256 and torch.cuda.get_device_capability() >= (8, 0)


def varlen_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of packed texts [1, heads, T, d] into [1, T, heads, d]; `kwargs` holds the texts' boundaries.

    The operator is the one that torch's nested tensors call, dropout and gradient included; `torch.nn.attention.varlen`
    has no dropout. In float32, in which a model is validated, the texts are padded for it.
    """
    boundaries, longest = kwargs["cu_seq_lens_q"], kwargs["max_length_q"]
    band = packing.Band.of(module, kwargs.get("sliding_window"))
    key, value = (packing.share_heads(column, query.shape[1]) for column in (key, value))
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
    if query.dtype == torch.float32:
        return _padded_attention(query, key, value, boundaries, longest, scaling, dropout, band)[None], None
    operator = torch.ops.aten._flash_attention_forward
    left = None if band.window is None else band.window - 1
    output = operator(
        *(query, key, value, boundaries, boundaries, longest, longest, dropout, band.causal, False),
        scale=scaling,
        window_size_left=left,
        window_size_right=0 if band.causal and left is not None else left,
    )[0]
    assert isinstance(output, Tensor)
    return output[None], None


def _padded_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    boundaries: Tensor,
    longest: int,
    scaling: float | None,
    dropout: float,
    band: packing.Band,
) -> Tensor:
    """Attention of packed texts [T, heads, d] each, padded to [B, heads, longest, d] on the way."""
    mask = torch.arange(longest, device=boundaries.device) < boundaries.diff()[:, None]

    def pad(packed: Tensor) -> Tensor:
        padded = packed.new_zeros(*mask.shape, *packed.shape[1:])
        padded[mask] = packed
        return padded.transpose(1, 2)

    attend = nn.functional.scaled_dot_product_attention
    distance = torch.arange(longest, device=mask.device)
    distance = distance[:, None] - distance
    seen = mask[:, None, None, :]
    if band != packing.EVERYTHING:
        near = (distance.abs() < (band.window or longest)) & (distance >= (0 if band.causal else -longest))
        seen = (seen & near) | (distance == 0)
    output = attend(pad(query), pad(key), pad(value), seen, dropout_p=dropout, scale=scaling)
    return output.transpose(1, 2)[mask]
