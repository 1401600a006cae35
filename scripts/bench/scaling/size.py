"""A size of the input and of the cluster, and what one step of a job does at it: files, requests, bytes, memory.

Requests are those that s3fs sends for the project's own functions; `tests/scripts/test_scale.py` counts them
on a store.
"""

from dataclasses import dataclass, field, replace
from math import ceil

GIB, TIB = 1 << 30, 1 << 40
OPEN_HEAD, OPEN_GETS = 1, 3  # of a staged file of which all columns are read
NARROW_GETS, COLUMN_GETS = 5, 2  # of one of which some columns are read: its footer twice, the two buffers of each text
FOOTER_GETS = 1  # of a Parquet file that is opened
WRITE_HEADS, WRITE_PUTS = 2, 5  # PUT, COPY, two LIST and the deletion under the temporary name
FIND_HEADS, FIND_LISTS = 1, 1  # to see whether there is a file or a folder, which does not exist as an object
LIST_HEADS, LIST_LISTS, LISTINGS, LIST_KEYS = 2, 2, 2, 1000  # of a look for files: it lists all twice, in such pages
READ_USD, WRITE_USD = 0.4e-6, 5e-6  # of a GET or HEAD, and of a PUT, COPY or LIST in S3's standard class
LATENCY_S = 0.015  # of a request; those of a task follow each other
LZ4, ZSTD = 0.6, 0.45  # bytes of compressed text and of ids in a byte, about
COPIES = 2  # what a task reads is in memory twice: as it was read, and sorted or filtered


@dataclass(frozen=True)
class Size:
    """Rows of kind qa, a question with its answer each, in plain JSON-lines files; and the cluster."""

    rows: int = 1_000_000_000
    bytes: int = 10**12
    cpus: int = 1000
    gpus: int = 64
    nodes: int = 64
    dim: int = 384
    buckets: int | None = None  # of the build; default: by size
    batch: int = 8192  # rows of a global batch of training
    epochs: int = 1
    repeated: float = 0.1  # share of the rows whose answer another row states too
    question: float = 0.1  # share of a row that is its question
    held_out: float = 0.2  # share of the questions in dev and test
    file_bytes: int = GIB  # of an input file
    characters_a_token: float = 4.0

    @property
    def row_bytes(self) -> float:
        """Bytes of the texts of a row."""
        return self.bytes / self.rows

    @property
    def documents(self) -> int:
        """Distinct answers; a repeated one is stated twice."""
        return max(1, round(self.rows * (1 - self.repeated / 2)))

    @property
    def held_out_rows(self) -> int:
        """Questions of dev and test."""
        return round(self.rows * self.held_out)

    @property
    def train_rows(self) -> int:
        """Pairs of the train split."""
        return max(1, self.rows - self.held_out_rows)

    def scaled(self, factor: float) -> "Size":
        """The same cluster and rows of the same length, `factor` times as many."""
        return replace(self, rows=max(1, round(self.rows * factor)), bytes=max(1, round(self.bytes * factor)))


@dataclass(frozen=True)
class Staged:
    """Rows in so many files, with their bytes in memory."""

    name: str
    parts: int
    rows: float
    width: float  # bytes of a row
    packed: float = LZ4  # bytes in the file of a byte

    @property
    def bytes(self) -> float:
        """Bytes of all rows, not compressed."""
        return self.rows * self.width


@dataclass
class Step:
    """What a step does in all its tasks together, and the memory of one task and of the head."""

    job: str
    name: str
    tasks: int
    opens: dict[str, int] = field(default_factory=dict)  # files opened to be read, by the name they are staged under
    files: dict[str, int] = field(default_factory=dict)  # files written, by name
    reads: float = 0.0  # GET and HEAD
    writes: float = 0.0  # PUT, COPY, LIST
    head_requests: float = 0.0  # those of them that the head sends, one after the other
    read_bytes: float = 0.0
    written_bytes: float = 0.0
    task_memory: float = 0.0
    large_tasks: int = 0  # that hold it at a time; 0: all that run
    head_memory: float = 0.0
    driver_rows: float = 0.0  # rows or items that pass through the driver's Python, one by one

    def read(self, staged: Staged, *, buckets: int = 0, width: float = 0.0, columns: int = 0, by: int = 0) -> None:
        """Each of `by` tasks (default: all) reads one of so many buckets of every file; 0 buckets: all rows of them."""
        by = by or self.tasks
        count = staged.parts * by
        self._opened(staged.name, count, NARROW_GETS + COLUMN_GETS * columns if columns else OPEN_GETS)
        self.reads += LIST_HEADS * by
        self.writes += (LIST_LISTS + LISTINGS * ceil(staged.parts / LIST_KEYS)) * by
        in_task = staged.rows * (width or staged.width) / (buckets or 1)
        self.read_bytes += in_task * staged.packed * by
        self.task_memory += in_task * COPIES

    def part(self, staged: Staged, by: int = 0) -> None:
        """Each task reads the one file that has its own rows."""
        by = by or self.tasks
        self._opened(staged.name, by, OPEN_GETS)
        self.reads += by
        self.read_bytes += staged.bytes * staged.packed
        self.task_memory += staged.bytes / max(1, staged.parts) * COPIES

    def open(self, name: str, count: float, *, each: float = 0.0, on_head: bool = False) -> None:
        """Open Parquet files `count` times; `each` are the bytes that are read of one, 0 for its footer alone."""
        gets = FOOTER_GETS + (1 if each else 0)
        self._opened(name, round(count), gets)
        self.read_bytes += count * each
        self.head_requests += count * (OPEN_HEAD + gets) if on_head else 0

    def write(self, name: str, parts: int, rows: float, width: float, packed: float = LZ4) -> Staged:
        """Write rows into so many files, each under a temporary name that is then changed."""
        self.files[name] = self.files.get(name, 0) + parts
        self.reads += WRITE_HEADS * parts
        self.writes += WRITE_PUTS * parts
        self.written_bytes += rows * width * packed
        return Staged(name, parts, rows, width, packed)

    def mark(self) -> "Step":
        """Each task looks for its mark and leaves one."""
        self.reads += FIND_HEADS * self.tasks
        self.writes += FIND_LISTS * self.tasks
        self.write("marks", self.tasks, 0, 0)
        return self

    def _opened(self, name: str, count: int, gets: float) -> None:
        self.opens[name] = self.opens.get(name, 0) + count
        self.reads += (OPEN_HEAD + gets) * count

    @property
    def opened(self) -> int:
        """Files opened to be read."""
        return sum(self.opens.values())

    @property
    def written(self) -> int:
        """Files written."""
        return sum(self.files.values())

    @property
    def usd(self) -> float:
        """Price of the requests."""
        return self.reads * READ_USD + self.writes * WRITE_USD

    def node_memory(self, size: Size) -> float:
        """Memory of the tasks that run on one node at a time."""
        at_a_time = min(self.large_tasks or self.tasks, size.cpus)
        return self.task_memory * ceil(at_a_time / size.nodes)

    def waiting_s(self, cpus: int) -> float:
        """Seconds for which requests keep the head, and all tasks side by side, waiting."""
        others = self.reads + self.writes - self.head_requests
        return LATENCY_S * (self.head_requests + others / max(1, min(cpus, self.tasks)))


def shards(rows: float, files: int, size: int) -> int:
    """Shards of `size` rows of equal files, none of which reaches over the end of its file."""
    return files * max(1, ceil(rows / files / size))
