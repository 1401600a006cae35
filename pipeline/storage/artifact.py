"""A directory of Parquet tables with its configuration and, written last, its manifest.

A directory without a manifest is unfinished and no reader takes it. Paths are local or anything that fsspec opens.
"""

import hashlib
import json
import posixpath
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import __version__
from pipeline.core import schema
from pipeline.core.errors import UserError
from pipeline.storage.files import (
    ROW_GROUP_ROWS,
    filesystem,
    join,
    read_json,
    read_parquet,
    write_json,
    write_parquet,
)
from pipeline.storage.lease import Lease, acquire
from pipeline.storage.masking import without_secrets

MANIFEST, CONFIG, PLAN = "manifest.json", "config.json", "plan.json"


@dataclass(frozen=True)
class TableInfo:
    """What the manifest records of one table."""

    rows: int
    files: list[str]
    columns: dict[str, str]


@dataclass(frozen=True)
class Manifest:
    """The record that makes an artifact whole."""

    kind: str
    tables: dict[str, TableInfo]
    dropped: dict[str, int]
    inputs: dict[str, str]
    settings: str  # digest of every setting that decides the result
    version: str = __version__
    created: str = ""
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Digest of what the artifact was made of: kind, settings, inputs and resulting rows."""
        rows = {name: table.rows for name, table in self.tables.items()}
        return digest({"kind": self.kind, "settings": self.settings, "inputs": self.inputs, "rows": rows})


def digest(value: Any) -> str:
    """Return a short stable digest of anything that JSON can hold."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Artifact:
    """A finished artifact."""

    path: str
    manifest: Manifest

    @classmethod
    def open(cls, path: str, kind: str | None = None) -> "Artifact":
        """Open a finished artifact, of one kind where `kind` names it ("build", "mine", ...).

        Raises UserError naming the job to run when the path is missing, unfinished or of another kind.
        """
        fs, root = filesystem(path)
        hint = f"run `tripletail {kind}` first" if kind else "give the directory that a finished job left"
        if not fs.exists(root):
            raise UserError(f"{path}: no such directory; {hint}")
        if not fs.exists(join(root, MANIFEST)):
            raise UserError(f"{path}: has no {MANIFEST}, so it is not a finished artifact; {hint}")
        manifest = _read_manifest(path)
        if kind not in (None, manifest.kind):
            raise UserError(f"{path}: was made by `{manifest.kind}`, wanted the artifact of `{kind}`; {hint}")
        return cls(path, manifest)

    def has(self, table: str) -> bool:
        """Whether the artifact holds a table with rows."""
        return table in self.manifest.tables and self.manifest.tables[table].rows > 0

    def files(self, table: str) -> list[str]:
        """Full paths of the files of a table, in order."""
        if table not in self.manifest.tables:
            tables = ", ".join(sorted(self.manifest.tables)) or "none"
            raise UserError(f"{self.path}: has no table '{table}'; it holds {tables}")
        return [join(self.path, name) for name in self.manifest.tables[table].files]

    def rows(self, table: str) -> int:
        """Rows of a table; 0 where there is none."""
        return self.manifest.tables[table].rows if table in self.manifest.tables else 0

    def read(self, table: str, columns: list[str] | None = None) -> pa.Table:
        """Read a whole table; only for tables that are known to be small."""
        return pa.concat_tables([read_parquet(name, table, columns) for name in self.files(table)])

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Return a table, or some columns of it, as an Arrow table in memory."""
        return self.read(name, columns)

    def pandas(self, name: str, columns: list[str] | None = None) -> Any:
        """Return a table, or some columns of it, as a pandas data frame in memory."""
        return self.read(name, columns).to_pandas()

    def dataset(self, name: str, columns: list[str] | None = None) -> Any:
        """Return a table as a `ray.data.Dataset`, which is read a block at a time where it is used.

        Starts a local Ray session where none is running.
        """
        import ray

        from pipeline.core import ray_session

        ray_session.start()
        return ray.data.read_parquet(self.files(name), columns=columns)


class Draft:
    """An artifact in the making."""

    def __init__(self, path: str, kind: str, settings: dict[str, Any], inputs: Mapping[str, str]) -> None:
        self.path, self.kind = path, kind
        self.settings, self.inputs = digest(settings), dict(inputs)
        self.dropped: Counter[str] = Counter()
        self.lease: Lease | None = None

    def __getstate__(self) -> dict[str, Any]:
        """A task's copy of the draft has no lease: the job that began the draft holds it."""
        return {name: value for name, value in vars(self).items() if name != "_release"} | {"lease": None}

    def hold(self, lease: Lease) -> None:
        """Keep the lease of the directory until the manifest is written, or until nobody refers to this draft."""
        self.lease = lease
        self._release = weakref.finalize(self, lease.release)

    def write(self, table: str, rows: pa.Table, part: int | str = 0, *, group_rows: int = ROW_GROUP_ROWS) -> str:
        """Write one file of a table and return its path; `part` decides the name and with it the order."""
        name = f"part-{part:05d}.parquet" if isinstance(part, int) else f"{part}.parquet"
        path = join(self.path, table, name)
        write_parquet(path, schema.conform(rows, table) if table in schema.TABLES else rows, group_rows)
        return path

    def drop(self, reasons: Mapping[str, int]) -> None:
        """Count rows that were left out, by reason."""
        self.dropped.update({reason: int(count) for reason, count in reasons.items() if count})

    def finish(self, tables: list[str], **notes: Any) -> Artifact:
        """Describe the tables found on disk and write the manifest: from here on the artifact is whole.

        Raises UserError where another job took this one's place (`pipeline.storage.lease`).
        """
        described = {name: _describe(self.path, name) for name in tables}
        manifest = Manifest(
            kind=self.kind,
            tables={name: info for name, info in described.items() if info.files},
            dropped=dict(sorted(self.dropped.items())),
            inputs=self.inputs,
            settings=self.settings,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            notes=notes,
        )
        if self.lease:
            self.lease.check()
            _remove_partials(self.path)
        write_json(join(self.path, MANIFEST), asdict(manifest) | {"fingerprint": manifest.fingerprint})
        if self.lease:
            self._release()
        return Artifact(self.path, manifest)


def begin(
    path: str,
    kind: str,
    settings: dict[str, Any],
    inputs: Mapping[str, str],
    *,
    overwrite: bool,
    resume: bool = False,
    may_change: Sequence[str] = (),
    exclusive: bool = True,
) -> Draft | Artifact:
    """Start an artifact, or return the finished one when it was made of the same inputs and settings.

    `settings` are those that decide the result (`JobConfig.result_settings`). A finished artifact of other ones is
    refused unless `overwrite`; an unfinished one is cleared, or with `resume` continued when its
    inputs and settings are the same. Inputs in `may_change` may differ: a finished artifact is continued then.

    The draft holds the directory's lease: another job that writes there is waited for, and its result is returned where
    it is the same. Parts of a run that is alone already pass `exclusive=False`.

    Raises UserError for a finished artifact of other settings, a directory that is no artifact, and one that cannot be
    written.
    """
    fs, root = filesystem(path)
    draft = Draft(path, kind, settings, inputs)
    plan = {"kind": kind, "settings": draft.settings, "inputs": draft.inputs}
    existing = _finished(fs, root, path, overwrite=overwrite)
    if existing and _plan_of(existing) == plan:
        return Artifact(path, existing)
    if exclusive:
        draft.hold(_acquire(path, kind))
        existing = _finished(fs, root, path, overwrite=overwrite)  # another job may have ended meanwhile
        if existing and _plan_of(existing) == plan:
            return Artifact(path, existing)
    if existing and not overwrite and not _alike(plan, _plan_of(existing), may_change):
        difference = _difference(path, plan, _plan_of(existing), settings)
        raise UserError(f"{path}: is finished but {difference}; give --overwrite or another --run")
    try:
        _make_way(fs, root, path, plan, existing, resumable=resume, may_change=may_change)
        fs.makedirs(root, exist_ok=True)
        write_json(join(path, PLAN), plan)
        write_json(join(path, CONFIG), without_secrets(settings))
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    return draft


def _acquire(path: str, kind: str) -> Lease:
    try:
        return acquire(path, kind)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def _remove_partials(path: str) -> None:
    """Remove files that killed jobs were in the middle of writing; the holder of the lease is the only writer."""
    fs, root = filesystem(path)
    for name in fs.find(root):
        if name.endswith(".partial"):
            fs.rm(name)


def _finished(fs: Any, root: str, path: str, *, overwrite: bool) -> Manifest | None:
    """Manifest of a finished artifact, None where there is none.

    One that cannot be read (cut short when a machine lost its power, say) counts as none with `overwrite`, and raises
    UserError without.
    """
    if not fs.exists(join(root, MANIFEST)):
        return None
    try:
        return _read_manifest(path)
    except UserError as error:
        if overwrite:
            return None
        raise UserError(f"{error}; give --overwrite to make it anew") from error


def _plan_of(manifest: Manifest) -> dict[str, Any]:
    return {"kind": manifest.kind, "settings": manifest.settings, "inputs": manifest.inputs}


def _make_way(
    fs: Any,
    root: str,
    path: str,
    plan: dict[str, Any],
    existing: Manifest | None,
    *,
    resumable: bool,
    may_change: Sequence[str],
) -> None:
    """Keep what a job can go on with, remove what it cannot; raises UserError for a directory of somebody else's."""
    if not fs.exists(root) or not (entries := fs.ls(root, detail=False)):
        return
    if existing and _alike(plan, _plan_of(existing), may_change):
        fs.rm(join(root, MANIFEST))
        return
    names = {posixpath.basename(entry.rstrip("/")) for entry in entries}
    if not names & {MANIFEST, PLAN, CONFIG} and not all(name.endswith(".partial") for name in names):
        raise UserError(f"{path}: is not empty and not an artifact; choose another directory")
    if MANIFEST in names or not (resumable and _alike(plan, _read_plan(path), may_change)):
        clear(path)


def clear(path: str) -> None:
    """Remove an artifact: its manifest first, so that no reader takes what is left, and last the file that tells an
    unfinished artifact from somebody else's directory, so that a job killed in between can be run again.
    """
    fs, root = filesystem(path)
    last = [CONFIG, PLAN]
    entries = {posixpath.basename(entry.rstrip("/")): entry for entry in fs.ls(root, detail=False)}
    for name in [MANIFEST, *sorted(entries.keys() - {MANIFEST, *last}), *last]:
        if name in entries:
            fs.rm(entries[name], recursive=True)
    if fs.exists(root):
        fs.rm(root, recursive=True)


def _read_plan(path: str) -> dict[str, Any]:
    """What an unfinished artifact was begun with; a plan of nothing where the job was killed while it wrote that."""
    try:
        raw = read_json(join(path, PLAN))
        return {"kind": raw["kind"], "settings": raw["settings"], "inputs": dict(raw["inputs"])}
    except (UserError, KeyError, TypeError, ValueError):
        return {"kind": "", "settings": "", "inputs": {}}


def _alike(plan: dict[str, Any], done: dict[str, Any], may_change: Sequence[str]) -> bool:
    """Whether two plans differ in nothing but inputs that may change."""

    def fixed(plan: dict[str, Any]) -> dict[str, Any]:
        return plan | {"inputs": {key: value for key, value in plan["inputs"].items() if key not in may_change}}

    return fixed(plan) == fixed(done)


def describe_difference(path: str, kind: str, settings: dict[str, Any], inputs: Mapping[str, str]) -> str:
    """Say what an artifact, finished or not, was begun with that is different now; empty when nothing is."""
    plan = {"kind": kind, "settings": digest(settings), "inputs": dict(inputs)}
    begun = _read_plan(path)
    return "" if begun == plan else _difference(path, plan, begun, settings)


def _difference(path: str, plan: dict[str, Any], done: dict[str, Any], settings: dict[str, Any]) -> str:
    if plan["kind"] != done["kind"]:
        return f"was made by `{done['kind']}`"
    if plan["settings"] != done["settings"]:
        changed = _changed(_read_settings(path), without_secrets(settings))
        names = [*changed[:3], *([f"{len(changed) - 3} more"] if len(changed) > 3 else [])]
        return f"with another setting of {', '.join(names) or 'the job'}"
    changed = sorted(k for k in {*plan["inputs"], *done["inputs"]} if plan["inputs"].get(k) != done["inputs"].get(k))
    return f"from another input ({', '.join(changed)})"


def _read_settings(path: str) -> dict[str, Any]:
    try:
        return dict(read_json(join(path, CONFIG)))
    except (UserError, TypeError, ValueError):
        return {}


def _changed(old: Any, new: Any, name: str = "") -> list[str]:
    """Name settings that differ as a recipe does, with the old value and the new one."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            change
            for key in sorted({*old, *new})
            for change in _changed(old.get(key), new.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if old == new else [f"{name} (was {_short(old)}, now {_short(new)})"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _read_manifest(path: str) -> Manifest:
    raw = read_json(join(path, MANIFEST))
    try:
        raw.pop("fingerprint", None)
        tables = {name: TableInfo(**info) for name, info in raw.pop("tables").items()}
        return Manifest(tables=tables, **raw)
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{join(path, MANIFEST)}: not a manifest of this version; rerun the job that wrote it"
        ) from error


def _describe(path: str, table: str) -> TableInfo:
    fs, root = filesystem(path)
    folder = join(root, table)
    names = sorted(fs.glob(join(folder, "*.parquet"))) if fs.exists(folder) else []
    rows, columns = 0, {}
    for name in names:
        with fs.open(name, "rb") as file:
            parquet = pq.ParquetFile(file)
            rows += parquet.metadata.num_rows
            columns = {field.name: str(field.type) for field in parquet.schema_arrow}
    return TableInfo(rows, [join(table, posixpath.basename(name)) for name in names], columns)
