"""ONNX: a transformer exported as a graph that other programs load too, computed here by ONNX Runtime."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.core.errors import UserError
from pipeline.encoder.backends.openvino import TracedTransformer, quiet_tracing
from pipeline.encoder.backends.runtime import STATES, Batch, OnStates, graph_inputs

FILE = "onnx/model.onnx"
OPSET = 17


def export(transformer: torch.nn.Module, names: Sequence[str], path: Path) -> None:
    """Write a float32 transformer as ONNX with dynamic batch and length, as Sentence Transformers' backend reads it.

    Raises UserError without the package onnx.
    """
    try:
        import onnx  # noqa: F401  torch writes through it
    except ImportError as error:
        raise UserError("export to onnx: install it with `pip install 'tripletail[onnx]'`") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    example = tuple(torch.ones(2, 8, dtype=torch.long) for _ in names)
    axes = {name: {0: "batch", 1: "length"} for name in (*names, STATES)}
    with torch.inference_mode(), quiet_tracing():
        torch.onnx.export(
            TracedTransformer(transformer, names).eval(),
            example,
            str(path),
            input_names=list(names),
            output_names=[STATES],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )


def import_onnxruntime() -> Any:
    """Import onnxruntime, or raise UserError that names the extra."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("backend onnx: install it with `pip install 'tripletail[onnx]'`") from error
    return onnxruntime


def open_session(path: Path, threads: int) -> Any:
    """Open a graph in ONNX Runtime."""
    options = import_onnxruntime().SessionOptions()
    options.intra_op_num_threads = threads
    return import_onnxruntime().InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class OnnxRuntime:
    """An ONNX Runtime session and the names of its inputs."""

    def __init__(self, path: Path, threads: int) -> None:
        self.label = "onnx"
        self.session = open_session(path, threads)
        self.names = [node.name for node in self.session.get_inputs()]

    def __call__(self, batches: Sequence[Batch], on_states: OnStates) -> None:
        """Compute one batch after the other."""
        for index, batch in enumerate(batches):
            on_states(index, self.session.run([STATES], graph_inputs(self.names, batch))[0])
