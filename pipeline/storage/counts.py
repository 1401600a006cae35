"""What was read, kept and left out, counted by name: the part of a manifest that one task contributes."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

EXAMPLES = 3


@dataclass
class Counts:
    """Counts of one task; sums of tallies do not depend on how the work was cut, examples follow task order."""

    dropped: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    offenders: list[tuple[int, str, str]] = field(default_factory=list)  # (line in block, reason, detail)
    rows: int = 0  # rows of the input block, good or bad

    def drop(self, reason: str, count: int = 1, example: str | None = None) -> None:
        """Count rows that were left out; the first few examples of a reason are kept."""
        if count:
            self.dropped[reason] += count
        if example:
            self._show(reason, example)

    def offend(self, line: int, reason: str, detail: str = "") -> None:
        """Count one input row that was left out, with its line in the block."""
        self.dropped[reason] += 1
        self._first([(line, reason, detail)])

    def place(self, path: str, first_line: int) -> None:
        """Turn offenders into examples that name the file and the line, once the lines before are known."""
        for line, reason, detail in sorted(self.offenders, key=lambda offender: offender[0]):
            self._show(reason, f"{path}:{first_line + line} {detail or reason.replace('_', ' ')}")
        self.offenders = []

    def add(self, other: "Counts") -> None:
        """Sum another tally into this one."""
        self.dropped.update(other.dropped)
        self.counts.update(other.counts)
        for reason, examples in other.examples.items():
            for example in examples:
                self._show(reason, example)
        self._first(other.offenders)
        self.rows += other.rows

    def _first(self, offenders: list[tuple[int, str, str]]) -> None:
        """Keep the first few offenders of each reason, by line, in whatever order they are met."""
        for line, reason, detail in offenders:
            known = [place for place, (_, name, _) in enumerate(self.offenders) if name == reason]
            if len(known) < EXAMPLES:
                self.offenders.append((line, reason, detail))
            elif line < self.offenders[last := max(known, key=lambda place: self.offenders[place][0])][0]:
                self.offenders[last] = (line, reason, detail)

    def _show(self, reason: str, example: str) -> None:
        shown = self.examples.setdefault(reason, [])
        if len(shown) < EXAMPLES:
            shown.append(example)

    def plain(self) -> dict[str, Any]:
        """Return what JSON can hold of it."""
        return {**vars(self), "dropped": dict(self.dropped), "counts": dict(self.counts)}

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> "Counts":
        """Read what JSON made of `plain`."""
        offenders = [(int(line), str(reason), str(detail)) for line, reason, detail in raw["offenders"]]
        return cls(Counter(raw["dropped"]), Counter(raw["counts"]), dict(raw["examples"]), offenders, raw["rows"])
