"""Leaks: what an evaluation asks is found in training rows, equal or near; removed, reported, or refused if strict."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.building.decontamination import (
    EvaluationIndex,
    LeakConfig,
    evaluation_texts,
    find_leaks,
    joined_pair,
    pair_keys,
    text_keys,
)
from pipeline.core.errors import UserError
from tests.pipeline.building.test_near_duplicates import WORDS, index, planted
from tests.support.corpora import build, inline, sample_recipe, table, write_jsonl

__all__ = ["inline"]
CONFIG = LeakConfig()


def lookup(texts: list[str], config: LeakConfig = CONFIG) -> EvaluationIndex:
    return EvaluationIndex(evaluation_texts(pa.array(texts, pa.string()), ["test"] * len(texts), config), config)


def reasons(
    rows: list[tuple[str, str]], queries: list[str], pairs: Sequence[tuple[str, str]] = (), **more: Any
) -> list[Any]:
    config = LeakConfig(**more)
    left, right = (pa.chunked_array([pa.array([row[side] for row in rows])]) for side in (0, 1))
    whole = joined_pair(*(pa.chunked_array([pa.array([p[side] for p in pairs], pa.string())]) for side in (0, 1)))
    judged = pair_keys(text_keys(pa.array([queries[0]])), text_keys(pa.array(["the answer"])))
    return find_leaks(left, right, lookup(queries, config), lookup(whole.to_pylist(), config), judged)[0]


LONG = "how many beans does one need for a good cup of filter coffee in the early morning at home"


def test_each_kind_of_leak_has_its_reason():
    rows = [
        ("What is crema?", "foam"),
        ("what IS crema?", "The Answer"),
        ("the answer", "What is crema?"),
        ("Something else", "what is crema?"),
        (LONG.replace("good", "nice"), "fifteen"),
        ("fifteen", LONG.replace("good", "nice")),
        ("b side", "A side"),
        ("harmless", "the answer"),
        ("what is a crema?", "near only in four words of five"),
    ]
    found = reasons(rows, ["What is crema?", LONG], [("a side", "B side")])
    assert found == [
        "leaked_query",
        "leaked_judgment",
        "leaked_judgment",
        "query_as_positive",
        "near_leaked_query",
        "near_query_as_positive",
        "leaked_labelled_pair",
        None,
        None,
    ]
    exact_only = reasons(rows, ["What is crema?", LONG], [("a side", "B side")], near=False)
    assert exact_only == [None if reason and reason.startswith("near") else reason for reason in found]


def test_nothing_asked_finds_nothing():
    assert lookup([]).near(pa.array(["a", LONG])).tolist() == [-1, -1]
    assert lookup([]).equal(text_keys(pa.array(["a"]))).tolist() == [-1]
    assert lookup(["", "?!"]).near(pa.array(["", "!?"])).tolist() == [-1, -1]


def test_planted_leaks_are_found_and_nothing_else():
    pairs = planted(3000, seed=5)
    fresh = [" ".join(random.Random(n).choices(WORDS, k=30)) for n in range(1000)]
    index_of = lookup([left for left, _ in pairs])
    found = index_of.near(pa.array([right for _, right in pairs] + fresh)).tolist()
    texts = index_of.rows["text"].to_pylist()
    truth = [place for place, pair in enumerate(pairs) if index(*pair) >= 0.8]
    right = [place for place in truth if found[place] >= 0 and texts[found[place]] == pairs[place][0]]
    assert len(truth) > 2000 and len(right) >= 0.98 * len(truth)
    wrong = [place for place, row in enumerate(found) if row >= 0 and place not in set(truth)]
    assert not wrong
    exact = index_of.equal(text_keys(pa.array([left.upper() for left, _ in pairs] + fresh)))
    assert (exact[: len(pairs)] >= 0).all() and (exact[len(pairs) :] < 0).all()


def forum(tmp_path: Path, **over: Any) -> dict[str, Any]:
    """Held-out questions, and training rows that repeat them: as a question, near, as an answer, as a title."""
    train = [
        {"question": "why is water wet", "answer": "it is"},
        {"question": LONG.replace("good", "nice"), "answer": "sixty"},
        {"question": "say a question", "answer": "who let the dogs out"},
        {"question": "what is shared", "answer": "sixty beans"},
    ]
    test = [{"question": LONG, "answer": "sixty beans"}, {"question": "Who let the dogs out", "answer": "me"}]
    write_jsonl(tmp_path / "train.jsonl", train)
    write_jsonl(tmp_path / "test.jsonl", test)
    write_jsonl(tmp_path / "titles.jsonl", [{"id": "t", "title": "who let the dogs out", "text": "a song of 2000"}])
    sources = [
        {"type": "jsonl", "name": "train", "path": "train.jsonl", "kind": "qa", "split": "train"},
        {"type": "jsonl", "name": "test", "path": "test.jsonl", "kind": "qa", "split": "test"},
        {"type": "jsonl", "name": "titles", "path": "titles.jsonl", "kind": "document", "split": "train"},
    ]
    return {"root": str(tmp_path), "sources": sources, "pairs": {"title_description": True}} | over


@pytest.mark.parametrize("over", [{}, {"buckets": 4}])
def test_leaking_rows_are_removed_and_counted(inline: None, tmp_path: Path, over: dict[str, Any]):
    artifact = build(forum(tmp_path, **over), tmp_path / "run")
    kept = sorted(row["anchor"] for row in table(artifact, "pairs") if row["split"] == "train")
    assert kept == ["what is shared", "why is water wet"]
    assert len([row for row in table(artifact, "pairs") if row["split"] == "test"]) == 2
    found = {"leaked_query": 1, "near_leaked_query": 1, "query_as_positive": 1}
    assert artifact.manifest.dropped == found
    leakage = artifact.manifest.notes["leakage"]
    assert leakage["found"] == found and leakage["action"] == "remove"
    assert (leakage["checked"], leakage["queries"], leakage["shared_documents"]) == (5, 2, 1)
    said = artifact.manifest.notes["examples"]["near_leaked_query"][0]
    assert said.startswith("pairs 'how many beans does one need for a nice cup") and said.endswith("of test")


def test_leaking_rows_may_be_kept_and_reported(inline: None, tmp_path: Path):
    removed = build(forum(tmp_path), tmp_path / "removed")
    reported = build(forum(tmp_path, decontaminate={"action": "report"}), tmp_path / "reported")
    unseen = build(forum(tmp_path, decontaminate={"action": "off"}), tmp_path / "off")
    assert table(reported, "pairs") == table(unseen, "pairs")
    assert reported.rows("pairs") == removed.rows("pairs") + 3
    assert reported.manifest.notes["leakage"]["found"] == removed.manifest.notes["leakage"]["found"]
    assert reported.manifest.dropped == {} and unseen.manifest.notes["leakage"] == {}


def test_extra_sets_count_as_asked(inline: None, tmp_path: Path):
    (tmp_path / "bench").mkdir()
    write_jsonl(tmp_path / "bench" / "queries.jsonl", [{"_id": "1", "text": "Why is water wet"}])
    write_jsonl(tmp_path / "bench" / "corpus.jsonl", [{"_id": "1", "title": "", "text": "me"}])
    extra = [{"type": "beir", "name": "bench", "path": "bench"}]
    recipe = forum(tmp_path, decontaminate={"extra": extra})
    artifact = build(recipe, tmp_path / "run")
    assert artifact.manifest.dropped["leaked_query"] == 2
    assert any(
        text.endswith("'Why is water wet' of bench") for text in artifact.manifest.notes["examples"]["leaked_query"]
    )
    assert "bench/queries.jsonl" in artifact.manifest.inputs
    assert "bench" not in {row["source"] for row in table(artifact, "corpus") + table(artifact, "queries")}
    assert artifact.manifest.notes["leakage"]["extra"] == ["bench"]
    assert set(artifact.manifest.notes["sources"]) == {"train", "test", "titles"}


def test_strict_refuses_to_go_on(inline: None, tmp_path: Path):
    with pytest.raises(UserError, match=r"strict: 5 training rows .*1 leaked_query.*; first: pairs 'who let"):
        build(forum(tmp_path, strict=True), tmp_path / "run")
    assert not (tmp_path / "run" / "data" / "manifest.json").exists()
    build(forum(tmp_path), tmp_path / "run")
    with pytest.raises(UserError, match="strict: "):
        build(forum(tmp_path, strict=True), tmp_path / "run")
    with pytest.raises(UserError, match="leaks were not looked for"):
        build(forum(tmp_path, strict=True, decontaminate={"action": "off"}), tmp_path / "off")
    (tmp_path / "clean").mkdir()
    build(sample_recipe(strict=True), tmp_path / "clean")


def test_labelled_pairs_are_checked_as_pairs(inline: None, tmp_path: Path):
    rows = [("a cat sits", "a dog runs", "test"), ("a dog runs", "A cat sits", "train"), ("a cat sits", "new", "train")]
    write_jsonl(tmp_path / "l.jsonl", [{"left": a, "right": b, "score": 1, "split": s} for a, b, s in rows])
    source = {"type": "jsonl", "path": "l.jsonl", "kind": "labelled", "fields": {"split": "split"}}
    artifact = build({"root": str(tmp_path), "sources": [source]}, tmp_path / "run")
    assert artifact.manifest.dropped == {"leaked_labelled_pair": 1}
    assert [row["right"] for row in table(artifact, "labelled") if row["split"] == "train"] == ["new"]
