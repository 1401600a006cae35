"""Recipes and builds in this process, without Ray, for tests of many rooms."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.building.config import BuildConfig
from pipeline.building.job import run
from pipeline.core import ray_session
from pipeline.sources.reading.record import SourceConfig
from pipeline.storage.artifact import Artifact
from pipeline.storage.counts import Counts

SAMPLE = Path(__file__).resolve().parents[2] / "scripts" / "sample"


Recipe = dict[str, Any]


def stay_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let jobs of any size run in this process, also beside the cluster of other tests."""
    monkeypatch.setattr(ray_session, "is_up", lambda: False)
    monkeypatch.setattr(ray_session, "start", lambda: None)


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    stay_in_process(monkeypatch)


def build(recipe: Recipe, out: Path) -> Artifact:
    """Build a recipe; whatever it is, its books must balance by file."""
    artifact = run(BuildConfig.model_validate({**recipe, "run": str(out)}))
    for row in artifact.manifest.notes["input_rows"]:
        assert 0 <= row["used"] == row["read"] - sum(row["unused"].values()), row
        assert all(count > 0 for count in row["unused"].values()), row
    return artifact


def table(artifact: Artifact, name: str) -> list[dict[str, Any]]:
    """Rows of a table in an order that does not depend on its files."""
    rows = artifact.read(name).to_pylist() if artifact.has(name) else []
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def sample_recipe(**over: Any) -> Recipe:
    sources = [
        {"type": "stackexchange", "name": "forum", "path": "Posts.xml"},
        {"type": "jsonl", "name": "shop", "path": "products.jsonl", "kind": "product"},
        {"type": "beir", "name": "search", "path": "search", "hashed": True},
    ]
    return {"root": str(SAMPLE), "sources": sources, "pairs": {"title_description": True}, **over}


def as_dicts(rows: pa.Table | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records, whether they were read by rows or by columns; a key can be computed and is not told."""
    if isinstance(rows, list):
        return rows
    return [{k: v for k, v in row.items() if v is not None and k != "key"} for row in rows.to_pylist()]


def records(
    source: SourceConfig, root: Path, block_bytes: int = 1 << 20
) -> tuple[dict[str, list[dict[str, Any]]], Counts]:
    """All records of a source by kind, without their place, and all counts."""
    kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    total, lines = Counts(), 0
    for block in source.blocks(str(root), 0, block_bytes):
        read = Counts()
        for parsed in source.parse(block):
            for kind, rows in parsed.kinds.items():
                kinds[kind] += [{k: v for k, v in row.items() if k not in ("line", "source")} for row in as_dicts(rows)]
            read.add(parsed.tally)
        lines = lines if block.start else 0
        read.locate_offenders(Path(block.path).name, lines)
        lines += read.rows
        total.add(read)
    return {kind: sorted(rows, key=lambda row: row["order"]) for kind, rows in kinds.items()}, total
