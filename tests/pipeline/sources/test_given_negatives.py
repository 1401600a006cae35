"""Training data that brings its negatives: they come out as triplets, with scores, ids and titles, in every layout."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.mining.output_formats import flag_embedding, labeled_lists, n_tuples
from pipeline.mining.output_formats import triplets as triplet_rows
from pipeline.storage.artifact import Artifact
from tests.support.corpora import build, inline, table, write_jsonl

__all__ = ["inline"]
TRAIN = {"train": 1, "dev": 0, "test": 0}


def triplets(artifact: Artifact) -> list[tuple[Any, ...]]:
    rows = table(artifact, "triplets")
    return sorted(
        (r["anchor"], r["positive"], r["teacher_score"], tuple((n["text"], n["score"]) for n in r["negatives"]))
        for r in rows
        if {n["reason"] for n in r["negatives"]} == {"given"}
    )


def read(rows: list[dict[str, Any]], tmp_path: Path, **source: Any) -> Artifact:
    write_jsonl(tmp_path / "rows.jsonl", rows)
    sources = [{"type": "jsonl", "path": "rows.jsonl", "kind": "pair", **source}]
    return build({"root": str(tmp_path), "sources": sources, "split": TRAIN}, tmp_path / "run")


def test_flag_embedding(inline: None, tmp_path: Path):
    line = {"query": "red shoe", "pos": ["scarlet sneaker", "red trainer"], "neg": ["blue hat", "green scarf"]}
    scored = {**line, "pos_scores": [9.0, 8.5], "neg_scores": [1.5, -3.0], "prompt": "Find: "}
    rows = triplets(read([scored, {"query": "lamp", "pos": ["floor lamp"], "neg": []}], tmp_path))
    negatives = (("blue hat", 1.5), ("green scarf", -3.0))
    assert rows == [
        ("Find: red shoe", "red trainer", 8.5, negatives),
        ("Find: red shoe", "scarlet sneaker", 9.0, negatives),
    ]


def test_n_tuples_and_a_row_for_each_negative(inline: None, tmp_path: Path):
    rows = [
        {
            "anchor": "table",
            "positive": "side table",
            "negative_2": "cloth",
            "negative_1": "chair",
            "negative_10": "xy",
        },
        {"anchor": "cup", "positive": "mug", "negative": "plate", "scores": [0.75, 0.25]},
        {"anchor": "cup", "positive": "mug", "negative": "spoon", "scores": [0.75, 0.5]},
        {"anchor": "cup", "positive": "beaker", "negative": "mug"},
    ]
    artifact = read(rows, tmp_path)
    assert triplets(artifact) == [
        ("cup", "mug", 0.75, (("plate", 0.25), ("spoon", 0.5))),
        ("table", "side table", None, (("chair", None), ("cloth", None), ("xy", None))),
    ]
    assert artifact.manifest.notes["counts"]["barred"] == 1


def test_tevatron_and_dpr(inline: None, tmp_path: Path):
    tevatron = {"query_id": "7", "query": "warm socks"}
    tevatron["positive_passages"] = [{"docid": "77", "title": "Wool socks", "text": "Thick wool."}]
    tevatron["negative_passages"] = [{"docid": "78", "title": "Belt", "text": "Leather belt."}]
    dpr = {"question": "who wrote it", "positive_ctxs": [{"title": "Book", "text": "By A.", "passage_id": "p1"}]}
    dpr |= {"hard_negative_ctxs": [{"title": "Film", "text": "By B."}], "negative_ctxs": [{"text": "By C."}]}
    artifact = read([tevatron, dpr], tmp_path)
    assert triplets(artifact) == [
        ("warm socks", "Wool socks. Thick wool.", None, (("Belt. Leather belt.", None),)),
        ("who wrote it", "Book. By A.", None, (("Film. By B.", None), ("By C.", None))),
    ]
    corpus = {row["doc_id"]: row["title"] for row in table(artifact, "corpus")}
    assert {"77": "Wool socks", "78": "Belt", "p1": "Book"}.items() <= corpus.items()


def test_lists_with_labels(inline: None, tmp_path: Path):
    rows = [{"query": "tea mug", "docs": ["Mug for tea", "Beer glass"], "labels": [1, 0]}]
    assert triplets(read(rows, tmp_path)) == [("tea mug", "Mug for tea", None, (("Beer glass", None),))]
    assert [row["positive"] for row in table(read(rows, tmp_path), "pairs")] == ["Mug for tea"]


@pytest.mark.parametrize("form", ["triplet", "n-tuple", "labeled-list", "flag"])
@pytest.mark.parametrize("scores", [False, True])
def test_what_is_exported_is_read_back(inline: None, tmp_path: Path, form: str, scores: bool):
    rows = [
        {"anchor": "q one", "positive": "p one", "positive_score": 0.75, "negatives": [("n a", 0.5), ("n b", 0.25)]},
        {"anchor": "q one", "positive": "p two", "positive_score": 0.5, "negatives": [("n c", 0.375), ("n a", 0.125)]},
        {"anchor": "q two", "positive": "p six", "positive_score": 1.0, "negatives": [("n b", -0.5), ("p one", 0.0)]},
    ]
    negatives = pa.list_(pa.struct([("text", pa.string()), ("score", pa.float32())]))
    mined = pa.table(
        {
            **{name: [row[name] for row in rows] for name in ("anchor", "positive", "positive_score")},
            "negatives": pa.array([[{"text": t, "score": s} for t, s in row["negatives"]] for row in rows], negatives),
        }
    )
    shaped = {"triplet": triplet_rows, "n-tuple": n_tuples, "labeled-list": labeled_lists, "flag": flag_embedding}[form]
    pq.write_table(shaped(mined, 2, scores=scores), tmp_path / "rows.parquet")
    sources = [{"type": "parquet", "files": [{"path": "rows.parquet", "kind": "pair"}]}]
    artifact = build({"root": str(tmp_path), "sources": sources, "split": TRAIN}, tmp_path / "run")
    expected = [
        (
            row["anchor"],
            row["positive"],
            row["positive_score"] if scores or form == "flag" else None,
            tuple((text, score if scores or form == "flag" else None) for text, score in row["negatives"]),
        )
        for row in rows
    ]
    assert triplets(artifact) == sorted(expected)
