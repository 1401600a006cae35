"""LayerNorm: vectors scaled to mean 0 and deviation 1, with weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from pipeline.core.errors import UserError
from pipeline.encoder.modules.vector_module import VectorModule, load_weights, take_keys


class LayerNorm(VectorModule):
    """torch's LayerNorm over the dimensions of a vector."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dimension)

    @classmethod
    def read(cls, config: Mapping[str, Any], folder: Path) -> Self:
        """Make the layer and load its weights."""
        stated = take_keys(config, ["dimension"], "LayerNorm")
        if "dimension" not in stated:
            raise UserError("LayerNorm: its settings lack 'dimension'")
        module = cls(stated["dimension"])
        load_weights(module, folder, "LayerNorm")
        return module

    def forward(self, vectors: Tensor) -> Tensor:
        """Vectors [B, D] into [B, D]."""
        output: Tensor = self.norm(vectors)
        return output

    def settings(self) -> dict[str, Any]:
        """The width."""
        return {"dimension": self.norm.normalized_shape[0]}

    def width(self, width: int) -> int:
        """The same width; raises UserError for another than the layer's."""
        if width != self.norm.normalized_shape[0]:
            raise UserError(f"LayerNorm: takes {self.norm.normalized_shape[0]} dimensions, not {width}")
        return width
