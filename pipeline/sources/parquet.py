"""Parquet files: any with a field mapping, and folders of corpus, queries.<split>, qrels.<split>, pairs.<split> ...

A folder's files force the split that their name says.
"""

from collections.abc import Iterator
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from pipeline.errors import UserError
from pipeline.files import filesystem
from pipeline.sources.mapping import Kind, Mapping, check_columns
from pipeline.sources.record import CHUNK_ROWS, Block, Parsed, SourceConfig, Templated, existing, resolve
from pipeline.splits import Split

_KINDS: dict[str, Kind] = {
    "corpus": "document",
    "queries": "query",
    "qrels": "judgment",
    "pairs": "pair",
    "pairs_labelled": "labelled",
    "sts": "labelled",
}
Shape = Literal["corpus", "queries", "qrels", "pairs", "pairs_labelled", "sts"]


class ParquetFile(Mapping):
    """One file and what its columns mean."""

    path: str


class Parquet(SourceConfig, Templated):
    """Parquet files, named one by one in `files`, or a folder `path` with `tables` and `splits`."""

    type: Literal["parquet"] = "parquet"
    files: list[ParquetFile] = Field(default=[])
    path: str | None = None
    tables: list[Shape] = Field(default=["corpus", "queries", "qrels"], min_length=1)
    splits: list[Split] = Field(default=["train", "dev"], min_length=1)
    group: str | None = Field(
        default=None, description="column of the corpus that groups documents, such as their topic"
    )
    corpus_split: Split | None = Field(
        default=None, description="split of pairs made of a document alone (title-description)"
    )
    scale: float = Field(default=1.0, gt=0, description="divide the scores of labelled pairs by this")

    @model_validator(mode="after")
    def _check_place(self) -> "Parquet":
        if bool(self.files) == bool(self.path):
            raise ValueError("give either files or path")
        return self

    def specs(self) -> list[ParquetFile]:
        """Every file, with those of the folder spelled out."""
        return self.files or [spec for table in self.tables for spec in self._of_folder(table)]

    def _of_folder(self, table: Shape) -> list[ParquetFile]:
        kind = _KINDS[table]
        if table == "corpus":
            fields = {"group": self.group} if self.group else {}
            path, split = f"{self.path}/corpus.parquet", self.corpus_split
            return [ParquetFile(path=path, kind=kind, fields=fields, template=self.template, split=split)]
        names = [(f"{self.path}/{table}.{split}.parquet", split) for split in self.splits]
        return [ParquetFile(path=path, kind=kind, split=split, scale=self.scale) for path, split in names]

    def inputs(self, root: str) -> dict[str, str]:
        """Return the files."""
        return {spec.path: resolve(root, spec.path) for spec in self.specs()}

    def blocks(self, root: str, index: int, block_bytes: int) -> list[Block]:
        """Cut into runs of row groups; raises UserError for a file that is not Parquet or lacks a mapped column."""
        blocks = []
        for file, spec in enumerate(self.specs()):
            path = resolve(root, spec.path)
            existing(path, spec.path)
            blocks += self._cut(spec, path, index, file, block_bytes)
        return blocks

    def _cut(self, spec: ParquetFile, path: str, index: int, file: int, block_bytes: int) -> list[Block]:
        fs, name = filesystem(path)
        try:
            with fs.open(name, "rb") as raw:
                parquet = pq.ParquetFile(raw)
                sizes = [parquet.metadata.row_group(i).total_byte_size for i in range(parquet.num_row_groups)]
                columns = parquet.schema_arrow.names
        except pa.ArrowInvalid as error:
            raise UserError(f"source {spec.path}: not readable as Parquet: {' '.join(str(error).split())}") from error
        check_columns(spec, columns, spec.path)
        blocks, start = [], 0
        for end in range(1, len(sizes) + 1):
            size = sum(sizes[start:end])
            if size >= block_bytes or end == len(sizes):
                blocks.append(Block(index, file, path, start, end, size))
                start = end
        return blocks

    def parse(self, block: Block) -> Iterator[Parsed]:
        """Read the rows of the block's row groups."""
        spec = self.specs()[block.file]
        fs, name = filesystem(block.path)
        with fs.open(name, "rb") as raw:
            parquet = pq.ParquetFile(raw)
            before = sum(parquet.metadata.row_group(i).num_rows for i in range(block.start))
            groups, line = list(range(block.start, block.end)), 0
            for batch in parquet.iter_batches(CHUNK_ROWS, row_groups=groups):
                parsed = Parsed()
                for row in batch.to_pylist():
                    line += 1
                    place = {"source": self.label, "order": block.order(before + line)}
                    spec.take(row, line, place, self.prefix, parsed)
                parsed.tally.rows = parsed.tally.counts["rows"] = batch.num_rows
                yield parsed
