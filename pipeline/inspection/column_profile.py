"""What the columns of a raw file hold: types and shapes of their values, the share of empty ones, and an example."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from pipeline.sources.reading.sample import FileSample


@dataclass(frozen=True)
class ColumnProfile:
    """One column: its shapes by how often they occur, share of empty values, median length of texts, first value."""

    name: str
    shapes: Counter[str]
    empty: float
    length: float
    example: Any


def profile(sample: FileSample) -> list[ColumnProfile]:
    """Profile every column over the first rows."""
    return [_column(name, [row.get(name) for row in sample.rows]) for name in sample.columns]


def _column(name: str, values: Sequence[Any]) -> ColumnProfile:
    filled = [value for value in values if not _is_empty(value)]
    texts = [value for value in filled if isinstance(value, str)]
    return ColumnProfile(
        name,
        Counter(map(shape_of, filled)),
        1 - len(filled) / len(values) if values else 0.0,
        median(map(len, texts)) if texts else 0.0,
        filled[0] if filled else None,
    )


def _is_empty(value: Any) -> bool:
    return value is None or value in ("", [], {}) or (isinstance(value, str) and not value.strip())


def shape_of(value: Any) -> str:
    """Name the shape of a value: text, number, yes or no, list of texts, object of some fields."""
    if isinstance(value, bool):
        return "yes or no"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return _shape_of_text(value)
    if isinstance(value, list | tuple):
        inside = {shape_of(item) for item in value}
        return f"list of {' or '.join(sorted(inside))}" if inside else "empty list"
    if isinstance(value, dict):
        return f"object of {', '.join(list(value)[:6])}" + (", ..." if len(value) > 6 else "")
    return type(value).__name__


def _shape_of_text(text: str) -> str:
    if text.strip().lower() in ("true", "false"):
        return "yes or no, as text"
    try:
        float(text)
    except ValueError:
        return "HTML" if text.lstrip().startswith("<") or "</" in text else "text"
    return "number, as text"
