"""Dropout: in training, values of a vector dropped at random."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from pipeline.encoder.modules.vector_module import VectorModule, take_keys


class Dropout(VectorModule):
    """torch's Dropout."""

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.dropout_layer = nn.Dropout(dropout)

    @classmethod
    def read(cls, config: Mapping[str, Any], folder: Path) -> Self:
        """Make the module; it has no weights."""
        return cls(**take_keys(config, ["dropout"], "Dropout"))

    def forward(self, vectors: Tensor) -> Tensor:
        """Vectors [B, D] into [B, D]."""
        output: Tensor = self.dropout_layer(vectors)
        return output

    def settings(self) -> dict[str, Any]:
        """The share that is dropped."""
        return {"dropout": self.dropout_layer.p}
