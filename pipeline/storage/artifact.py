"""A directory of Parquet tables with its configuration and, written last, its manifest.

A directory without a manifest is unfinished and no reader takes it. Paths are local or anything that fsspec opens.
"""

import hashlib
import json
import posixpath
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
from pipeline.storage.files import filesystem, join, read_json, read_parquet, write_json, write_parquet

MANIFEST, CONFIG = "manifest.json", "config.json"


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
    def open(cls, path: str, kind: str) -> "Artifact":
        """Open a finished artifact of one kind.

        Raises UserError naming the job to run when the path is missing, unfinished or of another kind.
        """
        fs, root = filesystem(path)
        hint = f"run `python -m scripts.{kind}` first"
        if not fs.exists(root):
            raise UserError(f"{path}: no such directory; {hint}")
        if not fs.exists(join(root, MANIFEST)):
            raise UserError(f"{path}: has no {MANIFEST}, so it is not a finished artifact; {hint}")
        manifest = _read_manifest(path)
        if manifest.kind != kind:
            raise UserError(f"{path}: was made by `{manifest.kind}`, wanted the artifact of `{kind}`; {hint}")
        return cls(path, manifest)

    def has(self, table: str) -> bool:
        """Whether the artifact holds a table with rows."""
        return table in self.manifest.tables and self.manifest.tables[table].rows > 0

    def files(self, table: str) -> list[str]:
        """Full paths of the files of a table, in order."""
        if table not in self.manifest.tables:
            held = ", ".join(sorted(self.manifest.tables)) or "none"
            raise UserError(f"{self.path}: has no table '{table}'; it holds {held}")
        return [join(self.path, name) for name in self.manifest.tables[table].files]

    def rows(self, table: str) -> int:
        """Rows of a table; 0 where there is none."""
        return self.manifest.tables[table].rows if table in self.manifest.tables else 0

    def read(self, table: str, columns: list[str] | None = None) -> pa.Table:
        """Read a whole table; only for tables that are known to be small."""
        return pa.concat_tables([read_parquet(name, table, columns) for name in self.files(table)])


class Draft:
    """An artifact in the making."""

    def __init__(self, path: str, kind: str, settings: dict[str, Any], inputs: Mapping[str, str]) -> None:
        self.path, self.kind = path, kind
        self.settings, self.inputs = digest(settings), dict(inputs)
        self.dropped: Counter[str] = Counter()

    def write(self, table: str, rows: pa.Table, part: int | str = 0) -> None:
        """Write one file of a table; `part` decides the name and with it the order."""
        name = f"part-{part:05d}.parquet" if isinstance(part, int) else f"{part}.parquet"
        write_parquet(join(self.path, table, name), schema.conform(rows, table) if table in schema.TABLES else rows)

    def drop(self, reasons: Mapping[str, int]) -> None:
        """Count rows that were left out, by reason."""
        self.dropped.update({reason: int(count) for reason, count in reasons.items() if count})

    def finish(self, tables: list[str], **notes: Any) -> Artifact:
        """Describe the tables found on disk and write the manifest: from here on the artifact is whole."""
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
        write_json(join(self.path, MANIFEST), asdict(manifest) | {"fingerprint": manifest.fingerprint})
        return Artifact(self.path, manifest)


def begin(
    path: str,
    kind: str,
    settings: dict[str, Any],
    inputs: Mapping[str, str],
    *,
    overwrite: bool,
    keep: bool = False,
    grows: Sequence[str] = (),
) -> Draft | Artifact:
    """Start an artifact, or return the finished one when it was made of the same inputs and settings.

    `settings` are those that decide the result (`JobConfig.result_settings`). A finished artifact of other ones is
    refused unless `overwrite`; an unfinished one is cleared, or with `keep` (resumable jobs) gone on with when its
    inputs and settings are the same. Inputs named in `grows` may change: then a finished artifact is gone on with too.
    """
    fs, root = filesystem(path)
    draft = Draft(path, kind, settings, inputs)
    plan = {"kind": kind, "settings": draft.settings, "inputs": draft.inputs}
    if fs.exists(join(root, MANIFEST)):
        manifest = _read_manifest(path)
        done = {"kind": manifest.kind, "settings": manifest.settings, "inputs": manifest.inputs}
        if done == plan:
            return Artifact(path, manifest)
        if _alike(plan, done, grows):
            fs.rm(join(root, MANIFEST))
        elif not overwrite:
            raise UserError(
                f"{path}: is finished but {_difference(path, plan, done, settings)}; give --overwrite or another --run"
            )
        else:
            fs.rm(root, recursive=True)
    elif fs.exists(root) and fs.ls(root):
        if not fs.exists(join(root, CONFIG)):
            raise UserError(f"{path}: is not empty and not an artifact; choose another directory")
        if not (keep and _alike(plan, read_json(join(path, "plan.json")), grows)):
            fs.rm(root, recursive=True)
    try:
        fs.makedirs(root, exist_ok=True)
        write_json(join(path, CONFIG), settings)
        write_json(join(path, "plan.json"), plan)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    return draft


def _alike(plan: dict[str, Any], done: dict[str, Any], grows: Sequence[str]) -> bool:
    """Whether two plans differ in nothing but inputs that may change."""

    def fixed(one: dict[str, Any]) -> dict[str, Any]:
        return one | {"inputs": {key: value for key, value in one["inputs"].items() if key not in grows}}

    return fixed(plan) == fixed(done)


def difference(path: str, kind: str, settings: dict[str, Any], inputs: Mapping[str, str]) -> str:
    """Say what an artifact, finished or not, was begun with that is different now; empty when nothing is."""
    plan = {"kind": kind, "settings": digest(settings), "inputs": dict(inputs)}
    begun = read_json(join(path, "plan.json"))
    return "" if begun == plan else _difference(path, plan, begun, settings)


def _difference(path: str, plan: dict[str, Any], done: dict[str, Any], settings: dict[str, Any]) -> str:
    if plan["kind"] != done["kind"]:
        return f"was made by `{done['kind']}`"
    if plan["settings"] != done["settings"]:
        changed = _changed(read_json(join(path, CONFIG)), settings)
        shown = [*changed[:3], *([f"{len(changed) - 3} more"] if len(changed) > 3 else [])]
        return f"with another setting of {', '.join(shown) or 'the job'}"
    changed = sorted(k for k in {*plan["inputs"], *done["inputs"]} if plan["inputs"].get(k) != done["inputs"].get(k))
    return f"from another input ({', '.join(changed)})"


def _changed(old: Any, new: Any, name: str = "") -> list[str]:
    """Name settings that differ as a recipe does, with the old value and the new one."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            one
            for key in sorted({*old, *new})
            for one in _changed(old.get(key), new.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if old == new else [f"{name} (was {_short(old)}, now {_short(new)})"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _read_manifest(path: str) -> Manifest:
    raw = read_json(join(path, MANIFEST))
    raw.pop("fingerprint", None)
    try:
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
