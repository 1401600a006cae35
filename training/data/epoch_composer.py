"""Composing an epoch: passes over the rows, the order of the steps among streams, and the manifest, which is last."""

import math
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core.errors import UserError
from pipeline.storage import artifact
from pipeline.storage.artifact import Artifact, Draft
from pipeline.storage.counts import Counts
from pipeline.storage.files import filesystem, join
from pipeline.storage.shuffle import Shuffle
from training.data.batching import stable_id
from training.data.epoch import REPLAY, Buckets, Pass, Recipe, Spread, here

STEPS = pa.schema([("step", pa.int64()), ("file", pa.int32()), ("place", pa.int32()), ("rows", pa.int32())])


@dataclass(frozen=True)
class Steps:
    """Batches of one stream by the files that hold them, and the rows of a short last one, 0 for none."""

    files: list[str]
    counts: list[int]
    short: int = 0

    @classmethod
    def of(cls, found: list[tuple[str, Counts]]) -> "Steps":
        """Steps of files in order, with what was counted in each."""
        counts = [tally.counts["full"] + tally.counts["short"] for _, tally in found]
        return cls([name for name, _ in found], counts, sum(tally.counts["short_rows"] for _, tally in found))

    @property
    def steps(self) -> int:
        """How many batches there are."""
        return sum(self.counts)

    def cut(self, most: int) -> "Steps":
        """The first batches."""
        before = np.cumsum([0, *self.counts])[:-1]
        return Steps(self.files, np.clip(most - before, 0, self.counts).tolist())


def compose_epoch(rows: Artifact, recipe: Recipe, number: int, place: str, spread: Spread = here) -> Artifact:
    """Compose an epoch of an artifact of rows at `place`, or return it where it is already there.

    Raises UserError where the rows do not fill a batch.
    """
    settings = {**asdict(recipe), "epoch": number}
    draft = artifact.begin(
        place,
        "epoch",
        settings,
        {"rows": rows.manifest.fingerprint},
        overwrite=True,
        resume=spread is not here,
        exclusive=False,
    )
    if isinstance(draft, Artifact):
        return draft
    notes = rows.manifest.notes
    streams = {name: about for name, about in notes["streams"].items() if name != REPLAY}
    total = Counts()
    found = _passed(_pass(rows, recipe, number, draft, streams, "0", recipe.seed), spread, total)
    if not any(one.steps for one in found):
        raise UserError(f"training rows: {notes['rows']} are too few for a batch of {recipe.size}")
    total.drop("not_this_epoch", total.counts["skipped"])
    if recipe.replay:
        found.append(_replayed(rows, recipe, number, draft, sum(one.steps for one in found), spread))
    return _finish(draft, recipe, found, total, rows)


def group_steps(rows: Artifact, recipe: Recipe) -> int:
    """Steps that a row group of an epoch holds."""
    notes = rows.manifest.notes
    return recipe.group_steps(notes["tokens"] / max(1, notes["rows"]))


def _pass(
    rows: Artifact, recipe: Recipe, number: int, draft: Draft, streams: dict[str, Any], name: str, seed: int
) -> Pass:
    """A pass over some streams; `name` tells it from others of the epoch."""
    tokens = sum(one["tokens"] for one in streams.values()) / max(1, sum(one["rows"] for one in streams.values()))
    size = recipe.bucket_rows(tokens)
    buckets: Buckets = {key: max(1, math.ceil(one["taken"] / size)) for key, one in sorted(streams.items())}
    return Pass(
        rows.files("rows"),
        recipe,
        seed,
        number,
        Shuffle(join(draft.path, "staging"), 1),
        draft.path,
        name,
        buckets,
        max(2, size // recipe.size),
        group_steps(rows, recipe),
    )


def _passed(one: Pass, spread: Spread, total: Counts) -> list[Steps]:
    """Run a pass; returns the steps of every stream."""
    for tally in spread(f"{one.name}-stage", len(one.files), one.stage):
        total.add(tally)
    files: dict[str, list[tuple[str, Counts]]] = {stream: [] for stream in one.buckets}
    buckets, level = one.buckets, 0
    while buckets:
        tallies = iter(spread(f"{one.name}-{level}", sum(buckets.values()), partial(one.level, level, buckets)))
        for stream, count in buckets.items():
            for bucket, tally in zip(range(count), tallies, strict=False):
                total.add(tally)
                if tally.counts["rows"]:
                    files[stream].append((one.part(stream, level, bucket), tally))
        buckets, level = one.above(buckets), level + 1
    return [Steps.of(found) for found in files.values()]


def _replayed(rows: Artifact, recipe: Recipe, number: int, draft: Draft, own: int, spread: Spread) -> Steps:
    """Full batches of the replayed stream, a fixed share of all: as many passes over its rows as that takes."""
    share = recipe.replay or 0.0
    ideal = own * share / (1 - share)
    wanted = math.floor((number + 1) * ideal + 0.5) - math.floor(number * ideal + 0.5)
    found, turn = Steps([], []), 0
    about = {REPLAY: rows.manifest.notes["streams"][REPLAY]}
    while found.steps < wanted:
        seed = stable_id(f"{recipe.seed}/replay/{turn}")
        (more,) = _passed(_pass(rows, recipe, number, draft, about, f"1-{turn:04d}", seed), spread, Counts())
        if not more.steps:
            raise UserError(
                f"replay: {about[REPLAY]['rows']} rows do not fill a batch of {recipe.size}; lower loop.batch_size or "
                "replay a bigger corpus"
            )
        found, turn = Steps(found.files + more.files, found.counts + more.counts), turn + 1
    return found.cut(wanted)


def _finish(draft: Draft, recipe: Recipe, found: list[Steps], total: Counts, rows: Artifact) -> Artifact:
    """Write the order of the steps and the manifest."""
    names = sorted(name for one in found for name in one.files)
    table = merged(found, [[names.index(name) for name in one.files] for one in found], recipe.size)
    draft.write("steps", table)
    draft.drop(total.dropped)
    fs, staging = filesystem(join(draft.path, "staging"))
    if fs.exists(staging):
        fs.rm(staging, recursive=True)
    return draft.finish(
        ["rows", "steps", "left"],
        steps=len(table),
        tokens=total.counts["tokens"],
        group_steps=group_steps(rows, recipe),
        size=recipe.size,
        slots=recipe.slots,
        columns=rows.manifest.notes["columns"],
    )


def merged(found: list[Steps], numbers: list[list[int]], size: int) -> pa.Table:
    """Steps of all streams in the order in which they are trained on.

    Each stream's keep their order and are spread evenly among the others'; short batches come last.
    """
    parts = []
    for stream, (one, files) in enumerate(zip(found, numbers, strict=True)):
        held = np.full(one.steps, size, dtype=np.int64)
        held[one.steps - bool(one.short) :] = one.short
        within = np.concatenate([np.zeros(0, np.int64), *map(np.arange, one.counts)])
        far = (np.arange(one.steps) + 0.5) / max(1, one.steps)
        parts.append([held < size, far, np.full(one.steps, stream), np.repeat(files, one.counts), within, held])
    short, at, order, file, place, rows = (np.concatenate(column) for column in zip(*parts, strict=True))
    ranked = np.lexsort((order, at, short))
    columns = [np.arange(len(ranked)), *(one[ranked].astype(np.int64) for one in (file, place, rows))]
    return pa.table([pa.array(one).cast(field.type) for one, field in zip(columns, STEPS, strict=True)], schema=STEPS)
