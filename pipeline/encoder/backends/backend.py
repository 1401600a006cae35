"""The choice of the runtime that computes a model whose weights do not change any more."""

import importlib.util
from pathlib import Path
from typing import Any, Literal

from pipeline.core.errors import UserError
from pipeline.encoder.backends import onnx, openvino
from pipeline.encoder.backends.runtime import Runtime
from pipeline.storage.artifact import digest
from pipeline.storage.fingerprints import fingerprint_folder

Backend = Literal["auto", "torch", "openvino", "onnx"]


def resolve_backend(backend: Backend, device: str, model_type: str, dtype: str) -> str:
    """Name the backend to use; auto is OpenVINO where it is installed and computes on a CPU, else torch.

    Raises UserError for a backend that cannot compute this model, device or precision.
    """
    if model_type == "static":
        if backend in ("openvino", "onnx"):
            raise UserError(f"encoder.backend {backend}: a static encoder has no graph; choose auto or torch")
        return "torch"
    if backend in ("openvino", "onnx") and device != "cpu":
        raise UserError(f"encoder.backend {backend}: computes on a CPU, the model is on {device}; choose auto or torch")
    if dtype == "int8" and backend not in ("auto", "openvino"):
        raise UserError(f"encoder.dtype int8: is computed by backend openvino, not {backend}; choose backend auto")
    if backend == "onnx" and dtype not in ("auto", "float32"):
        raise UserError(f"encoder.backend onnx: computes float32, not {dtype}; choose openvino")
    if backend != "auto":
        return backend
    if dtype == "int8":
        return "openvino"
    return "openvino" if device == "cpu" and importlib.util.find_spec("openvino") else "torch"


def require_backend(backend: Backend, path: str, device: str, model_type: str, dtype: str) -> None:
    """Raise UserError early for a requested backend whose package or exported file is missing."""
    name = resolve_backend(backend, device, model_type, dtype)
    if name == "onnx":
        _exported_file(path, onnx.FILE, "onnx")
        onnx.import_onnxruntime()
    if name == "openvino":
        openvino.import_openvino()
        if dtype == "int8":
            _exported_file(path, openvino.INT8_FILE, "int8")


def exported_graph(backend: Backend, path: str, dtype: str) -> dict[str, str]:
    """Digest of the graph in a model directory that computes its vectors; empty where its weights do."""
    name = openvino.INT8_FILE if dtype == "int8" else onnx.FILE if backend == "onnx" else None
    if name is None:
        return {}
    graph = Path(path, name)
    parts = [file.name for file in graph.parent.glob(f"{graph.stem}.*")]  # the weights may be a file of their own
    return {"graph": digest([fingerprint_folder(str(graph.parent), parts)])}


def build_runtime(name: str, path: str, transformer: Any, tokenizer: Any, dtype: str, threads: int) -> Runtime | None:
    """Build the runtime of a backend for the model at `path`; None for torch.

    OpenVINO in float and half precision converts the transformer; int8 and ONNX load a graph that was exported.
    """
    if name == "torch":
        return None
    if name == "onnx":
        return onnx.OnnxRuntime(_exported_file(path, onnx.FILE, "onnx"), threads)
    if dtype == "int8":
        file = _exported_file(path, openvino.INT8_FILE, "int8")
        return openvino.OpenVinoRuntime(openvino.read_model(file), dtype, threads)
    graph = openvino.convert(transformer.float(), openvino.input_names(transformer, tokenizer))
    return openvino.OpenVinoRuntime(graph, dtype, threads)


def _exported_file(path: str, name: str, form: str) -> Path:
    file = Path(path) / name
    if not file.exists():
        raise UserError(f"model {path}: holds no {name}; make it with `tripletail export --model {path} --to {form}`")
    return file
