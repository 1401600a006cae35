"""Lines that are JSON objects."""

import json
from typing import Any


def parse_object(raw: bytes) -> dict[str, Any] | str:
    """Parse one line as a JSON object, or say in words why it is none."""
    try:
        row: Any = json.loads(raw)
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    return row if isinstance(row, dict) else f"expected a JSON object, got {type(row).__name__}"
