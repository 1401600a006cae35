"""Queries that `generate` made of documents: its artifact as a source, beside the sources of the documents themselves.

    sources:
      - {type: jsonl, kind: document, path: articles.jsonl}
      - {type: generated, path: runs/articles/generated}

A query is judged relevant to its document by the id that this has in the corpus. Where it is about a part of the
document alone, as a heading is about its section, that part is the positive of its pair.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from pipeline.sources.parquet import cut, rows_of
from pipeline.sources.reading.mapping import Row
from pipeline.sources.reading.record import Block, Parsed, SourceConfig, chunks, resolve
from pipeline.sources.reading.sample import FileSample, Settings
from pipeline.sources.reading.splits import SplitRule
from pipeline.storage.artifact import Artifact
from pipeline.storage.files import join

_TABLE = "generated"
_MANIFEST = "manifest.json"


class Generated(SourceConfig):
    """An artifact of `generate`. The prefix goes before the ids of its queries; documents keep theirs."""

    type: Literal["generated"] = "generated"
    path: str = Field(min_length=1, description="directory of the artifact")
    split: SplitRule = Field(
        default="train",
        description="split of its queries; hash: by their documents, for a corpus of which nobody has asked anything",
    )
    relevance: int = Field(default=1, ge=1, description="relevance of a document to its queries")
    generated: ClassVar[bool] = True

    @classmethod
    def recognise(cls, sample: FileSample) -> list[Settings]:
        """A folder with the tables of such an artifact."""
        tables = {name.partition("/")[0] for name in sample.files}
        return [{"path": sample.path}] if sample.format == "folder" and {_TABLE, "answers", _MANIFEST} <= tables else []

    def inputs(self, root: str) -> dict[str, str]:
        """Return the files of the table; raises UserError where the artifact is not finished."""
        artifact = Artifact.open(resolve(root, self.path), "generate")
        names = artifact.manifest.tables[_TABLE].files if _TABLE in artifact.manifest.tables else []
        return {join(self.path, name): join(artifact.path, name) for name in names}

    def blocks(self, root: str, index: int, block_bytes: int) -> list[Block]:
        """Cut the files into runs of row groups."""
        files = enumerate(self.inputs(root).items())
        cuts = (cut(path, shown, Block(index, file, path), block_bytes)[1] for file, (shown, path) in files)
        return [block for blocks in cuts for block in blocks]

    def locate(self, path: str, offset: int) -> str:
        """Name a row by its number."""
        return f"{path} row {offset}"

    def parse(self, block: Block) -> Iterator[Parsed]:
        """Read the rows of the block's row groups: each is a query and a judgment."""

        def take(row: tuple[int, int, Row], parsed: Parsed) -> None:
            line, order, values = row
            parsed.tally.counts["rows"] += 1
            origin = {"source": self.label, "order": order, "line": line}
            split = None if self.split == "hash" else self.split
            name, group = self.prefix + values["query_id"], values["group_id"]
            parsed.add("queries", id=name, text=values["query"], body="", group=group, split=split, **origin)
            judgment = {"query_id": name, "doc_id": values["doc_id"], "relevance": self.relevance}
            reason = f"generated of {values['doc_id']}"
            parsed.add("judgments", **judgment, reason=reason, passage=values["passage"] or None, split=split, **origin)

        return chunks(rows_of(block), take)
