"""Generated queries as a source of a build: cleaned, split and kept out of evaluations as all others."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.core.config import validate
from pipeline.core.errors import UserError
from pipeline.generation.config import GenerateConfig
from pipeline.generation.job import run
from pipeline.storage.artifact import Artifact
from tests.support.corpora import build, inline, table, write_jsonl  # noqa: F401  a fixture

pytestmark = pytest.mark.usefixtures("inline")
DOCUMENTS = [
    {"id": f"d{n}", "title": f"Wool lamp {n}", "text": f"It has {n} hooks and hangs on any wall of the house."}
    for n in range(12)
]


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    """Documents of which three are judged for queries of dev and test, and queries that were made of all by rules."""
    write_jsonl(tmp_path / "documents.jsonl", DOCUMENTS)
    queries = [{"id": "q0", "text": "five hooks?"}, {"id": "q1", "text": "seven?"}, {"id": "q2", "text": "lamps"}]
    write_jsonl(tmp_path / "queries.jsonl", queries)
    judgments = [("q0", "d5", 1, "test"), ("q1", "d7", 2, "dev"), ("q1", "d8", 0, "dev"), ("q2", "d9", 1, "train")]
    names = ("query_id", "doc_id", "relevance", "split")
    write_jsonl(tmp_path / "judgments.jsonl", [dict(zip(names, row, strict=True)) for row in judgments])
    sources = [
        {"type": "jsonl", "kind": "document", "path": "documents.jsonl"},
        {"type": "jsonl", "kind": "query", "path": "queries.jsonl"},
        {"type": "jsonl", "kind": "judgment", "path": "judgments.jsonl", "fields": {"split": "split"}},
    ]
    return {"root": str(tmp_path), "sources": sources, "decontaminate": {"near": False}}


def with_generated(recipe: dict[str, Any], tmp_path: Path, **more: Any) -> dict[str, Any]:
    data = build(recipe, tmp_path / "first")
    settings = {"data": data.path, "out": str(tmp_path / "generated"), "round_trip": None}
    made = run(validate(GenerateConfig, settings))
    assert made.rows("generated") == 12
    source = {"type": "generated", "path": "generated", **more}
    return {**recipe, "sources": [*recipe["sources"], source]}


def test_generated_queries_are_trained_on_but_for_documents_of_an_evaluation(recipe: dict[str, Any], tmp_path: Path):
    artifact = build(with_generated(recipe, tmp_path), tmp_path / "second")
    pairs = {row["positive_id"]: row for row in table(artifact, "pairs") if row["source"] == "generated"}
    assert sorted(pairs) == sorted(f"d{n}" for n in range(12) if n not in (5, 7))
    assert {row["split"] for row in pairs.values()} == {"train"}
    assert pairs["d3"]["anchor"] == "Wool lamp 3"
    assert pairs["d3"]["positive"] == "It has 3 hooks and hangs on any wall of the house.", "not the title again"
    assert artifact.manifest.dropped == {"generated_for_held_out": 2}
    assert artifact.manifest.notes["leakage"]["found"] == {"generated_for_held_out": 2}
    assert artifact.rows("corpus") == 12 and {row["doc_id"] for row in table(artifact, "corpus")} == {
        f"d{n}" for n in range(12)
    }
    held_out = {row["query_id"] for row in table(artifact, "queries") if row["split"] != "train"}
    assert held_out == {"q0", "q1"}
    buckets = build({**with_generated(recipe, tmp_path), "buckets": 3}, tmp_path / "third")
    assert all(table(buckets, name) == table(artifact, name) for name in ("pairs", "queries", "qrels", "corpus"))
    kept = build(
        {**with_generated(recipe, tmp_path), "decontaminate": {"near": False, "action": "report"}}, tmp_path / "fourth"
    )
    assert sum(row["source"] == "generated" for row in table(kept, "pairs")) == 12


def test_where_nobody_has_asked_queries_are_split_by_their_documents(recipe: dict[str, Any], tmp_path: Path):
    documents_only = {**recipe, "sources": recipe["sources"][:1]}
    halves = {"train": 0.5, "dev": 0.25, "test": 0.25}
    more = with_generated(documents_only, tmp_path, split="hash", prefix="made-", name="made")
    artifact = build({**more, "split": halves}, tmp_path / "second")
    splits = {row["anchor_id"]: row["split"] for row in table(artifact, "pairs")}
    assert set(splits) == {f"made-g-d{n}-0" for n in range(12)} and set(splits.values()) == {"train", "dev", "test"}
    assert {row["group_id"] for row in table(artifact, "pairs")} == {f"d{n}" for n in range(12)}
    assert artifact.manifest.dropped == {}


def test_an_unfinished_artifact_is_named(recipe: dict[str, Any], tmp_path: Path):
    more = with_generated(recipe, tmp_path)
    (tmp_path / "generated" / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"generated: has no manifest\.json.*run `tripletail generate` first"):
        build(more, tmp_path / "second")
    (tmp_path / "generated" / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="generated"):
        build(more, tmp_path / "second")


def test_a_folder_of_generated_queries_is_recognised(recipe: dict[str, Any], tmp_path: Path):
    from pipeline.inspection.raw_file import read_sample
    from pipeline.inspection.suggest import suggest

    with_generated(recipe, tmp_path)
    first = suggest(read_sample(str(tmp_path / "generated")))[0]
    assert first.settings["type"] == "generated" and first.needs == "documents"
    assert Artifact.open(str(tmp_path / "generated")).manifest.kind == "generate"
