"""Dense: a linear layer with an activation, as LaBSE, EmbeddingGemma, sentence-t5 and distiluse have it."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from pipeline.core.errors import UserError
from pipeline.encoder.modules.vector_module import VectorModule, load_weights, require_plain_names, take_keys

_KEYS = (
    "in_features",
    "out_features",
    "bias",
    "activation_function",
    "module_input_name",
    "module_output_name",
    "use_residual",
)
_DEFAULT_ACTIVATION = "torch.nn.modules.activation.Tanh"


class Dense(VectorModule):
    """activation(x W^T + b) [B, E], to which a residual may add x, projected where the widths differ."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        activation: str = _DEFAULT_ACTIVATION,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features, bias=bias)
        self.activation_function, self.activation_name = _activation(activation), activation
        self.adds_input = residual
        if residual and in_features != out_features:
            self.residual = nn.Linear(in_features, out_features, bias=False)

    @classmethod
    def read(cls, config: Mapping[str, Any], folder: Path) -> Self:
        """Make the layer; raises UserError for unknown keys, other activations than torch's, and other shapes."""
        stated = take_keys(config, _KEYS, "Dense")
        require_plain_names(stated, "Dense")
        try:
            module = cls(
                stated["in_features"],
                stated["out_features"],
                bias=stated.get("bias", True),
                activation=stated.get("activation_function") or _DEFAULT_ACTIVATION,
                residual=stated.get("use_residual", False),
            )
        except KeyError as error:
            raise UserError(f"Dense: its settings lack {error}") from error
        load_weights(module, folder, "Dense")
        return module

    def forward(self, vectors: Tensor) -> Tensor:
        """Vectors [B, D] into [B, E]."""
        output: Tensor = self.activation_function(self.linear(vectors))
        if not self.adds_input:
            return output
        return output + (self.residual(vectors) if hasattr(self, "residual") else vectors)

    def settings(self) -> dict[str, Any]:
        """Widths, bias and activation."""
        linear = self.linear
        settings: dict[str, Any] = {"in_features": linear.in_features, "out_features": linear.out_features}
        settings |= {"bias": linear.bias is not None, "activation_function": self.activation_name}
        return settings | ({"use_residual": True} if self.adds_input else {})

    def width(self, width: int) -> int:
        """Width of the layer's output; raises UserError where it takes another width."""
        if width != self.linear.in_features:
            raise UserError(f"Dense: takes {self.linear.in_features} dimensions, what comes before it has {width}")
        return int(self.linear.out_features)


def _activation(name: str) -> nn.Module:
    """Make an activation of torch by its full name, such as torch.nn.modules.activation.Tanh.

    Raises UserError for any other name: settings may not choose code to run.
    """
    found = getattr(torch.nn, name.rsplit(".", 1)[-1], None) if name.startswith("torch.nn.") else None
    if not (inspect.isclass(found) and issubclass(found, nn.Module)) or name not in (
        f"torch.nn.{found.__name__}",
        f"{found.__module__}.{found.__name__}",
    ):
        raise UserError(f"Dense: activation_function {name!r} is not supported; those of torch.nn are")
    try:
        return found()
    except TypeError as error:
        raise UserError(f"Dense: activation_function {name!r} needs settings of its own") from error
