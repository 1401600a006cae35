"""A source of your own: lines of `question => answer`, which no built-in format reads.

Put the file beside your recipe and name the class by its import path:

    build:
      sources:
        - {type: arrow_source:ArrowLines, path: faq.txt, name: faq}

From Python it is `tripletail.build(sources=[ArrowLines(path="faq.txt")])`. `Paths` brings files and patterns, packed or
not, cut into blocks that are read in parallel; `Mapping` makes questions, answers and judgments of a row's fields, with
ids, splits and counts of what could not be used.
"""

from collections.abc import Iterator

from pipeline.sources.jsonl import objects
from pipeline.sources.reading.mapping import Kind, Mapping
from pipeline.sources.reading.paths import Paths
from pipeline.sources.reading.record import Block, Parsed


class ArrowLines(Paths, Mapping):
    """Files with one `question => answer` a line; `separator` is what stands between the two."""

    kind: Kind = "qa"
    separator: str = "=>"

    def parse(self, block: Block) -> Iterator[Parsed]:
        """Read the lines that start in the block."""
        return objects(block, self, self.label, self.prefix, self.row)

    def row(self, line: bytes) -> dict[str, str] | str:
        """The fields of a line, or in a sentence why it cannot be used."""
        question, separator, answer = line.decode("utf-8", "replace").strip().partition(self.separator)
        if not separator:
            return f"a line without {self.separator!r}"
        return {"question": question.strip(), "answer": answer.strip()}
