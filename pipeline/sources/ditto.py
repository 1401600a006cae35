"""Labelled pairs of records as Ditto writes them: `COL name VAL value COL ...` TAB the same TAB 0 or 1."""

import re
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from pipeline.sources.reading import lines
from pipeline.sources.reading.paths import Paths
from pipeline.sources.reading.record import Block, Parsed, chunks
from pipeline.sources.reading.sample import FileSample, Settings
from pipeline.sources.reading.splits import Split

_COLUMN = re.compile(r"(?:^|\s)COL\s+(\S+)\s+VAL(?=\s|$)")


class Ditto(Paths):
    """Files of record pairs; a record's text is its values, joined by ' | '."""

    type: Literal["ditto"] = "ditto"
    columns: list[str] = Field(default=[], description="columns to take, in this order; all when not given")
    split: Split | None = Field(default=None, description="force all rows into one split")

    @classmethod
    def recognise(cls, sample: FileSample) -> list[Settings]:
        """Lines of COL name VAL value."""
        return [{"path": sample.path}] if sample.start.startswith(b"COL ") else []

    def parse(self, block: Block) -> Iterator[Parsed]:
        """Read the lines that start in the block."""

        def take(row: tuple[int, tuple[int, bytes]], parsed: Parsed) -> None:
            line, (offset, raw) = row
            if not raw.strip():
                return
            parsed.tally.counts["rows"] += 1
            try:
                left, right, score = self.pair(raw.decode("utf-8"))
            except ValueError as error:
                parsed.tally.offend(line, "unreadable_row", str(error))
            else:
                origin = {"source": self.label, "order": block.order(offset), "split": self.split}
                parsed.add("labelled", left=left, right=right, score=score, line=line, **origin)

        return chunks(enumerate(lines.read(block), 1), take)

    def pair(self, text: str) -> tuple[str, str, float]:
        """Read both texts of a line and its label; raises ValueError saying what is wrong."""
        cells = text.split("\t")
        if len(cells) != 3:
            raise ValueError(f"{len(cells)} columns, wanted two records and a label")
        if cells[2].strip() not in ("0", "1"):
            raise ValueError(f"label {cells[2].strip()[:20]!r}, wanted 0 or 1")
        return self.text(cells[0]), self.text(cells[1]), float(cells[2])

    def text(self, written: str) -> str:
        """Join the values of one record."""
        parts = _COLUMN.split(written)
        if len(parts) < 3:
            raise ValueError(f"no `COL name VAL` in {written.strip()[:40]!r}")
        values = dict(zip(parts[1::2], map(str.strip, parts[2::2]), strict=True))
        return " | ".join(filter(None, (values.get(name, "") for name in self.columns or values)))
