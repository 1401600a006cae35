"""The books of a generation: documents and queries that were left out by reason, and what it took to make the rest."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pipeline.storage.counts import EXAMPLES

_EXCERPT = 120  # characters of an example


@dataclass
class Ledger:
    """Counts of some documents. Every document has queries or one reason, every query that was made is kept or has one.

    `made` are the queries that were read out of answers, `notes` further counts such as requests and tokens.
    """

    documents: int = 0
    made: int = 0
    documents_left_out: Counter[str] = field(default_factory=Counter)
    queries_left_out: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def leave_out_document(self, reason: str, example: str = "") -> None:
        """Count a document that gets no query, once, under its reason."""
        self.documents_left_out[reason] += 1
        self.add_example(reason, example)

    def leave_out_query(self, reason: str, example: str = "") -> None:
        """Count a query that was made and is not kept, under its reason."""
        self.queries_left_out[reason] += 1
        self.add_example(reason, example)

    def add_example(self, reason: str, example: str) -> None:
        """Keep the first few examples of a reason."""
        of_reason = self.examples.setdefault(reason, []) if example else []
        if example and len(of_reason) < EXAMPLES:
            of_reason.append(example[:_EXCERPT])

    def add(self, other: "Ledger") -> None:
        """Add the books of other documents."""
        self.documents += other.documents
        self.made += other.made
        self.documents_left_out.update(other.documents_left_out)
        self.queries_left_out.update(other.queries_left_out)
        self.notes.update(other.notes)
        for reason, examples in other.examples.items():
            for example in examples:
                self.add_example(reason, example)

    def to_json(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "Ledger":
        """Read what `to_json` returned, after its way through JSON."""
        counters = ("documents_left_out", "queries_left_out", "notes")
        ledger = cls(raw["documents"], raw["made"], examples=dict(raw["examples"]))
        for name in counters:
            getattr(ledger, name).update(raw[name])
        return ledger
