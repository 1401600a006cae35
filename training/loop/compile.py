"""torch.compile of the transformer: dynamic shapes, one graph without breaks, never a silent fallback to eager.

The module is compiled in place, so that names of weights and saved files do not change. Random numbers are drawn as in
eager mode, so that the gradient cache can replay dropout.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pipeline.core.errors import UserError

GRAPHS = 64  # with and without padding, in training, validation and both passes of the gradient cache


def compile_transformer(transformer: torch.nn.Module, device: str) -> None:
    """Compile a transformer in place; each new kind of call costs tens of seconds, once.

    Raises UserError on a CPU without a C++ compiler.
    """
    import torch._dynamo as dynamo
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    if device == "cpu":
        try:
            get_cpp_compiler()
        except InvalidCxxCompiler as error:
            raise UserError("loop.compile: on a CPU needs a C++ compiler; install g++, or leave it out") from error
    settings: Any = dynamo.config
    settings.recompile_limit = GRAPHS
    settings.optimize_ddp = False  # it would cut the graph at DDP's buckets
    transformer.compile(dynamic=True, fullgraph=True, options={"fallback_random": True})


@contextmanager
def explain_failures() -> Iterator[None]:
    """Raise UserError naming the setting where the model cannot be compiled."""
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"loop.compile: this model cannot be compiled ({reason[:200]}); leave it out") from error
