"""What every source yields: records by kind, each with its position in the input, and counts of rows not used."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from string import Formatter
from typing import Any, ClassVar, Literal, TypeVar

import pyarrow as pa
from pydantic import Field, field_validator

from pipeline.core.config import Config, Plugin
from pipeline.core.errors import UserError
from pipeline.sources.reading.sample import FileSample, Settings
from pipeline.storage.counts import Counts
from pipeline.storage.files import filesystem, join
from pipeline.storage.lines import MAX_LINE_BYTES, LongLine, line_at

T = TypeVar("T")
IdKind = Literal["queries", "documents"]  # records that have ids
CHUNK_ROWS = 20_000
FILE_BITS, OFFSET_BITS = 16, 40  # of a row's order: 65,536 files a source, 1 TB (unpacked) a file
ORDER_BITS = FILE_BITS + OFFSET_BITS  # above them is the source
_ORIGIN = [
    ("source", pa.string()),
    ("order", pa.int64()),
]  # order: source, file and offset, so that "first" has a meaning
_TEXT_KEY = [
    ("id", pa.string()),
    ("key", pa.binary(16)),
    ("mention", pa.bool_()),  # part of a pair that one row states: repeats are expected
]
_TAGS = ("tags", pa.list_(pa.string()))
SCHEMAS: dict[str, pa.Schema] = {
    "documents": pa.schema(
        [
            *_TEXT_KEY,
            *_ORIGIN,
            ("split", pa.string()),
            ("group", pa.string()),
            ("title", pa.string()),
            ("text", pa.string()),  # what is embedded
            ("body", pa.string()),  # without the title
            ("category", pa.string()),
            _TAGS,
            ("product", pa.bool_()),  # the category is a place in a catalogue's tree
        ]
    ),
    "queries": pa.schema(
        [
            *_TEXT_KEY,
            *_ORIGIN,
            ("split", pa.string()),
            ("group", pa.string()),
            ("text", pa.string()),  # what is embedded
            ("body", pa.string()),  # a question's longer text, where it has one beside its title
            _TAGS,
        ]
    ),
    "judgments": pa.schema(
        [
            ("query_id", pa.string()),
            ("doc_id", pa.string()),
            ("relevance", pa.int32()),
            ("split", pa.string()),
            ("reason", pa.string()),
            ("score", pa.float32()),  # of a teacher, where the source brings some
            ("refines", pa.bool_()),  # says more about a judgment that another row makes
            ("stated", pa.bool_()),  # by a row that holds both texts and no grade, as a question with its answer
            ("passage", pa.string()),  # the part of the document that a pair has for its positive; null: all of it
            *_ORIGIN,
        ]
    ),
    "negatives": pa.schema(  # documents that a row states to be wrong for its query
        [
            ("query_id", pa.string()),
            ("doc_id", pa.string()),
            ("score", pa.float32()),
            ("rank", pa.int32()),
            *_ORIGIN,
        ]
    ),
    "labelled": pa.schema(
        [
            ("left", pa.string()),
            ("right", pa.string()),
            ("score", pa.float32()),
            ("split", pa.string()),
            *_ORIGIN,
            ("pair", pa.uint64()),  # hash of both texts in either order, computed where they are cleaned
        ]
    ),
}

LINE = pa.field("line", pa.int64())  # number of the line within the block, for messages
ROWS = {kind: schema.append(LINE) for kind, schema in SCHEMAS.items()}
Record = dict[str, Any]


@dataclass(frozen=True)
class Block:
    """A piece of one input file that one task reads: a byte range, row groups or a shard."""

    source: int
    file: int
    path: str
    start: int = 0
    end: int = 0
    size: int = 0  # bytes, for progress and for the number of buckets
    part: int = 0  # which of the source's tables the file belongs to
    extra_files: str = ""  # paths of other files that the task reads with it, one a line
    prefix: str = ""  # of the ids in this file, after that of the source
    max_line_bytes: int = MAX_LINE_BYTES  # a longer line is an unreadable row

    def order(self, offset: int) -> int:
        """Return the rank of a row among all rows of all sources; it does not depend on how the file was cut."""
        return self.source << (FILE_BITS + OFFSET_BITS) | self.file << OFFSET_BITS | offset


def split_order(order: int) -> tuple[int, int, int]:
    """Return the source, the file and the offset of which an order was made."""
    file = order >> OFFSET_BITS & ((1 << FILE_BITS) - 1)
    return order >> ORDER_BITS, file, order & ((1 << OFFSET_BITS) - 1)


@dataclass
class Parsed:
    """Records of one chunk of a block by kind: tables (`ROWS`), or lists of what each record has of their columns."""

    kinds: dict[str, pa.Table | list[Record]] = field(default_factory=dict)
    tally: Counts = field(default_factory=Counts)
    line: int = 0  # within the block, of the row that is being read

    def add(self, kind: str, **record: Any) -> None:
        """Append a record of a kind."""
        records = self.kinds.setdefault(kind, [])
        assert isinstance(records, list), "a chunk is read by rows or by columns"
        records.append(record)

    @property
    def size(self) -> int:
        """Number of records of all kinds."""
        return sum(map(len, self.kinds.values()))


def chunks(rows: Iterable[T], take: Callable[[T, Parsed], None]) -> Iterator[Parsed]:
    """Call `take` for each row to add its records, and yield them a chunk at a time; every row is accounted for.

    A numbered line that was too long to be read, as `reading.lines` gives it, is a row that cannot be used.
    """
    parsed = Parsed()
    for row in rows:
        parsed.tally.rows += 1
        if (long := _long_line(row)) is not None:
            take_long_line(*long, parsed)
            continue
        read, unused, records = parsed.tally.counts["rows"], Counter(parsed.tally.unused), parsed.size
        take(row, parsed)
        _account(parsed, parsed.tally.counts["rows"] - read, unused, used=parsed.size > records)
        if parsed.tally.rows >= CHUNK_ROWS:
            yield parsed
            parsed = Parsed()
    yield parsed


def _long_line(row: Any) -> tuple[int, LongLine] | None:
    """Number and line of a row that is a numbered line and too long."""
    if isinstance(row, tuple) and len(row) == 2 and isinstance(row[1], tuple) and isinstance(row[1][-1], LongLine):
        return row[0], row[1][-1]
    return None


def take_long_line(number: int, line: LongLine, parsed: Parsed) -> None:
    """Count a line that was too long to be read."""
    parsed.tally.counts["rows"] += 1
    parsed.tally.offend(number, "line_too_long", str(line))


def _account(parsed: Parsed, read: int, unused_before: Counter[str], *, used: bool) -> None:
    """Count each row that was read as used, by its records, or once as unused."""
    tally = parsed.tally
    unused = tally.unused - unused_before
    surplus = unused.total() - (read - used)
    for reason in list(unused.elements())[::-1][: max(0, surplus)]:  # parts of a row that is used, or counted already
        tally.unused[reason] -= 1
    if not used:
        tally.skip("without_record", max(0, -surplus))


class Prompts(Config):
    """Prompts put before the queries and the documents of a source."""

    query: str = ""
    document: str = ""


class SourceConfig(Plugin):
    """Settings and methods that every source has; a subclass reads one format."""

    name: str | None = Field(default=None, description="name in the tables' column `source`; the type when not given")
    prefix: str = Field(
        default="", description="put before every id, where two sources use the same ids for different things"
    )
    prompts: Prompts | None = Field(
        default=None, description="put before its queries and documents in the tables, as {query: ..., document: ...}"
    )
    repeated_ids: Literal["derive", "refuse", "first"] = Field(
        default="derive",
        description="where an id has two texts: ids are made from the texts if each row states its own pair, else the "
        "build ends; refuse: it always ends; first: the first text is kept alone",
    )
    unjudged: ClassVar[str] = "query_without_judgment"
    generated: ClassVar[bool] = False  # whether its queries were made of documents by `generate`

    @property
    def label(self) -> str:
        """Name of the source in the tables."""
        return self.name or self.type.rpartition(":")[2]

    @classmethod
    def recognise(cls, sample: FileSample) -> list[Settings]:
        """Settings, without `type`, with which this source would read a file; none where it is of another shape.

        `inspect` tries them on the file's first rows and prints those that work.
        """
        return []

    def with_derived_ids(self, kind: IdKind) -> "SourceConfig | None":
        """Return the source with ids of queries or documents made from their texts, whatever ids its rows give.

        None where other rows refer to these ids: then a row does not state its pair alone.
        """
        return None

    @abstractmethod
    def inputs(self, root: str) -> dict[str, str]:
        """Files to fingerprint: the name that the recipe uses, and the path to open."""

    def left_out(self, root: str) -> list[str]:
        """Return files that stand where the source reads and that it leaves out, to be said."""
        return []

    @abstractmethod
    def blocks(self, root: str, index: int, block_bytes: int) -> list[Block]:
        """Cut the input into blocks of about `block_bytes`; a file of another format raises UserError."""

    def locate(self, path: str, offset: int) -> str:
        """Name the row at an offset of its file, as `Block.order` takes it, for a message: 'file:line'."""
        return f"{path}:{line_at(path, offset)}"

    @abstractmethod
    def parse(self, block: Block) -> Iterator[Parsed]:
        """Read a block in chunks; a row that cannot be used is told to the tally, never raised."""


_PARTS = {"title", "text", "attributes", "category", "tags"}


class Templated(Config):
    """How a document's text is made."""

    template: str | None = Field(
        default=None, description="for example '{text}'; by default 'title. text | attributes', as far as there"
    )

    @field_validator("template")
    @classmethod
    def _check_template(cls, template: str | None) -> str | None:
        try:
            parts = {name for _, name, _, _ in Formatter().parse(template or "") if name is not None}
        except ValueError as error:
            raise ValueError(f"is not a template: {error}") from error
        if not parts <= _PARTS or (template and not parts):
            raise ValueError("a template is made of {title}, {text}, {attributes}, {category} and {tags}")
        return template

    def compose(
        self,
        title: str,
        text: str,
        category: str | None = None,
        tags: list[str] | None = None,
        attributes: str = "",
    ) -> str:
        """Text of a document from its parts; attributes follow the text where the template has no place for them."""
        if "{attributes" not in (self.template or ""):
            text = described(text, attributes)
        if self.template is None:
            return ". ".join(part for part in (title.strip(), text.strip()) if part)
        parts = {"title": title, "text": text, "attributes": attributes, "category": category or ""}
        return self.template.format(**parts, tags=", ".join(tags or []))


def described(text: str, attributes: str) -> str:
    """Append a product's attributes to its description: 'text | attributes'."""
    return " | ".join(filter(None, (text.strip(), attributes)))


def resolve(root: str, path: str) -> str:
    """Resolve the path of a source: relative ones start at the recipe's `root`."""
    return join(root, path) if root and "://" not in path else path


def file_size(path: str, display: str) -> int:
    """Return the size of a file in bytes; raises UserError where there is none."""
    fs, name = filesystem(path)
    try:
        if fs.isfile(name):
            return int(fs.size(name) or 0)
        exists = fs.exists(name)
    except OSError as error:
        raise UserError(f"source {display}: cannot be read: {error.strerror or error}") from error
    raise UserError(
        f"source {display}: "
        + (f"is a directory, wanted a file; all in it are `{display.rstrip('/')}/*`" if exists else "no such file")
    )
