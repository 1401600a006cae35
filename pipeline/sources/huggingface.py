"""Data sets of the `datasets` library, streamed: a name on the Hub, or a local folder, which needs no network."""

from collections.abc import Iterator
from typing import Any, Literal

from pyarrow import ArrowException
from pydantic import Field

from pipeline.core.errors import UserError
from pipeline.sources.reading.labels import UnusableRow
from pipeline.sources.reading.mapping import MappedSource, check_columns
from pipeline.sources.reading.record import CHUNK_ROWS, Block, Parsed, resolve
from pipeline.sources.reading.roles import Kind
from pipeline.sources.reading.splits import Split
from pipeline.storage.files import filesystem


class HuggingFace(MappedSource):
    """Rows of a data set, split by hash of their group, or with `forced` as the data set splits them."""

    type: Literal["huggingface"] = "huggingface"
    dataset: str
    subset: str | None = None
    revision: str | None = Field(default=None, description="commit of the data set; without one the newest")
    parts: list[str] = Field(default=["train"], min_length=1, description="splits of the data set to read")
    forced: bool = Field(default=False, description="rows keep the split of their part")
    kind: Kind = "pair"

    def folder(self, root: str) -> str | None:
        """Local folder of the data set; None for a name on the Hub."""
        path = resolve(root, self.dataset)
        fs, name = filesystem(path)
        return path if fs.isdir(name) else None

    def inputs(self, root: str) -> dict[str, str]:
        """Return the files of a local folder; a name on the Hub is held by its revision instead."""
        folder = self.folder(root)
        if folder is None:
            return {}
        fs, name = filesystem(folder)
        return {f"{self.dataset}/{file[len(name) :].lstrip('/')}": file for file in sorted(fs.find(name))}

    def blocks(self, root: str, index: int, block_bytes: int) -> list[Block]:
        """Cut into the data set's own shards; raises UserError for a data set or split that cannot be opened."""
        folder = self.folder(root)
        if folder is None and self.dataset.startswith(("/", ".")):
            raise UserError(f"source {self.dataset}: no such folder")
        for name in self.parts if self.forced else ():
            self.split_of_part(name)
        size = 0
        if folder:
            fs, name = filesystem(folder)
            size = int(fs.du(name))
        blocks = []
        for part, split in enumerate(self.parts):
            rows = self.open(folder or self.dataset, split)
            if rows.column_names:
                check_columns(self, list(rows.column_names), f"{self.dataset} ({split})")
            shards = rows.num_shards
            each = size // (shards * len(self.parts))
            cuts = range(shards)
            blocks += [Block(index, part, folder or self.dataset, i, shards, each) for i in cuts]
        return blocks

    def split_of_part(self, part: str) -> Split | None:
        """Return the split that a part of the data set stands for; raises UserError for a name that is none."""
        try:
            return self.split_of(part.split("[")[0].strip(), "the part")
        except UnusableRow as problem:
            raise UserError(f"source {self.dataset}: {problem}; or leave `forced` out") from problem

    def open(self, path: str, part: str) -> Any:
        """Open one split as a stream of rows."""
        import datasets

        try:
            if self._saved(path):
                saved = datasets.load_from_disk(path)
                return (saved if isinstance(saved, datasets.Dataset) else saved[part]).to_iterable_dataset()
            return datasets.load_dataset(path, self.subset, split=part, streaming=True, revision=self.revision)
        except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
            raise UserError(f"source {self.dataset}: cannot open split {part!r}: {_first_line(error)}") from error

    @staticmethod
    def _saved(path: str) -> bool:
        fs, name = filesystem(path)
        return any(fs.exists(f"{name}/{marker}") for marker in ("dataset_dict.json", "state.json"))

    def locate(self, path: str, offset: int) -> str:
        """Name a row by its number."""
        return f"{path} row {offset & (1 << 28) - 1}"

    def parse(self, block: Block) -> Iterator[Parsed]:
        """Read the rows of one shard."""
        split, parsed = self.split_of_part(self.parts[block.file]) if self.forced else None, Parsed()
        for line, row in enumerate(self._rows(block), 1):
            parsed.tally.rows += 1
            parsed.tally.counts["rows"] += 1
            origin = {"source": self.label, "order": block.order(block.start << 28 | line)}
            if self.forced:
                origin["split"] = split
            self.take(row, line, origin, self.prefix, parsed)
            if parsed.tally.rows >= CHUNK_ROWS:
                yield parsed
                parsed = Parsed()
        yield parsed

    def _rows(self, block: Block) -> Iterator[dict[str, Any]]:
        import datasets

        part = self.parts[block.file]
        rows = self.open(block.path, part)
        if block.end > 1:
            rows = rows.shard(num_shards=block.end, index=block.start)
        try:
            yield from rows
        except (datasets.exceptions.DatasetsError, UnicodeDecodeError, ArrowException) as error:
            raise UserError(f"source {self.dataset}: split {part!r} cannot be read: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
