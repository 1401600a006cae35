"""A build killed before any of its files is gone on with, or replaced, and ends with the same tables."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline.storage.artifact import Artifact
from tests.support.corpora import build, inline, table, write_jsonl  # noqa: F401  a fixture
from tests.support.kills import run_until_killed

TABLES = ("corpus", "queries", "qrels", "pairs", "triplets")


@pytest.fixture
def recipe(tmp_path: Path) -> dict:
    faq = [{"question": f"How do I mend part {i}?", "answer": f"Turn screw {i} to the left."} for i in range(6)]
    products = [{"id": f"p{i}", "title": f"Lamp {i}", "text": f"A lamp of {i} watts."} for i in range(5)]
    write_jsonl(tmp_path / "faq.jsonl", faq)
    write_jsonl(tmp_path / "products.jsonl", products)
    sources = [
        {"type": "jsonl", "kind": "qa", "path": "faq.jsonl"},
        {"type": "jsonl", "kind": "document", "path": "products.jsonl"},
    ]
    return {"root": str(tmp_path), "sources": sources, "split": {"train": 1, "dev": 0, "test": 0}, "buckets": 1}


def test_a_build_killed_at_any_file_ends_with_the_same_tables(inline, recipe, tmp_path):  # noqa: F811
    def tables(artifact: Artifact) -> dict[str, list]:
        return {name: table(artifact, name) for name in TABLES}

    expected = tables(build(recipe, tmp_path / "whole"))
    assert len(expected["corpus"]) == 11 and len(expected["pairs"]) == 6
    number = 0
    while True:
        number += 1
        run = tmp_path / f"run-{number}"
        if not run_until_killed(lambda run=run: build(recipe, run), run, number):
            break
        artifact = build({**recipe, "overwrite": number % 2 == 0}, run)
        assert tables(artifact) == expected, f"killed before change {number}"
        left = {path.name for path in (run / "data").iterdir()}
        assert left <= {"config.json", "plan.json", "manifest.json", *TABLES}, f"killed before change {number}"
        assert json.loads((run / "data" / "manifest.json").read_text())["tables"]["corpus"]["rows"] == 11
        shutil.rmtree(run)
    assert number > 40, "the kills found the files of the build"
