"""Parquet files: any with a field mapping, and folders of corpus, queries.<split>, qrels.<split>, pairs.<split> ...

A folder's files force the split that their name says.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from pipeline.core.errors import UserError
from pipeline.sources.reading.columnar import Batch, Numbers
from pipeline.sources.reading.labels import GradeConfig
from pipeline.sources.reading.mapping import Mapping, Row, check_columns
from pipeline.sources.reading.paths import expand, hidden_files
from pipeline.sources.reading.record import (
    CHUNK_ROWS,
    Block,
    IdKind,
    Parsed,
    SourceConfig,
    Templated,
    chunks,
    file_size,
)
from pipeline.sources.reading.roles import Kind
from pipeline.sources.reading.sample import FileSample, Settings, mapping_settings
from pipeline.sources.reading.splits import Split, SplitRule
from pipeline.storage.files import filesystem, open_parquet

_KINDS: dict[str, Kind] = {
    "corpus": "document",
    "queries": "query",
    "qrels": "judgment",
    "pairs": "pair",
    "pairs_labelled": "labelled",
    "sts": "labelled",
}
_SPLITS: list[Split] = ["train", "dev"]
Shape = Literal["corpus", "queries", "qrels", "pairs", "pairs_labelled", "sts"]


class ParquetFile(Mapping):
    """One Parquet file, or several of one schema, and what their columns mean."""

    path: str | list[str] = Field(min_length=1, description="a file, a pattern, or a list of both")


class Parquet(SourceConfig, Templated, GradeConfig):
    """Parquet files, named one by one in `files`, or a folder `path` with `tables` and `splits`."""

    type: Literal["parquet"] = "parquet"
    files: list[ParquetFile] = Field(default=[])
    path: str | None = None
    tables: list[Shape] = Field(default=["corpus", "queries", "qrels"], min_length=1)
    splits: list[Split] | dict[str, SplitRule] = Field(
        default=_SPLITS,
        min_length=1,
        description="splits to read, or {name in the files: split}",
    )
    group: str | None = Field(
        default=None, description="column of the corpus that groups documents, such as their topic"
    )
    corpus_split: Split | None = Field(
        default=None, description="split of pairs made of a document alone (title-description)"
    )

    @model_validator(mode="after")
    def _check_place(self) -> "Parquet":
        if bool(self.files) == bool(self.path):
            raise ValueError("give either files or path")
        return self

    @classmethod
    def recognise(cls, sample: FileSample) -> list[Settings]:
        """One file with columns of known roles, or a folder of tables named by their kind."""
        if sample.format == "parquet":
            return [{"files": [{"path": sample.path, **settings}]} for settings in mapping_settings(sample)]
        tables = {name.partition(".")[0] for name in sample.files if name.endswith(".parquet")} & set(_KINDS)
        splits = {name.split(".")[1] for name in sample.files if name.endswith(".parquet") and name.count(".") == 2}
        if sample.format != "folder" or not tables:
            return []
        named = [name for name in ("train", "dev", "test") if name in splits]
        ordered = [table for table in _KINDS if table in tables]
        shapes = [["corpus", "queries", "qrels"]] if {"corpus", "queries", "qrels"} <= tables else [ordered]
        return [{"path": sample.path, "tables": shape, **({"splits": named} if named else {})} for shape in shapes]

    def specs(self) -> list[ParquetFile]:
        """Every file, with those of the folder spelled out."""
        return self.files or [spec for table in self.tables for spec in self._of_folder(table)]

    def _of_folder(self, table: Shape) -> list[ParquetFile]:
        kind = _KINDS[table]
        if table == "corpus":
            fields = {"group": self.group} if self.group else {}
            path, split = f"{self.path}/corpus.parquet", self.corpus_split
            return [ParquetFile(path=path, kind=kind, fields=fields, template=self.template, split=split)]
        splits = self.splits if isinstance(self.splits, dict) else {split: split for split in self.splits}
        names = [(f"{self.path}/{table}.{name}.parquet", split) for name, split in splits.items()]
        labels: Any = {"grades": self.grades, "scale": self.scale}
        return [
            ParquetFile(path=path, kind=kind, split=None if split == "hash" else split, **labels)
            for path, split in names
        ]

    def with_derived_ids(self, kind: IdKind) -> "Parquet | None":
        """Return the source with the ids of the files whose rows state pairs made from the texts; None without such."""
        specs = self.specs()
        fields = [spec.fields_without_ids(kind) for spec in specs]
        if not any(fields):
            return None
        files = [
            spec if f is None else spec.model_copy(update={"fields": f}) for spec, f in zip(specs, fields, strict=True)
        ]
        return self.model_copy(update={"files": files})

    def inputs(self, root: str) -> dict[str, str]:
        """Return the files."""
        return {display: path for spec in self.specs() for display, path in expand(spec.path, root).items()}

    def left_out(self, root: str) -> list[str]:
        """Return the hidden files that the patterns match and that are not read."""
        return [name for spec in self.specs() for name in hidden_files(spec.path, root)]

    def blocks(self, root: str, index: int, block_bytes: int) -> list[Block]:
        """Cut into runs of row groups; raises UserError for a file that is not Parquet or lacks a mapped column."""
        blocks: list[Block] = []
        files = [(part, *file) for part, spec in enumerate(self.specs()) for file in expand(spec.path, root).items()]
        for file, (part, display, path) in enumerate(files):
            columns, cuts = cut(path, display, Block(index, file, path, part=part), block_bytes)
            check_columns(self.specs()[part], columns, display)
            blocks += cuts
        return blocks

    def locate(self, path: str, offset: int) -> str:
        """Name a row by its number."""
        return f"{path} row {offset}"

    def parse(self, block: Block) -> Iterator[Parsed]:
        """Read the rows of the block's row groups."""
        spec = self.specs()[block.part]

        def take(row: tuple[int, int, Row], parsed: Parsed) -> None:
            line, order, values = row
            parsed.tally.counts["rows"] += 1
            spec.take(values, line, {"source": self.label, "order": order}, self.prefix, parsed)

        for lines, orders, batch in batches_of(block):
            read = Batch(spec, batch, lines, orders, self.label, self.prefix).take()
            if read:
                yield read[0]
            left = np.flatnonzero(read[1]) if read else np.arange(len(lines))
            values = batch.take(left).to_pylist() if len(left) else []
            yield from chunks(zip(lines[left].tolist(), orders[left].tolist(), values, strict=True), take)


def cut(path: str, display: str, like: Block, block_bytes: int) -> tuple[list[str], list[Block]]:
    """Columns of a Parquet file, and blocks of its row groups; raises UserError where there is none to read."""
    file_size(path, display)
    fs, name = filesystem(path)
    try:
        with fs.open(name, "rb") as raw:
            parquet = pq.ParquetFile(raw)
            sizes = [parquet.metadata.row_group(i).total_byte_size for i in range(parquet.num_row_groups)]
            columns = parquet.schema_arrow.names
    except pa.ArrowInvalid as error:
        raise UserError(f"source {display}: not readable as Parquet: {' '.join(str(error).split())}") from error
    blocks, start = [], 0
    for end in range(1, len(sizes) + 1):
        size = sum(sizes[start:end])
        if size >= block_bytes or end == len(sizes):
            blocks.append(replace(like, start=start, end=end, size=size))
            start = end
    return columns, blocks


def batches_of(block: Block) -> Iterator[tuple[Numbers, Numbers, pa.Table]]:
    """Lines in the block, orders and rows of its row groups, a batch at a time; damaged data raises UserError."""
    with open_parquet(block.path) as parquet:
        before = sum(parquet.metadata.row_group(i).num_rows for i in range(block.start))
        groups, line = list(range(block.start, block.end)), 1
        for batch in parquet.iter_batches(CHUNK_ROWS, row_groups=groups):
            lines = np.arange(line, line + batch.num_rows)
            yield lines, block.order(before) + lines, pa.Table.from_batches([batch])
            line += batch.num_rows


def rows_of(block: Block) -> Iterator[tuple[int, int, Row]]:
    """Line in the block, order and values of every row of the block's row groups."""
    for lines, orders, batch in batches_of(block):
        yield from zip(lines.tolist(), orders.tolist(), batch.to_pylist(), strict=True)
