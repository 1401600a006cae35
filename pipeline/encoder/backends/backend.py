"""Which runtime computes a model whose weights do not change any more."""

import importlib.util
from pathlib import Path
from typing import Any, Literal

from pipeline.core.errors import UserError
from pipeline.encoder.backends import onnx, openvino
from pipeline.encoder.backends.runtime import Runtime

Backend = Literal["auto", "torch", "openvino", "onnx"]


def choose(asked: Backend, device: str, kind: str, dtype: str) -> str:
    """Resolve a backend: auto is OpenVINO where it is installed and computes on a CPU, else torch.

    Raises UserError for what does not go together.
    """
    if kind == "static":
        if asked in ("openvino", "onnx"):
            raise UserError(f"encoder.backend {asked}: a static encoder has no graph; choose auto or torch")
        return "torch"
    if asked in ("openvino", "onnx") and device != "cpu":
        raise UserError(f"encoder.backend {asked}: computes on a CPU, the model is on {device}; choose auto or torch")
    if dtype == "int8" and asked not in ("auto", "openvino"):
        raise UserError(f"encoder.dtype int8: is computed by backend openvino, not {asked}; choose backend auto")
    if asked == "onnx" and dtype not in ("auto", "float32"):
        raise UserError(f"encoder.backend onnx: computes float32, not {dtype}; choose openvino")
    if asked != "auto":
        return asked
    if dtype == "int8":
        return "openvino"
    return "openvino" if device == "cpu" and importlib.util.find_spec("openvino") else "torch"


def check(asked: Backend, folder: str, device: str, kind: str, dtype: str) -> None:
    """Raise UserError early for a runtime that was asked for and cannot be had: package or file missing."""
    name = choose(asked, device, kind, dtype)
    if name == "onnx":
        _exported(folder, onnx.FILE, "onnx")
        onnx.library()
    if name == "openvino":
        openvino.library()
        if dtype == "int8":
            _exported(folder, openvino.INT8_FILE, "int8")


def build(name: str, folder: str, transformer: Any, tokenizer: Any, dtype: str, threads: int) -> Runtime | None:
    """Build a runtime for the model of a directory; None for torch.

    A graph that the directory holds is used where it is of the same weights; OpenVINO in int8 and ONNX need one.
    """
    if name == "torch":
        return None
    if name == "onnx":
        return onnx.OnnxRuntime(_exported(folder, onnx.FILE, "onnx"), threads)
    if dtype == "int8":
        path = _exported(folder, openvino.INT8_FILE, "int8")
        return openvino.OpenVino(openvino.read(path), dtype, threads)
    graph = openvino.graph(transformer.float(), openvino.inputs_of(tokenizer))
    return openvino.OpenVino(graph, dtype, threads)


def _exported(folder: str, name: str, form: str) -> Path:
    path = Path(folder) / name
    if not path.exists():
        raise UserError(
            f"model {folder}: holds no {name}; make it with `python -m scripts.export --model {folder} --to {form}`"
        )
    return path
