"""ONNX: a model directory's graph for other runtimes, and ONNX Runtime to compute it here."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.core.errors import UserError
from pipeline.encoder.backends.openvino import States, untold
from pipeline.encoder.backends.runtime import STATES, Batch, Take, feed

FILE = "onnx/model.onnx"
OPSET = 17


def export(transformer: torch.nn.Module, names: Sequence[str], path: Path) -> None:
    """Write a float32 transformer as ONNX with dynamic batch and length: what `backend="onnx"` of others loads.

    Raises UserError without the package onnx.
    """
    try:
        import onnx  # noqa: F401  torch writes through it
    except ImportError as error:
        raise UserError("export to onnx: install it with `pip install 'tripletail[onnx]'`") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    example = tuple(torch.ones(2, 8, dtype=torch.long) for _ in names)
    axes = {name: {0: "batch", 1: "length"} for name in (*names, STATES)}
    with torch.inference_mode(), untold():
        torch.onnx.export(
            States(transformer, names).eval(),
            example,
            str(path),
            input_names=list(names),
            output_names=[STATES],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )


def library() -> Any:
    """Import onnxruntime, or raise UserError that names the extra."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("backend onnx: install it with `pip install 'tripletail[onnx]'`") from error
    return onnxruntime


def session(path: Path, threads: int) -> Any:
    """Open a graph in ONNX Runtime."""
    options = library().SessionOptions()
    options.intra_op_num_threads = threads
    return library().InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class OnnxRuntime:
    """A session and the names of its inputs."""

    def __init__(self, path: Path, threads: int) -> None:
        self.label = "onnx"
        self.session = session(path, threads)
        self.names = [one.name for one in self.session.get_inputs()]

    def __call__(self, batches: Sequence[Batch], take: Take) -> None:
        """Compute one batch after the other."""
        for place, batch in enumerate(batches):
            take(place, self.session.run([STATES], feed(self.names, batch))[0])
