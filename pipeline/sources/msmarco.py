"""MS MARCO training triples: query, relevant passage and irrelevant passage, as texts or as ids, tab-separated.

The collection, the queries and the qrels beside them are tables: `csv` without quotes, with `columns`.
"""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from pipeline.sources.reading import lines
from pipeline.sources.reading.mapping import derived_id
from pipeline.sources.reading.paths import Paths
from pipeline.sources.reading.record import Block, Parsed, chunks
from pipeline.sources.reading.sample import FileSample, Settings
from pipeline.sources.reading.splits import Split


class MsMarco(Paths):
    """Triples; the first passage is judged `relevance`, the second 0."""

    type: Literal["msmarco"] = "msmarco"
    ids: bool = Field(default=False, description="the columns are ids of texts that other sources have")
    relevance: int = Field(default=1, ge=1, description="relevance of the relevant passage")
    split: Split | None = Field(default=None, description="force all rows into one split")

    @classmethod
    def recognise(cls, sample: FileSample) -> list[Settings]:
        """Lines of three texts between tabs, without a header."""
        is_triples = sample.format == "csv" and not sample.header and len(sample.columns) == 3
        texts = is_triples and all(not text.replace(".", "").isdigit() for row in sample.rows for text in row.values())
        return [{"path": sample.path}] if texts and sample.start.partition(b"\n")[0].count(b"\t") == 2 else []

    def parse(self, block: Block) -> Iterator[Parsed]:
        """Read the lines that start in the block."""

        def take(row: tuple[int, tuple[int, bytes]], parsed: Parsed) -> None:
            line, (offset, raw) = row
            if not raw.strip():
                return
            parsed.tally.counts["rows"] += 1
            try:
                query, positive, negative = (cell.strip() for cell in raw.decode("utf-8").split("\t"))
            except UnicodeDecodeError as error:
                parsed.tally.offend(line, "unreadable_row", f"not UTF-8: {error.reason} at byte {error.start}")
            except ValueError:
                tabs = raw.count(b"\t")
                parsed.tally.offend(line, "unreadable_row", f"{tabs + 1} columns, wanted 3")
            else:
                self._triple((query, positive, negative), line, block.order(offset), parsed)

        return chunks(enumerate(lines.read(block), 1), take)

    def _triple(self, cells: tuple[str, str, str], line: int, order: int, parsed: Parsed) -> None:
        if not all(cells):
            parsed.tally.offend(line, "missing_field", "a column of the triple is empty")
            return
        origin = {"source": self.label, "order": order, "split": self.split}
        marks = "qdd"
        names = [self.prefix + (c if self.ids else derived_id(m, c)) for m, c in zip(marks, cells, strict=True)]
        if not self.ids:
            parsed.add("queries", id=names[0], mention=True, text=cells[0], body="", line=line, **origin)
            for name, text in zip(names[1:], cells[1:], strict=True):
                texts = {"title": "", "text": text, "body": text, "tags": []}
                parsed.add("documents", id=name, mention=True, line=line, **texts, **origin | {"split": None})
        for name, grade, side in ((names[1], self.relevance, "positive"), (names[2], 0, "negative")):
            ids = {"query_id": names[0], "doc_id": name}
            parsed.add("judgments", **ids, relevance=grade, reason=f"{side} of a triple", **origin)
