"""Normalize: vectors scaled to length 1."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from pipeline.encoder.modules.vector_module import VectorModule, require_plain_names, take_keys


class Normalize(VectorModule):
    """x / |x|."""

    @classmethod
    def read(cls, config: Mapping[str, Any], folder: Path) -> Self:
        """Make the module; it has no weights."""
        require_plain_names(take_keys(config, ["module_input_name", "module_output_name"], "Normalize"), "Normalize")
        return cls()

    def forward(self, vectors: Tensor) -> Tensor:
        """Vectors [B, D] into [B, D] of length 1."""
        return nn.functional.normalize(vectors, dim=-1)
