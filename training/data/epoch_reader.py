"""The rows of a rank, step by step, read from the epochs in order; the step alone says where training is."""

import math
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa

from pipeline.core.errors import UserError
from pipeline.encoder.tokenizer import Tokens
from pipeline.storage.artifact import MANIFEST, Artifact
from pipeline.storage.files import filesystem, join, open_parquet, read_json, write_json
from training.data.batching import Ints
from training.data.epoch import EpochSettings
from training.data.epoch_composer import compose_epoch
from training.data.rows import Rows
from training.data.rows_artifact import tokenise_in_pieces, write_rows
from training.data.tokenized import Tokenize, id_columns, ragged, token_columns

T = TypeVar("T")

SLOTS = 12
POLL_S = 0.2  # seconds between checks for an epoch that is being composed
CACHED_GROUPS = 4  # row groups in memory
OPENED, FAILED = (
    ".opened.json",
    ".failed.json",
)  # suffixes of files beside an epoch: training has opened it, composing it failed


@dataclass(frozen=True)
class StepRef:
    """A reference to a step of an epoch: the file and index of its global batch, and its number of rows."""

    epoch: int
    file: int
    index: int
    rows: int

    def __len__(self) -> int:
        return self.rows


@dataclass(frozen=True)
class RankRows:
    """One rank's rows of a global batch, in order of slots: token ids by column, and the id columns to gather.

    `slots` are the slots that hold a row, and `counts` how many rows each holds.
    """

    texts: dict[str, Tokens]
    columns: dict[str, Ints]
    rows: Ints
    slots: list[int]
    counts: list[int]


class EpochReader:
    """Reads the steps of one epoch."""

    def __init__(self, epoch: Artifact, number: int) -> None:
        self.epoch, self.number, self.notes = epoch, number, epoch.manifest.notes
        self.files = epoch.files("rows")
        steps = epoch.read("steps").sort_by("step")
        self.steps = np.stack([steps[name].to_numpy().astype(np.int64) for name in ("file", "index", "rows")], axis=1)
        self.groups: dict[tuple[int, int], pa.Table] = {}

    def __len__(self) -> int:
        return len(self.steps)

    def step_ref(self, step: int) -> StepRef:
        """Reference to a step of this epoch, counted from 0."""
        return StepRef(self.number, *self.steps[step].tolist())

    def batch(self, ref: StepRef) -> pa.Table:
        """Rows of a global batch, in order of slots."""
        size, per_group = self.notes["size"], self.notes["group_steps"]
        group = self._group(ref.file, ref.index // per_group)
        return group.slice(ref.index % per_group * size, ref.rows)

    def _group(self, file: int, number: int) -> pa.Table:
        key = (file, number)
        if key not in self.groups:
            self.groups[key] = self._read(self.files[file], number)
            while len(self.groups) > CACHED_GROUPS:
                self.groups.pop(next(iter(self.groups)))
        return self.groups[key]

    def _read(self, path: str, number: int) -> pa.Table:
        try:
            with open_parquet(path) as parquet:
                return parquet.read_row_group(number)
        except UserError as error:
            raise UserError(
                f"{error} (row group {number}); remove {self.epoch.path}, and the same command composes it again"
            ) from error


Complete = Callable[[pa.Table, StepRef], pa.Table]


class EpochFeed:
    """Steps of a run, epoch after epoch, up to epoch `stop`; `epoch` opens each, and may wait until it is composed.

    `complete` adds to the rows of each global batch what a training wants of the whole of it.
    """

    def __init__(self, epoch: Callable[[int], Artifact], stop: int | None = None) -> None:
        self.epoch, self.stop = epoch, stop
        self.complete: Complete | None = None
        self.readers: dict[int, EpochReader] = {}

    @property
    def steps(self) -> int:
        """Steps of the first epoch; a run is as many of them as it has epochs."""
        return len(self.reader(0))

    @property
    def first(self) -> StepRef:
        """The first step."""
        return self.reader(0).step_ref(0)

    def reader(self, number: int) -> EpochReader:
        """Open an epoch."""
        if number not in self.readers:
            self.readers[number] = EpochReader(self.epoch(number), number)
        return self.readers[number]

    def plan(self, start: int, total: int) -> Iterator[tuple[int, StepRef]]:
        """Yield (step, reference) from step `start` to the last."""
        step, number = 0, 0
        while step < total and number != self.stop:
            reader = self.reader(number)
            for index in range(max(0, start - step), min(len(reader), total - step)):
                yield step + index, reader.step_ref(index)
            step, number = step + len(reader), number + 1

    def ends(self, ref: StepRef) -> bool:
        """Whether no step of the plan follows this one, though the run may go on."""
        return ref.epoch + 1 == self.stop and ref == self.reader(ref.epoch).step_ref(-1)

    def rows(self, ref: StepRef) -> list[int]:
        """Row numbers of a global batch, in order of slots."""
        numbers: list[int] = self.reader(ref.epoch).batch(ref)["row"].to_pylist()
        return numbers

    def rank_rows(self, ref: StepRef, rank: int, ranks: int) -> RankRows:
        """Rows of one rank of a step: those of the slots that are `rank` modulo `ranks`."""
        reader = self.reader(ref.epoch)
        batch = reader.batch(ref)
        batch = self.complete(batch, ref) if self.complete else batch
        if ranks > reader.notes["slots"]:  # fewer that do not divide them only balance less well
            raise UserError(indivisible(reader.notes["slots"], ranks))
        slot = batch["slot"].to_numpy()
        width = max(int(ragged(batch[name])[1].max()) for name in ("relevant_id", "relevant_cluster"))
        local = batch.take(pa.array(np.flatnonzero(slot % ranks == rank))).combine_chunks()
        slots, counts = np.unique(slot[slot % ranks == rank], return_counts=True)
        return RankRows(
            token_columns(local),
            id_columns(local, reader.notes["columns"], max(1, width)),
            local["row"].to_numpy(),
            slots.tolist(),
            counts.tolist(),
        )


def prefetch(
    plan: Iterator[tuple[int, StepRef]], work: Callable[[StepRef], T], depth: int = 2
) -> Iterator[tuple[int, StepRef, T]]:
    """Prepare up to `depth` steps on a thread while one trains; yields (step, reference, prepared)."""
    with ThreadPoolExecutor(1) as pool:
        pending: deque[tuple[int, StepRef, Future[T]]] = deque()
        for step, ref in plan:
            pending.append((step, ref, pool.submit(work, ref)))
            if len(pending) > depth:
                first, ref, ready = pending.popleft()
                yield first, ref, ready.result()
        for first, ref, ready in pending:
            yield first, ref, ready.result()


def indivisible(slots: int, ranks: int) -> str:
    """Message for a number of workers that does not divide the slots."""
    return f"loop.slots {slots}: cannot be divided among {ranks} workers; set loop.slots to {math.lcm(slots, ranks)}"


def slots_for(slots: int | None, ranks: int) -> int:
    """Logical slots of a run: the setting, else the least multiple of 12 that divides among the ranks.

    Raises UserError where the setting does not divide among them.
    """
    if slots is None:
        return math.lcm(SLOTS, ranks)
    if slots % ranks:
        raise UserError(indivisible(slots, ranks))
    return slots


class InMemoryEpochs:
    """Epochs of rows in memory, composed in this process on first use, in a temporary directory."""

    def __init__(self, rows: Rows, tokenize: Tokenize, settings: EpochSettings) -> None:
        self.directory = tempfile.TemporaryDirectory(prefix="epochs-")
        self.settings = settings
        self.rows = write_rows(join(self.directory.name, "rows"), {}, {}, tokenise_in_pieces(rows, tokenize))

    def __call__(self, number: int) -> Artifact:
        """Compose an epoch, or open it if it has been composed."""
        return compose_epoch(self.rows, self.settings, number, join(self.directory.name, f"epoch-{number:05d}"))


class EpochWaiter:
    """Waits for epochs that another process composes; with `mark_opened`, a file beside each says that it is in use."""

    def __init__(self, directory: str, *, mark_opened: bool) -> None:
        self.directory, self.mark_opened = directory, mark_opened

    def __call__(self, number: int) -> Artifact:
        """Wait for an epoch; raises UserError where it could not be made."""
        path = epoch_path(self.directory, number)
        fs, root = filesystem(path)
        while not fs.exists(join(root, MANIFEST)):
            if fs.exists(root + FAILED):
                raise UserError(f"epoch {number}: {read_json(path + FAILED)['error']}")
            time.sleep(POLL_S)
        if self.mark_opened:
            write_json(path + OPENED, {"epoch": number})
        return Artifact.open(path, "epoch")


def epoch_path(directory: str, number: int) -> str:
    """Path of an epoch of a run."""
    return join(directory, f"epoch-{number:05d}")
