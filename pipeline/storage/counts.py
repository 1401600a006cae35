"""Counts of what was read, kept and left out, by name: the part of a manifest that one task contributes."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

EXAMPLES = 3
_EXCERPT = 60  # characters of a text that an example shows


@dataclass
class Counts:
    """Counts of one task; sums do not depend on how the work was cut, examples follow task order.

    Input rows are accounted for apart from what is made of them: of `counts["rows"]` rows read, each is used or stands
    once in `unused`, under the first reason why it is not. `dropped` has these rows too, and beside them all records
    that were left out later (duplicates, judgments without a document), of which a row may give several.
    """

    dropped: Counter[str] = field(default_factory=Counter)
    unused: Counter[str] = field(default_factory=Counter)  # input rows, by the first reason
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    offenders: list[tuple[int, str, str]] = field(default_factory=list)  # (line in block, reason, detail)
    unread: set[str] = field(default_factory=set)  # fields of the input that nothing is read from
    rows: int = 0  # lines of the input block, good or bad, by which offenders are named

    def drop(self, reason: str, count: int = 1, example: str | None = None) -> None:
        """Count records that were left out; the first few examples of a reason are kept."""
        if count:
            self.dropped[reason] += count
        if example:
            self._add_example(reason, example)

    def skip(self, reason: str, count: int = 1, example: str | None = None) -> None:
        """Count input rows that are not used, where no line is to be shown for them."""
        if count:
            self.unused[reason] += count
        self.drop(reason, count, example)

    def offend(self, line: int, reason: str, detail: str = "") -> None:
        """Count one input row that is not used, with its line in the block; once for a row, by the first reason."""
        self.unused[reason] += 1
        self.drop_at(line, reason, detail)

    def drop_at(self, line: int, reason: str, detail: str = "") -> None:
        """Count one record that was left out, with the line in the block of its row, which is used all the same."""
        self.dropped[reason] += 1
        self._add_offenders([(line, reason, detail)])

    def note(self, line: int, name: str, detail: str) -> None:
        """Count something about an input row that is used, with its line in the block."""
        self.counts[name] += 1
        self._add_offenders([(line, name, detail)])

    def note_change(self, line: int, name: str, before: str, after: str) -> None:
        """Count a text that was changed on the way in; the example shows where it differs."""
        self.counts[name] += 1
        lines = [known for known, reason, _ in self.offenders if reason == name]
        if len(lines) < EXAMPLES or line < max(lines):
            start = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(after))
            part = slice(max(0, min(start - 10, len(before) - _EXCERPT)), start + _EXCERPT)
            self._add_offenders([(line, name, f"{before[part]!r} became {after[part]!r}")])

    def locate_offenders(self, path: str, first_line: int) -> None:
        """Turn offenders into examples that name the file and the line, once the lines before are known."""
        for line, reason, detail in sorted(self.offenders, key=lambda offender: offender[0]):
            self._add_example(reason, f"{path}:{first_line + line} {detail or reason.replace('_', ' ')}")
        self.offenders = []

    def add(self, other: "Counts") -> None:
        """Add the counts of another task."""
        self.dropped.update(other.dropped)
        self.unused.update(other.unused)
        self.counts.update(other.counts)
        for reason, examples in other.examples.items():
            for example in examples:
                self._add_example(reason, example)
        self._add_offenders(other.offenders)
        self.unread |= other.unread
        self.rows += other.rows

    def records_dropped(self) -> Counter[str]:
        """Records that were left out, by reason, without the input rows that are not used."""
        return self.dropped - self.unused

    def _add_offenders(self, offenders: list[tuple[int, str, str]]) -> None:
        """Keep the first few offenders of each reason, by line, in whatever order they are met."""
        for line, reason, detail in offenders:
            same = [index for index, (_, name, _) in enumerate(self.offenders) if name == reason]
            if len(same) < EXAMPLES:
                self.offenders.append((line, reason, detail))
            elif line < self.offenders[last := max(same, key=lambda index: self.offenders[index][0])][0]:
                self.offenders[last] = (line, reason, detail)

    def _add_example(self, reason: str, example: str) -> None:
        examples = self.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            examples.append(example)

    def to_json(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        counters = {name: dict(getattr(self, name)) for name in ("dropped", "unused", "counts")}
        return {**vars(self), **counters, "unread": sorted(self.unread)}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "Counts":
        """Read what `to_json` returned, after its way through JSON."""
        return cls(
            dropped=Counter(raw["dropped"]),
            unused=Counter(raw["unused"]),
            counts=Counter(raw["counts"]),
            examples=dict(raw["examples"]),
            offenders=[(int(line), str(reason), str(detail)) for line, reason, detail in raw["offenders"]],
            unread=set(raw["unread"]),
            rows=raw["rows"],
        )
