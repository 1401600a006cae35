"""The build job on Ray: plan the blocks, run the steps, write the manifest last.

Blocks of the sources are read in parallel and staged in buckets (`exchange`); then each step sees one bucket of what
the step before left. A small input has one bucket and takes all steps in one task. Rows do not depend on the number
of blocks, buckets or CPUs.
"""

import math
from collections import Counter
from typing import Any

from pipeline.building.config import BuildConfig
from pipeline.building.steps import Steps
from pipeline.core import ray_session
from pipeline.core.errors import UserError
from pipeline.core.progress import Progress, say
from pipeline.sources.reading.record import Block
from pipeline.storage import shuffle
from pipeline.storage.artifact import Artifact, begin
from pipeline.storage.counts import Counts
from pipeline.storage.files import filesystem, fingerprint_file, join
from pipeline.storage.shuffle import Shuffle

WRITTEN = ["corpus", "queries", "qrels", "pairs", "triplets", "labelled"]
BUCKET_BYTES = 64 << 20
LEAST_BLOCK, MOST_BLOCK, BLOCKS = 32 << 20, 128 << 20, 128  # every bucket is read from as many files as blocks
_UNUSABLE = ("unreadable_row", "missing_field")


def run(config: BuildConfig) -> Artifact:
    """Build the artifact at `config.place`, or return it when it is already made of the same inputs and settings.

    Raises UserError for a source that cannot be read or is not what the recipe says, and for an empty corpus.
    """
    blocks = _blocks(config)
    draft = begin(
        config.place, "build", config.result_settings(), _fingerprints(config), overwrite=config.overwrite, keep=True
    )
    if isinstance(draft, Artifact):
        _judge(config, draft.manifest.notes)
        say(f"build: already done: {config.place}")
        return draft
    size = sum(block.size for block in blocks)
    buckets = config.buckets or max(1, math.ceil(size / BUCKET_BYTES))
    say(f"build: {len(config.sources)} sources, {size / 1e6:,.1f} MB in {len(blocks)} blocks, {buckets} buckets")
    ray_session.start()
    steps = Steps(config, draft, blocks, Shuffle(join(config.place, "staging"), buckets))
    return _finish(steps, _execute(steps))


def _blocks(config: BuildConfig) -> list[Block]:
    """Cut the sources: into small blocks, or into about `BLOCKS` that are larger."""

    def cut(size: int) -> list[Block]:
        every = enumerate(config.every_source)
        return [block for index, source in every for block in source.blocks(config.root, index, size)]

    blocks = cut(config.block_bytes or LEAST_BLOCK)
    even = min(MOST_BLOCK, sum(block.size for block in blocks) // BLOCKS)
    return blocks if config.block_bytes or even <= LEAST_BLOCK else cut(even)


def _fingerprints(config: BuildConfig) -> dict[str, str]:
    paths = {shown: path for source in config.every_source for shown, path in source.inputs(config.root).items()}
    return {shown: fingerprint_file(path) for shown, path in sorted(paths.items())}


def _execute(steps: Steps) -> Counts:
    """Run all steps on Ray and return what they counted."""
    buckets, total = steps.exchange.buckets, Counts()
    read = _spread(steps, "read", steps.read, len(steps.blocks), "blocks", streamed=True)
    total.add(_check_read(steps, read))
    todo = [steps.join] if buckets == 1 else steps.after_reading()
    for number, step in enumerate(todo, 1):
        if buckets > 1 and steps.idle(step):
            continue
        for tally in _spread(steps, f"{number}-{step.__name__}", step, buckets, "buckets"):
            total.add(tally)
    return total


def _spread(
    steps: Steps, name: str, task: shuffle.Task, count: int, unit: str, *, streamed: bool = False
) -> list[Counts]:
    progress = Progress(f"build: {name.split('-')[-1]}", count, unit)
    marks = join(steps.exchange.path, "marks")
    return shuffle.run(name, count, task, marks, lambda _: progress.add(1), streamed=streamed)


def _check_read(steps: Steps, tallies: list[Counts]) -> Counts:
    """Sum the tallies of all blocks, naming lines by file; raises UserError for a file that is mostly unusable."""
    total, lines = Counts(), Counter[str]()
    rows, bad = Counter[str](), Counter[str]()
    for block, tally in zip(steps.blocks, tallies, strict=True):
        tally.place(block.path, lines[block.path])
        lines[block.path] += tally.rows
        rows[block.path] += tally.counts["rows"]
        bad[block.path] += sum(tally.dropped[reason] for reason in _UNUSABLE)
        label = steps.config.every_source[block.source].label
        kind = "source" if block.source < len(steps.config.sources) else "extra"
        total.counts.update({f"{kind} {label} {name}": count for name, count in tally.counts.items()})
        total.add(tally)
    for path, count in bad.items():
        if count > steps.config.max_bad_share * rows[path]:
            shown = [text for reason in _UNUSABLE for text in total.examples.get(reason, []) if text.startswith(path)]
            first = f"; line {shown[0].removeprefix(path + ':')}" if shown else ""
            raise UserError(f"source {path}: {count:,} of {rows[path]:,} rows cannot be used{first}")
    return total


def _finish(steps: Steps, total: Counts) -> Artifact:
    """Refuse an empty result, remove what was staged and write the manifest."""
    place, counts = steps.config.place, total.counts
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in sorted(total.dropped.items())) or "nothing"
    if not counts["table corpus"] and not counts["table labelled"]:
        raise UserError(
            f"no usable document in {_named(steps.config)}: {counts['rows']:,} rows read, dropped {dropped}"
        )
    notes = _notes(steps.config, total)
    _judge(steps.config, notes)
    fs, staging = filesystem(steps.exchange.path)
    fs.rm(staging, recursive=True)
    steps.draft.drop(total.dropped)
    artifact = steps.draft.finish(WRITTEN, **notes)
    tables = ", ".join(f"{name} {artifact.rows(name):,}" for name in WRITTEN if artifact.has(name))
    say(f"build: rows: {tables}")
    say(f"build: dropped: {dropped}")
    if notes["leakage"]:
        say(f"build: leakage: {_told(notes['leakage'])}")
    for reason, examples in sorted(total.examples.items()):
        say(f"build: {reason}: {examples[0]}")
    say(f"build: done: {place}")
    return artifact


def _named(config: BuildConfig) -> str:
    """Return the places of the sources, as the recipe writes them."""
    places = [getattr(s, "path", None) or getattr(s, "dataset", None) or s.label for s in config.sources]
    return ", ".join(place if isinstance(place, str) else ", ".join(place) for place in places)


def _judge(config: BuildConfig, notes: dict[str, Any]) -> None:
    """Refuse a result that leaks where the recipe is strict."""
    found = notes["leakage"].get("found") if notes.get("leakage") else None
    if config.strict and not notes.get("leakage"):
        raise UserError("strict: leaks were not looked for; leave `decontaminate: {action: off}` out")
    if config.strict and found:
        first = notes["examples"].get(next(iter(found)), ["no example"])[0]
        raise UserError(f"strict: {_told(notes['leakage'])}; first: {first}; mend the sources or leave --strict out")


def _told(leakage: dict[str, Any]) -> str:
    asked = f"{leakage['queries']:,} held-out queries and {leakage['labelled_pairs']:,} labelled pairs"
    found = ", ".join(f"{count:,} {reason}" for reason, count in leakage["found"].items()) or "none leaks"
    done = f"; {'removed' if leakage['action'] == 'remove' else 'kept'}" if leakage["found"] else ""
    return f"{leakage['checked']:,} training rows beside {asked}: {found}{done}"


def _leakage(config: BuildConfig, counts: Counter[str]) -> dict[str, Any]:
    """Return what was checked and found; nothing where leaks were not looked for."""
    settings = config.decontaminate
    if settings.action == "off":
        return {}
    named = {name.removeprefix("leakage "): n for name, n in sorted(counts.items()) if name.startswith("leakage ")}
    found = {name.removeprefix("found "): n for name, n in named.items() if name.startswith("found ")}
    sums = {name: named.get(name, 0) for name in ("checked", "queries", "labelled_pairs", "shared_documents")}
    extra = [source.label for source in settings.extra]
    how = {"action": settings.action, "near": settings.near, "threshold": settings.threshold, "extra": extra}
    return {**sums, "found": found, **how}


def _notes(config: BuildConfig, total: Counts) -> dict[str, Any]:
    """Return what the manifest says beside tables and drops: rows by source and split, offenders, counts, leaks."""
    notes: dict[str, Any] = {
        "sources": {},
        "splits": {},
        "counts": {},
        "leakage": _leakage(config, total.counts),
        "examples": dict(sorted(total.examples.items())),
    }
    for name, count in sorted(total.counts.items()):
        first, _, rest = name.partition(" ")
        if first == "source":
            source, _, what = rest.rpartition(" ")
            notes["sources"].setdefault(source, {})[what] = count
        elif first == "split":
            table, _, split = rest.partition(" ")
            notes["splits"].setdefault(table, {})[split] = count
        elif first != "table" and " " not in name:
            notes["counts"][name] = count
    return notes
