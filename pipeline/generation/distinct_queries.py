"""The queries of one document that stay: the first ones that can be used, each once; every other one has a reason."""

from dataclasses import dataclass, field

from pipeline.generation.generator import Document, Query
from pipeline.generation.ledger import Ledger
from pipeline.text.normalize import folded


@dataclass
class DistinctQueries:
    """Up to `count` queries of a document, which differ in more than case; those that are left out are counted."""

    document: Document
    count: int
    ledger: Ledger
    by_text: dict[str, Query] = field(default_factory=dict)

    def add(self, query: Query, reason: str) -> None:
        """Take a query in normal form, or count it: under a reason that it has already, as repeated, or as surplus."""
        if not reason and folded(query.text) in self.by_text:
            reason = "repeated_query"
        if not reason and len(self.by_text) == self.count:
            reason = "surplus_query"
        if reason:
            self.ledger.leave_out_query(reason, f"{self.document.id}: {query.text}")
        else:
            self.by_text[folded(query.text)] = query
