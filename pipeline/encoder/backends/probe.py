"""A runtime is compared with torch on the shortest beside the longest text before it is trusted with a model.

Padded windows without a token gave no numbers in one runtime (ModernBERT, Mistral), which only texts of very different
lengths in one batch show.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import UserError
from pipeline.core.progress import say
from pipeline.encoder.backends.runtime import Runtime
from pipeline.storage.vectors import cosines

Floats = npt.NDArray[np.float32]
MIN_COSINES = {"float32": 0.9999, "bfloat16": 0.98, "float16": 0.98, "int8": 0.9}
_LENGTH = 256  # tokens of the longest text of a probe, if no window of attention is wider


def probe_length(config: Any, max_length: int) -> int:
    """Tokens of the longest text of a probe: twice a window of attention, where the model has one."""
    windows = [getattr(config, name, None) or 0 for name in ("sliding_window", "local_attention")]
    return min(max_length, max(_LENGTH, 2 * max(int(window) for window in windows)))


def difference(expected: Floats, found: Floats, dtype: str) -> str | None:
    """Say how vectors [N, D] of a runtime differ from torch's; None where they do not, for their precision."""
    if not np.isfinite(found).all():
        return "gives numbers that are not finite"
    cosine = float(cosines(expected, found).min())
    return None if cosine >= MIN_COSINES[dtype] else f"gives other vectors than torch (cosine {cosine:.4f})"


def trusted(
    name: str,
    dtype: str,
    build: Callable[[], Runtime | None],
    by_torch: Callable[[], Floats],
    by_runtime: Callable[[Runtime], Floats],
) -> Runtime | None:
    """Build a runtime and compare it with torch; None, and a line that says why, where torch has to compute.

    Raises UserError where a runtime that is asked for is not there, and for int8, which torch does not compute.
    """
    try:
        runtime = build()
        if runtime is None:
            return None
        reason = difference(by_torch(), by_runtime(runtime), dtype)
    except UserError:
        raise
    except Exception as error:  # whatever a converter raises for an architecture that it does not know
        runtime, reason = None, f"does not take it: {' '.join(str(error).split())[:200] or type(error).__name__}"
    if reason is None:
        return runtime
    if dtype == "int8":
        raise UserError(f"encoder.dtype int8: {name} {reason}; choose encoder.dtype bfloat16 or float32")
    say(f"encoder: torch computes this model: {name} {reason}")
    return None
