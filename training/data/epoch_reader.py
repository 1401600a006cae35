"""What a rank takes of every step, read from the epochs in order: one integer says where it is."""

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
from training.data.epoch import Recipe
from training.data.epoch_composer import compose_epoch
from training.data.rows import Rows
from training.data.rows_artifact import pieces, write_rows
from training.data.tokenized import Tokenize, beside, ragged, texts

T = TypeVar("T")

SLOTS = 12
WAIT = 0.2  # seconds between looks for an epoch that is being composed
KEPT = 4  # row groups in memory
OPENED, FAILED = ".opened.json", ".failed.json"  # beside an epoch: that it is being read, that it could not be made


@dataclass(frozen=True)
class Spot:
    """A step of an epoch: where its rows are, and how many."""

    epoch: int
    file: int
    place: int
    rows: int

    def __len__(self) -> int:
        return self.rows


@dataclass(frozen=True)
class Part:
    """One rank's rows of a global batch, slot by slot: tokens by column, and what travels with them.

    `slots` are the slots that hold a row, and `counts` how many each holds.
    """

    texts: dict[str, Tokens]
    beside: dict[str, Ints]
    rows: Ints
    slots: list[int]
    counts: list[int]


class Reader:
    """The steps of one epoch."""

    def __init__(self, epoch: Artifact, number: int) -> None:
        self.epoch, self.number, self.notes = epoch, number, epoch.manifest.notes
        self.files = epoch.files("rows")
        steps = epoch.read("steps").sort_by("step")
        self.steps = np.stack([steps[name].to_numpy().astype(np.int64) for name in ("file", "place", "rows")], axis=1)
        self.groups: dict[tuple[int, int], pa.Table] = {}

    def __len__(self) -> int:
        return len(self.steps)

    def spot(self, step: int) -> Spot:
        """A step of this epoch, counted from 0."""
        return Spot(self.number, *self.steps[step].tolist())

    def table(self, spot: Spot) -> pa.Table:
        """Rows of a global batch in order of slots."""
        size, per_group = self.notes["size"], self.notes["group_steps"]
        group = self._group(spot.file, spot.place // per_group)
        return group.slice(spot.place % per_group * size, spot.rows)

    def _group(self, file: int, number: int) -> pa.Table:
        key = (file, number)
        if key not in self.groups:
            self.groups[key] = self._read(self.files[file], number)
            while len(self.groups) > KEPT:
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


class Feed:
    """Steps of a run, epoch after epoch, up to epoch `stop`; `epoch` gives each, and may wait until it is composed."""

    def __init__(self, epoch: Callable[[int], Artifact], stop: int | None = None) -> None:
        self.epoch, self.stop = epoch, stop
        self.readers: dict[int, Reader] = {}

    @property
    def steps(self) -> int:
        """Steps of the first epoch; a run is as many of them as it has epochs."""
        return len(self.reader(0))

    @property
    def first(self) -> Spot:
        """The first step."""
        return self.reader(0).spot(0)

    def reader(self, number: int) -> Reader:
        """Open an epoch."""
        if number not in self.readers:
            self.readers[number] = Reader(self.epoch(number), number)
        return self.readers[number]

    def plan(self, start: int, total: int) -> Iterator[tuple[int, Spot]]:
        """Yield (step, spot) from step `start` to the last."""
        step, number = 0, 0
        while step < total and number != self.stop:
            reader = self.reader(number)
            for place in range(max(0, start - step), min(len(reader), total - step)):
                yield step + place, reader.spot(place)
            step, number = step + len(reader), number + 1

    def ends(self, spot: Spot) -> bool:
        """Whether no step of the plan follows this one, though the run may go on."""
        return spot.epoch + 1 == self.stop and spot == self.reader(spot.epoch).spot(-1)

    def rows(self, spot: Spot) -> list[int]:
        """Row numbers of a global batch, in order of slots."""
        numbers: list[int] = self.reader(spot.epoch).table(spot)["row"].to_pylist()
        return numbers

    def part(self, spot: Spot, rank: int, ranks: int) -> Part:
        """Rows of one rank of a step: those of the slots that are `rank` modulo `ranks`."""
        reader = self.reader(spot.epoch)
        whole = reader.table(spot)
        if ranks > reader.notes["slots"]:  # fewer that do not divide them only balance less well
            raise UserError(told(reader.notes["slots"], ranks))
        slot = whole["slot"].to_numpy()
        width = int(ragged(whole["relevant_id"])[1].max())
        mine = whole.take(pa.array(np.flatnonzero(slot % ranks == rank))).combine_chunks()
        slots, counts = np.unique(slot[slot % ranks == rank], return_counts=True)
        return Part(
            texts(mine),
            beside(mine, reader.notes["columns"], max(1, width)),
            mine["row"].to_numpy(),
            slots.tolist(),
            counts.tolist(),
        )


def ahead(plan: Iterator[tuple[int, Spot]], work: Callable[[Spot], T], depth: int = 2) -> Iterator[tuple[int, Spot, T]]:
    """Get the work of the next steps ready while one trains: (step, spot, work), at most `depth` beforehand."""
    with ThreadPoolExecutor(1) as pool:
        held: deque[tuple[int, Spot, Future[T]]] = deque()
        for step, spot in plan:
            held.append((step, spot, pool.submit(work, spot)))
            if len(held) > depth:
                first, place, ready = held.popleft()
                yield first, place, ready.result()
        for first, place, ready in held:
            yield first, place, ready.result()


def told(slots: int, ranks: int) -> str:
    """One line for a number of workers that the slots cannot be divided among."""
    return f"loop.slots {slots}: cannot be divided among {ranks} workers; set loop.slots to {math.lcm(slots, ranks)}"


def slots_for(asked: int | None, ranks: int) -> int:
    """Logical slots of a run: what was asked, else the least multiple of 12 that divides among the ranks.

    Raises UserError where what was asked does not.
    """
    if asked is None:
        return math.lcm(SLOTS, ranks)
    if asked % ranks:
        raise UserError(told(asked, ranks))
    return asked


class Made:
    """Epochs of rows in memory, composed in this process when they are asked for, in a folder that goes with it."""

    def __init__(self, rows: Rows, tokenize: Tokenize, recipe: Recipe) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="epochs-")
        self.recipe = recipe
        self.rows = write_rows(join(self.folder.name, "rows"), {}, {}, pieces(rows, tokenize))

    def __call__(self, number: int) -> Artifact:
        """Compose an epoch, once."""
        return compose_epoch(self.rows, self.recipe, number, join(self.folder.name, f"epoch-{number:05d}"))


class Awaited:
    """Epochs that another process composes below a folder; with `marks`, opening one is left there as a mark."""

    def __init__(self, home: str, *, marks: bool) -> None:
        self.home, self.marks = home, marks

    def __call__(self, number: int) -> Artifact:
        """Wait for an epoch; raises UserError where it could not be made."""
        place = epoch_place(self.home, number)
        fs, root = filesystem(place)
        while not fs.exists(join(root, MANIFEST)):
            if fs.exists(root + FAILED):
                raise UserError(f"epoch {number}: {read_json(place + FAILED)['error']}")
            time.sleep(WAIT)
        if self.marks:
            write_json(place + OPENED, {"epoch": number})
        return Artifact.open(place, "epoch")


def epoch_place(home: str, number: int) -> str:
    """Where an epoch of a run is."""
    return join(home, f"epoch-{number:05d}")
