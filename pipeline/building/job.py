"""The build job on Ray: plan the blocks, run the steps, write the manifest last.

Blocks of the sources are read in parallel and staged in buckets (`storage.shuffle`); then each step reads one bucket of
what the step before staged. A small input has one bucket, and one task runs all its steps. Rows do not depend on the
number of blocks, buckets or CPUs.
"""

import math
from collections import Counter
from dataclasses import replace
from typing import Any

from pipeline.building.ambiguous_ids import has_ambiguous, with_derived_ids
from pipeline.building.answer_groups import is_large, large_group_message, messages
from pipeline.building.config import MAX_BUCKETS, BuildConfig
from pipeline.building.input_rows import FileRows, check_unusable, rows_by_file, shortened, table, unread_columns
from pipeline.building.steps import Steps
from pipeline.building.unmatched import check_matches
from pipeline.core import ray_session
from pipeline.core.errors import UserError
from pipeline.core.progress import Progress, say
from pipeline.sources.reading.record import Block, IdKind
from pipeline.storage import shuffle
from pipeline.storage.artifact import Artifact, begin
from pipeline.storage.counts import Counts
from pipeline.storage.files import filesystem, join
from pipeline.storage.fingerprints import fingerprint_files
from pipeline.storage.shuffle import Shuffle

DerivedIds = tuple[tuple[str, IdKind], ...]  # sources whose ids of a kind are made from the texts
TABLE_NAMES = ["corpus", "queries", "qrels", "pairs", "triplets", "labelled"]
BUCKET_BYTES, LARGE_BUCKET_BYTES = 64 << 20, 512 << 20  # of a bucket, and of one where there are `MAX_BUCKETS`
MIN_BLOCK_BYTES, MAX_BLOCK_BYTES, BLOCKS = 32 << 20, 128 << 20, 128  # every bucket is read from as many files as blocks


def run(config: BuildConfig) -> Artifact:
    """Build the artifact at `config.path`, or return it when it exists, made of the same inputs and settings.

    Raises UserError for a source that cannot be read or is not what the recipe says, and for an empty corpus.
    """
    blocks = _blocks(config)
    draft = begin(
        config.path, "build", config.result_settings(), _fingerprints(config), overwrite=config.overwrite, resume=True
    )
    if isinstance(draft, Artifact):
        _check_strict(config, draft.manifest.notes)
        say(f"build: already done: {config.path}")
        return draft
    size = sum(block.size for block in blocks)
    buckets = bucket_count(size, config.buckets)
    say(f"build: {len(config.sources)} sources, {size / 1e6:,.1f} MB in {len(blocks)} blocks, {buckets} buckets")
    ray_session.start_for(size, config.in_process_bytes)
    steps = Steps(config, draft, blocks, Shuffle(join(config.path, "staging"), buckets))
    return _finish(*_execute(steps))


def bucket_count(size: int, setting: int | None = None) -> int:
    """Buckets of an input of `size` bytes, unless the recipe sets them.

    Each joining task opens all staged files, so from `MAX_BUCKETS` on they grow before there are more of them.
    """
    small, large = (math.ceil(size / limit) for limit in (BUCKET_BYTES, LARGE_BUCKET_BYTES))
    return setting or max(1, min(small, MAX_BUCKETS), large)


def block_bytes(size: int) -> int:
    """Bytes of a block of an input of `size` bytes: small ones, or about `BLOCKS` that are larger."""
    return max(MIN_BLOCK_BYTES, min(MAX_BLOCK_BYTES, size // BLOCKS))


def _blocks(config: BuildConfig) -> list[Block]:
    """Cut the sources: into small blocks, or into about `BLOCKS` that are larger."""

    def cut(size: int) -> list[Block]:
        sources = enumerate(config.all_sources)
        return [block for index, source in sources for block in source.blocks(config.root, index, size)]

    blocks = cut(config.block_bytes or MIN_BLOCK_BYTES)
    even = block_bytes(sum(block.size for block in blocks))
    blocks = blocks if config.block_bytes or even == MIN_BLOCK_BYTES else cut(even)
    return [replace(block, max_line_bytes=config.max_line_bytes) for block in blocks]


def _fingerprints(config: BuildConfig) -> dict[str, str]:
    paths = {name: path for source in config.all_sources for name, path in source.inputs(config.root).items()}
    names = sorted(paths)
    return dict(zip(names, fingerprint_files([paths[name] for name in names]), strict=True))


def _execute(steps: Steps, derived: DerivedIds = ()) -> tuple[Steps, Counts, list[FileRows], DerivedIds]:
    """Run all steps on Ray and return them with the sum of their counts, and the rows of each input file.

    Where ids of rows that state their own pair are ambiguous, the input is read once more without these ids.
    """
    buckets, total = steps.shuffle.buckets, Counts()
    read = _run_tasks(steps, "read", steps.read, len(steps.blocks), "blocks", streamed=True)
    files = _add_read(steps, read, total)
    todo = [steps.all_after_reading] if buckets == 1 else steps.after_reading()
    for number, step in enumerate(todo, 1):
        if buckets > 1 and steps.has_no_input(step):
            continue
        for counts in _run_tasks(steps, f"{number}-{step.__name__}", step, buckets, "buckets"):
            total.add(counts)
        if has_ambiguous(total):
            return _execute(*_without_ambiguous_ids(steps, total, derived))
    return steps, total, files, derived


def _without_ambiguous_ids(steps: Steps, total: Counts, derived: DerivedIds) -> tuple[Steps, DerivedIds]:
    """The same steps with ids made from the texts of the sources whose ids were found to be ambiguous."""
    config, found = with_derived_ids(steps.config, total.counts)
    if set(found) & set(derived):
        raise UserError(f"ids made from the texts repeat: {total.examples['ambiguous_ids'][0]}")
    for label, kind in found:
        say(f"build: source {label}: ids of {kind} stand for several texts; made from the texts instead, read again")
    for example in total.examples["ambiguous_ids"]:
        say(f"build: ambiguous_ids: {example}")
    shuffle = replace(steps.shuffle, path=join(steps.shuffle.path, "derived"))
    return replace(steps, config=config, shuffle=shuffle), (*derived, *found)


def _run_tasks(
    steps: Steps, name: str, task: shuffle.Task, count: int, unit: str, *, streamed: bool = False
) -> list[Counts]:
    marks = join(steps.shuffle.path, "marks")
    with Progress(f"build: {name.split('-')[-1]}", count, unit) as progress:
        return shuffle.run_tasks(name, count, task, marks, lambda _: progress.add(1), streamed=streamed)


def _add_read(steps: Steps, tallies: list[Counts], total: Counts) -> list[FileRows]:
    """Add the counts of all blocks, naming lines by file, and return the rows of each file.

    Raises UserError for a file that is mostly unusable.
    """
    lines = Counter[str]()
    for block, tally in zip(steps.blocks, tallies, strict=True):
        tally.locate_offenders(block.path, lines[block.path])
        lines[block.path] += tally.rows
        label = steps.config.all_sources[block.source].label
        kind = "source" if block.source < len(steps.config.sources) else "extra"
        total.counts.update({f"{kind} {label} {name}": count for name, count in tally.counts.items()})
        total.add(tally)
    files = rows_by_file(steps.config, steps.blocks, tallies)
    check_unusable(files, steps.config.max_bad_share, total.examples)
    return files


def _finish(steps: Steps, total: Counts, files: list[FileRows], derived: DerivedIds) -> Artifact:
    """Refuse an empty result, remove the staged files and write the manifest."""
    path, counts = steps.config.path, total.counts
    if not counts["table corpus"] and not counts["table labelled"]:
        dropped = _counted(total.dropped)
        examples = [lines[0] for reason, lines in sorted(total.examples.items()) if total.dropped[reason]]
        raise UserError(
            f"no usable document in {_source_paths(steps.config)}: {counts['rows']:,} rows read, dropped {dropped}"
            + "".join(f"; {example}" for example in examples[:2])
        )
    check_matches([source.label for source in steps.config.sources], steps.shuffle, counts)
    shared_answers = messages(steps.config.split, counts)
    if is_large(counts):
        shared_answers.append(large_group_message(counts, *steps.answer_groups.most_shared()))
    notes = _notes(steps.config, total)
    left_out = {source.label: source.left_out(steps.config.root) for source in steps.config.all_sources}
    notes["left_out_files"] = {label: names for label, names in left_out.items() if names}
    notes |= {"input_rows": [file.plain() for file in files], "unread_columns": unread_columns(files)}
    notes["derived_ids"] = {kind: sorted(label for label, k in derived if k == kind) for _, kind in derived}
    _check_strict(steps.config, notes)
    fs, staging = filesystem(join(steps.config.path, "staging"))
    fs.rm(staging, recursive=True)
    steps.draft.drop(total.dropped)
    artifact = steps.draft.finish(TABLE_NAMES, **notes)
    tables = ", ".join(f"{name} {artifact.rows(name):,}" for name in TABLE_NAMES if artifact.has(name))
    for line in table(files):
        say(f"build: {line}")
    say(f"build: rows: {tables}")
    say(f"build: records left out: {_counted(total.records_dropped())}")
    for line in shared_answers:
        say(f"build: splits: {line}")
    for label, columns in notes["unread_columns"].items():
        say(f"build: source {label}: columns not read: {', '.join(columns)}")
    for label, names in notes["left_out_files"].items():
        say(f"build: source {label}: hidden files left out: {shortened(names)}")
    if empty := [file.file for file in files if not file.read]:
        say(f"build: files without rows: {shortened(empty)}")
    if notes["leakage"]:
        say(f"build: leakage: {_leakage_message(notes['leakage'])}")
    for reason, examples in sorted(total.examples.items()):
        say(f"build: {reason}: {examples[0]}")
    say(f"build: done: {path}")
    return artifact


def _counted(reasons: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.items())) or "nothing"


def _source_paths(config: BuildConfig) -> str:
    """Return the paths of the sources, as the recipe writes them."""
    paths = [getattr(s, "path", None) or getattr(s, "dataset", None) or s.label for s in config.sources]
    return ", ".join(path if isinstance(path, str) else ", ".join(path) for path in paths)


def _check_strict(config: BuildConfig, notes: dict[str, Any]) -> None:
    """Refuse a result that leaks where the recipe is strict."""
    leaks = notes["leakage"].get("found") if notes.get("leakage") else None
    if config.strict and not notes.get("leakage"):
        raise UserError("strict: leaks were not looked for; leave `decontaminate: {action: off}` out")
    if config.strict and leaks:
        first = notes["examples"].get(next(iter(leaks)), ["no example"])[0]
        raise UserError(
            f"strict: {_leakage_message(notes['leakage'])}; first: {first}; correct the sources or leave --strict out"
        )


def _leakage_message(leakage: dict[str, Any]) -> str:
    evaluation = f"{leakage['queries']:,} held-out queries and {leakage['labelled_pairs']:,} labelled pairs"
    leaks = ", ".join(f"{count:,} {reason}" for reason, count in leakage["found"].items()) or "none leaks"
    action = f"; {'removed' if leakage['action'] == 'remove' else 'kept'}" if leakage["found"] else ""
    return f"{leakage['checked']:,} training rows against {evaluation}: {leaks}{action}"


def _leakage(config: BuildConfig, counts: Counter[str]) -> dict[str, Any]:
    """Return counts and settings of decontamination; nothing where it is off."""
    settings = config.decontaminate
    if settings.action == "off":
        return {}
    leakage = {name.removeprefix("leakage "): n for name, n in sorted(counts.items()) if name.startswith("leakage ")}
    leaks = {name.removeprefix("found "): n for name, n in leakage.items() if name.startswith("found ")}
    sums = {name: leakage.get(name, 0) for name in ("checked", "queries", "labelled_pairs", "shared_documents")}
    extra = [source.label for source in settings.extra]
    how = {"action": settings.action, "near": settings.near, "threshold": settings.threshold, "extra": extra}
    return {**sums, "found": leaks, **how}


def _notes(config: BuildConfig, total: Counts) -> dict[str, Any]:
    """Return the notes of the manifest: rows by source and by split, examples of dropped rows, counts, leaks."""
    notes: dict[str, Any] = {
        "sources": {},
        "splits": {},
        "counts": {},
        "records_dropped": dict(sorted(total.records_dropped().items())),
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
