"""What labels, scores and names of splits mean: the settings `grades`, `scale` and `splits`, the same in every source.

A value without a meaning under the recipe is never rounded, cut or ignored: it raises `UnusableRow`, and where such a
value means that the recipe misreads the whole file, its reason is one of `REFUSED`, which ends the build.
"""

import math
from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator

from pipeline.core.config import Config
from pipeline.sources.reading.splits import SPLITS, Split, SplitRule, parse_split
from pipeline.sources.reading.values import identifier, number

MAX_GRADE = 1_000_000
NEARLY = 1e-6  # float32 scores of 1 may be a little above it
REFUSED = ("unknown_split", "fractional_relevance", "score_above_one")


class UnusableRow(ValueError):
    """A row cannot be used: `reason` is what the manifest counts it under, the message says what is wrong."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class GradeConfig(Config):
    """What a source's labels and scores mean."""

    grades: dict[str, float] = Field(
        default={}, description="what labels count: relevance {E: 3, I: 0}, or score of a labelled pair {'yes': 1}"
    )
    scale: float = Field(
        default=1.0, gt=0, description="divide scores, and relevance that is a fraction, by this: 5 takes 0..5 to 0..1"
    )

    @field_validator("grades", mode="before")
    @classmethod
    def _fold_grades(cls, grades: Any) -> Any:
        return _folded(grades)

    def grade(self, value: Any, name: str = "relevance") -> int:
        """Return relevance as a whole number, from a number or from a label in `grades`.

        Raises UnusableRow for a fraction, which would have to be rounded.
        """
        label = _label(value)
        exact = self.grades[label] if label in self.grades else number(value, name) / self.scale
        grade = round(exact)
        if abs(exact - grade) > NEARLY:
            raise UnusableRow(
                "fractional_relevance",
                f"{name} {value} is a fraction; give whole grades by `grades`, as {{'0.5': 1, '1.0': 2}}, or divide by "
                "`scale`: 0.25 takes 0.25, 0.5 and 1 to 1, 2 and 4",
            )
        if abs(grade) > MAX_GRADE:
            raise ValueError(f"{name} {grade} is beyond {MAX_GRADE}")
        return grade

    def score(self, value: Any, name: str = "score") -> float:
        """Return the score of a labelled pair, from 0 to 1; raises UnusableRow for any other, after `scale`."""
        label = _label(value)
        score = self.grades[label] if label in self.grades else number(value, name) / self.scale
        if score > 1 + NEARLY:
            raise UnusableRow(
                "score_above_one",
                f"{name} {value} is above 1; divide by `scale` (5 where 5 is the most), or say what classes count by "
                "`grades`, as {'0': 1, '1': 0.5, '2': 0}",
            )
        if score < 0 or not math.isfinite(score):
            raise UnusableRow("unreadable_row", f"{name} {value} is not between 0 and 1; see `grades` and `scale`")
        return min(score, 1.0)


class LabelConfig(GradeConfig):
    """What a source's labels, scores and names of splits mean."""

    splits: dict[str, SplitRule] = Field(
        default={}, description="split of names that are none, as {test_hard: test}; hash: by the hash of the group"
    )

    @field_validator("splits", mode="before")
    @classmethod
    def _fold_splits(cls, splits: Any) -> Any:
        return _folded(splits)

    def split_of(self, value: Any, where: str = "split") -> Split | None:
        """Return the split that a name stands for, None for one that is assigned by hash.

        Raises UnusableRow for a name that is no split and that `splits` does not map.
        """
        name = identifier(value, where)
        rule = self.splits.get(_label(name)) or parse_split(name)
        if rule is None:
            raise UnusableRow(
                "unknown_split",
                f"{where} {name!r} is none of {', '.join(SPLITS)}; say what it stands for, as "
                f"`splits: {{{name}: test}}` (or hash: assigned by hash)",
            )
        return None if rule == "hash" else rule


def _folded(mapping: Any) -> Any:
    """A mapping by label: YAML reads `yes`, `True` and `1` as values that are no strings."""
    if not isinstance(mapping, Mapping):
        return mapping
    folded = {_label(key): value for key, value in mapping.items()}
    if len(folded) < len(mapping):
        raise ValueError(f"{', '.join(map(str, mapping))}: two of these are one label")
    return folded


def _label(value: Any) -> str:
    """A label as `grades` names it: 1.0 is 1, True is true, and case does not matter."""
    name = str(value).strip().casefold()
    digits, dot, zeros = name.partition(".")
    return digits if dot and digits.lstrip("-").isdigit() and not zeros.strip("0") else name
