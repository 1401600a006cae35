"""A BEIR folder: corpus.jsonl, queries.jsonl and qrels/*.tsv; any of them may come from another source instead.

Files may be compressed (`corpus.jsonl.gz`), and qrels may be JSON lines or Parquet with query-id, corpus-id and score.
"""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from pipeline.core.errors import UserError
from pipeline.sources.jsonl import objects
from pipeline.sources.parquet import cut, rows_of
from pipeline.sources.reading import lines
from pipeline.sources.reading.labels import LabelConfig, UnusableRow
from pipeline.sources.reading.mapping import Mapping, Row, check_columns
from pipeline.sources.reading.record import (
    Block,
    Parsed,
    SourceConfig,
    Templated,
    chunks,
    file_size,
    resolve,
)
from pipeline.sources.reading.sample import FileSample, Settings
from pipeline.sources.reading.splits import Split, SplitRule
from pipeline.storage.files import filesystem, join
from pipeline.text.normalize import identifier

_TABLES = ("corpus.jsonl", "queries.jsonl")
_QRELS = (".tsv", ".jsonl", ".parquet")
_PACKED = ("", ".gz", ".bz2", ".xz", ".zst")
_JUDGMENTS = Mapping(kind="judgment", fields={"query_id": "query-id", "doc_id": "corpus-id", "relevance": "score"})


class Beir(SourceConfig, Templated, LabelConfig):
    """A folder in BEIR layout.

    A qrels file named after a split (train, dev, test, validation) forces its queries into it; `splits` says what
    other names stand for. With `hashed` all queries are split by hash.
    """

    type: Literal["beir"] = "beir"
    path: str
    splits: dict[str, SplitRule] = Field(
        default={}, description="name of a qrels file, without .tsv: its split, or hash: split by hash"
    )
    hashed: bool = Field(default=False, description="split by hash whatever the qrels files are called")

    @classmethod
    def recognise(cls, sample: FileSample) -> list[Settings]:
        """A folder with corpus.jsonl and queries.jsonl."""
        names = {name.partition(".")[0] for name in sample.files if ".jsonl" in name and "/" not in name}
        return [{"path": sample.path}] if sample.format == "folder" and {"corpus", "queries"} <= names else []

    def inputs(self, root: str) -> dict[str, str]:
        """Return corpus, queries and qrels, as far as they exist."""
        folder = resolve(root, self.path)
        fs, name = filesystem(folder)
        if not fs.isdir(name):
            raise UserError(f"source {self.path}: no such folder")
        names = [next((n for n in _written(table) if fs.exists(join(name, n))), "") for table in _TABLES]
        names = [n for n in names if n] + _qrels_files(fs.glob(join(name, "qrels", "*")))
        if not names:
            raise UserError(
                f"source {self.path}: is not a BEIR folder; wanted corpus.jsonl, queries.jsonl, qrels/*.tsv"
            )
        missing = sorted(set(self.splits) - {_stem(n).casefold() for n in names})
        if missing:
            raise UserError(f"source {self.path}: has no qrels/{missing[0]}.tsv")
        return {join(self.path, n): join(folder, n) for n in names}

    def blocks(self, root: str, index: int, block_bytes: int) -> list[Block]:
        """Cut every file into byte ranges; raises UserError for a qrels file whose name is no split."""
        blocks: list[Block] = []
        for file, (display, path) in enumerate(self.inputs(root).items()):
            if _is_qrels(path):
                self.split_of_file(path)
            if path.endswith(".parquet"):
                columns, cuts = cut(path, display, Block(index, file, path), block_bytes)
                check_columns(_JUDGMENTS, columns, display)
            else:
                cuts = lines.cut(path, file_size(path, display), index, file, block_bytes)
            blocks += cuts
        return blocks

    def parse(self, block: Block) -> Iterator[Parsed]:
        """Read the lines that start in the block."""
        name = block.path.rsplit("/", 1)[-1]
        if _is_qrels(block.path):
            return self._qrels(block)
        if name.startswith("corpus.jsonl"):
            mapping = Mapping(kind="document", template=self.template, fields={"id": "_id"})
            return objects(block, mapping, self.label, self.prefix)
        return objects(block, Mapping(kind="query", fields={"id": "_id"}), self.label, self.prefix)

    def split_of_file(self, path: str) -> Split | None:
        """Return the split into which the name of a qrels file puts its queries; None splits by hash.

        Raises UserError for a name that is no split.
        """
        try:
            return None if self.hashed else self.split_of(_stem(path), "the name of a qrels file")
        except UnusableRow as problem:
            raise UserError(f"source {self.path}: {problem}; or say `hashed: true`") from problem

    def _qrels(self, block: Block) -> Iterator[Parsed]:
        ending = _ending(block.path)
        if ending == ".tsv":
            return self._qrels_lines(block)
        update = {"grades": self.grades, "scale": self.scale, "split": self.split_of_file(block.path)}
        mapping = _JUDGMENTS.model_copy(update=update)
        if ending == ".jsonl":
            return objects(block, mapping, self.label, self.prefix)

        def take(row: tuple[int, int, Row], parsed: Parsed) -> None:
            line, order, values = row
            parsed.tally.counts["rows"] += 1
            mapping.take(values, line, {"source": self.label, "order": order}, self.prefix, parsed)

        return chunks(rows_of(block), take)

    def _qrels_lines(self, block: Block) -> Iterator[Parsed]:
        split = self.split_of_file(block.path)

        def take(row: tuple[int, tuple[int, bytes]], parsed: Parsed) -> None:
            line, (offset, raw) = row
            if not raw.strip() or (offset == 0 and raw.lower().startswith((b"query-id", b"query_id"))):
                return
            parsed.tally.counts["rows"] += 1
            try:
                query_id, doc_id, relevance = judgment(raw)
                grade = self.grade(relevance)
            except UnusableRow as problem:
                parsed.tally.offend(line, problem.reason, str(problem))
            except ValueError as error:
                parsed.tally.offend(line, "unreadable_row", f"not a judgment: {error}")
            else:
                origin = {"split": split, "source": self.label, "order": block.order(offset)}
                ids = {"query_id": self.prefix + query_id, "doc_id": self.prefix + doc_id}
                parsed.add("judgments", **ids, relevance=grade, reason=f"judged {grade}", **origin)

        return chunks(enumerate(lines.read(block), 1), take)


def judgment(raw: bytes) -> tuple[str, str, str]:
    """Read query id, document id and relevance of a line: BEIR's three columns or the four of TREC qrels."""
    cells = raw.decode("utf-8").split("\t")
    cells = cells if len(cells) > 1 else raw.decode("utf-8").split()
    if len(cells) not in (3, 4):
        raise ValueError(f"{len(cells)} columns, wanted 3 or 4")
    return identifier(cells[0]), identifier(cells[-2]), cells[-1].strip()


def _written(name: str) -> list[str]:
    """Return the names that a file may have, the plain one first."""
    return [name + packed for packed in _PACKED]


def _qrels_files(paths: list[str]) -> list[str]:
    """Names of qrels files in their order; of one that is there in several forms the first of `_QRELS`."""
    names: dict[str, str] = {}
    for ending in (written for qrels in _QRELS for written in _written(qrels)):
        for path in paths:
            file = path.rsplit("/", 1)[-1]
            if file.endswith(ending):
                names.setdefault(_stem(file), f"qrels/{file}")
    return sorted(names.values())


def _is_qrels(path: str) -> bool:
    return path.replace("\\", "/").split("/")[-2:-1] == ["qrels"]


def _ending(path: str) -> str:
    """Return which form of qrels a file is by its name."""
    return next(ending for ending in _QRELS if path.endswith(tuple(_written(ending))))


def _stem(path: str) -> str:
    name = path.rsplit("/", 1)[-1]
    written = next((w for ending in _QRELS for w in _written(ending) if name.endswith(w)), "")
    return name.removesuffix(written)
