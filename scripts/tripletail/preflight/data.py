"""Sources tried on their first rows, and the artifact and split that a job reads."""

from collections.abc import Sequence

import pyarrow.compute as pc

from pipeline.building.config import BuildConfig
from pipeline.core.errors import UserError
from pipeline.core.settings import nearest
from pipeline.inspection.suggest import Suggestion, try_source
from pipeline.sources.reading.record import SourceConfig
from pipeline.sources.reading.splits import SPLITS
from pipeline.storage.artifact import Artifact
from pipeline.storage.disk_space import require_space
from pipeline.storage.files import absolute, filesystem, open_parquet

from .ahead import Ahead, exists


def check_build(config: BuildConfig, ahead: Ahead) -> str:
    """Check the sources of a build and the room for its tables."""
    sources = check_sources(config)
    require_space(absolute(config.path), 4 * input_bytes(config), "the tables of the build")
    shares = ", ".join(f"{name} {getattr(config.split, name):.0%}" for name in ("train", "dev", "test"))
    return f"{'; '.join(sources)}; {shares} where no source says"


def check_sources(config: BuildConfig) -> list[str]:
    """Read the first rows of every source as the build does; describe each.

    Raises UserError for a file that is not there or cannot be read, as when a column is called otherwise, where none of
    the rows can be used, and where no source has documents.
    """
    trials = [(source, try_source(source, config.root)) for source in config.all_sources]
    lines = [_check_source(source, trial, config) for source, trial in trials]
    needs = {trial.needs for _, trial in trials[: len(config.sources)]}
    if needs == {"documents"}:
        raise UserError("sources: none of them has documents, which their judgments are about; name the catalogue too")
    return lines


def _check_source(source: SourceConfig, trial: Suggestion, config: BuildConfig) -> str:
    """Describe a source; raises UserError where it cannot be read, or where none of its first rows can be used."""
    if trial.error:
        raise UserError(trial.error)
    if not trial.rows:
        raise UserError(f"source {source.label}: its files hold no rows")
    if trial.unused.total() == trial.rows:
        raise UserError(f"source {source.label}: {_unusable(trial)}")
    bad = f"; {_unusable(trial)}" if trial.unused.total() / trial.rows > config.max_bad_share else ""
    return f"{source.label} ({source.type}, {file_count(source, config.root)}{bad})"


def _unusable(trial: Suggestion) -> str:
    """Say how many of the first rows are of no use, and why the first is not."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(trial.unused.items()))
    problem = trial.first_problem.partition(": ")[2] or trial.first_problem
    return f"{trial.unused.total()} of its first {trial.rows} rows cannot be used ({reasons}): {problem}"


def file_count(source: SourceConfig, root: str) -> str:
    """How many files a source reads, and how large they are."""
    paths = list(source.inputs(root).values())
    size = sum(file_bytes(path) for path in paths)
    return f"{len(paths)} file{'s' if len(paths) != 1 else ''}, {size / 1e6:,.1f} MB"


def file_bytes(path: str) -> int:
    """Bytes of a file or of the files in a folder; 0 of a member of an archive."""
    if "::" in path:
        return 0
    fs, name = filesystem(path)
    return int(fs.du(name)) if fs.exists(name) else 0


def check_split(data: str, split: str, tables: Sequence[str], ahead: Ahead) -> None:
    """Raise UserError where a split is empty, of an artifact that is there, or cannot be, of one to be built."""
    if ahead.has(data):
        _check_planned(ahead.settings(data), split)
        return
    artifact = Artifact.open(data, "build")
    names = {name for table in tables if artifact.has(table) for name in splits(artifact, table)}
    if split not in names:
        listed = ", ".join(sorted(names)) or "none"
        raise UserError(f"split '{split}' of {data} has no rows; it holds {listed}{_did_you_mean(split, names)}")


def _check_planned(build: BuildConfig, split: str) -> None:
    if split not in SPLITS:
        raise UserError(f"split '{split}': a build makes {', '.join(SPLITS)}{_did_you_mean(split, SPLITS)}")


def _did_you_mean(split: str, names: Sequence[str] | set[str]) -> str:
    close = nearest(split, names)
    return f"; did you mean '{close}'?" if close else ""


def splits(artifact: Artifact, table: str) -> set[str]:
    """Names in the column `split` of a table."""
    names: set[str] = set()
    for path in artifact.files(table):
        with open_parquet(path) as parquet:
            for batch in parquet.iter_batches(columns=["split"]):
                names |= set(pc.unique(batch.column(0)).to_pylist())
    return names - {None}


def check_artifact(path: str, job: str, ahead: Ahead) -> None:
    """Raise UserError where an artifact is neither there nor left by a job before."""
    if not ahead.has(path):
        Artifact.open(path, job)


def check_file(path: str, setting: str) -> None:
    """Raise UserError where a file or folder that a setting names is not there."""
    if not exists(path):
        raise UserError(f"{setting}: {path}: no such file or directory")


def input_bytes(config: BuildConfig) -> int:
    """Bytes of all files of the sources."""
    return sum(file_bytes(path) for source in config.all_sources for path in source.inputs(config.root).values())
