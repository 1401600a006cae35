"""OpenVINO: the fastest runtime for a transformer on a CPU, in float32, bfloat16 or calibrated int8.

Two streams of requests keep all threads busy; each takes the next batch as soon as it is free.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pipeline.core.errors import UserError
from pipeline.encoder.backends.runtime import INPUTS, STATES, Batch, OnStates, graph_inputs
from pipeline.encoder.transformer_inputs import takes_token_types

FILE = "openvino/openvino_model.xml"
INT8_FILE = "openvino/openvino_model_int8.xml"
_HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "int8": "bf16"}


class TracedTransformer(torch.nn.Module):
    """A transformer as graphs are traced from it: positional inputs, and token states as the only output."""

    def __init__(self, transformer: torch.nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.transformer, self.names = transformer, tuple(names)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Inputs [B, L] each into token states [B, L, H]."""
        states: torch.Tensor = self.transformer(**dict(zip(self.names, inputs, strict=True))).last_hidden_state
        return states


def import_openvino() -> Any:
    """Import openvino, or raise UserError that names the extra."""
    try:
        import openvino
    except ImportError as error:
        raise UserError("backend openvino: install it with `pip install 'tripletail[openvino]'`") from error
    return openvino


def convert(transformer: torch.nn.Module, names: Sequence[str]) -> Any:
    """Convert a float32 transformer to an OpenVINO model of dynamic batch and length."""
    openvino = import_openvino()
    example = tuple(torch.ones(2, 8, dtype=torch.long) for _ in names)
    shapes = [openvino.PartialShape([-1, -1])] * len(names)
    with torch.inference_mode(), quiet_tracing():
        model = openvino.convert_model(
            TracedTransformer(transformer, names).eval(), example_input=example, input=shapes
        )
    for port, name in zip(model.inputs, names, strict=True):
        port.set_names({name})
    model.output(0).set_names({STATES})
    return model


@contextmanager
def quiet_tracing() -> Iterator[None]:
    """Silence warnings about what tracing makes constant: branches on the model's settings, equal for all batches."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        warnings.filterwarnings("ignore", message="Exporting aten::index")
        yield


def compile_model(model: Any, dtype: str, threads: int, streams: int) -> Any:
    """Compile a model for the CPU.

    Threads may move between cores: pinned ones begin at the first core in every process, so that several actors of a
    machine would share that one.
    """
    settings = {
        "INFERENCE_PRECISION_HINT": _HINTS[dtype],
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": streams,
        "ENABLE_CPU_PINNING": False,
    }
    return import_openvino().Core().compile_model(model, "CPU", settings)


class OpenVinoRuntime:
    """A compiled model and its queue of requests."""

    def __init__(self, model: Any, dtype: str, threads: int) -> None:
        self.label = "openvino"
        streams = min(2, threads)
        self.model = compile_model(model, dtype, threads, streams)
        self.names = [port.get_any_name() for port in self.model.inputs]
        self.queue = import_openvino().AsyncInferQueue(self.model, streams)

    def __call__(self, batches: Sequence[Batch], on_states: OnStates) -> None:
        """Compute every batch, as many at once as there are streams; an error in a callback is raised here."""
        self.queue.set_callback(lambda request, index: on_states(index, request.get_output_tensor(0).data))
        for index, batch in enumerate(batches):
            self.queue.start_async(graph_inputs(self.names, batch), index)
        self.queue.wait_all()


def read_model(path: Path) -> Any:
    """Read a graph that was exported before."""
    return import_openvino().Core().read_model(str(path))


def input_names(transformer: Any, tokenizer: Any) -> list[str]:
    """Names of the inputs of a transformer with this tokenizer."""
    return [*INPUTS[:2], *(INPUTS[2:] if takes_token_types(transformer, tokenizer) else ())]
