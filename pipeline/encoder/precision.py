"""The number format in which a model computes."""

from typing import Literal

import torch

Dtype = Literal["auto", "float32", "bfloat16", "float16", "int8"]


def compute_dtype(name: Dtype, device: str) -> torch.dtype:
    """Resolve a precision; auto is bfloat16 where the hardware multiplies it natively, else float32."""
    if name == "int8":
        return torch.float32  # int8 graphs are calibrated from float32 weights
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32
