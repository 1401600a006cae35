"""Training data that brings its negatives: they come out as triplets, with scores, ids and titles, in every layout."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.core.schema import TABLES
from pipeline.mining.registry import OUTPUT_FORMATS
from pipeline.storage.artifact import Artifact, Draft
from scripts.tripletail.commands.export_negatives import main
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
    assert artifact.manifest.dropped["barred"] == 1


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


MINED = [
    {"anchor": "q one", "positive": "p one", "positive_score": 0.75, "negatives": [("n a", 0.5), ("n b", 0.25)]},
    {"anchor": "q one", "positive": "p two", "positive_score": 0.5, "negatives": [("n c", 0.375), ("n a", 0.125)]},
    {"anchor": "q two", "positive": "p six", "positive_score": 1.0, "negatives": [("n b", -0.5), ("p one", 0.0)]},
]


def mined(path: Path) -> None:
    """An artifact of mining with `MINED`."""
    draft = Draft(str(path), "mine", {}, {})
    names = [{"anchor_id": f"a{n}", "positive_id": f"d{n}", **row} for n, row in enumerate(MINED)]
    rows = [row | {"negatives": [{"text": t, "score": s} for t, s in row["negatives"]]} for row in names]
    for name in ("triplets", "candidates"):
        columns = [{key: row[key] for key in row.keys() & set(TABLES[name].names)} for row in rows]
        draft.write(name, pa.Table.from_pylist(columns, schema=TABLES[name]))
    draft.finish(["triplets", "candidates"])


@pytest.mark.parametrize("form", OUTPUT_FORMATS)
@pytest.mark.parametrize("scores", [False, True])
def test_what_is_exported_is_read_back(inline: None, tmp_path: Path, form: str, scores: bool):
    mined(tmp_path / "negatives")
    flags = ["--format", form, "--num-negatives", "2", *(["--scores"] if scores else [])]
    if OUTPUT_FORMATS[form].json_lines:
        source: dict[str, Any] = {"type": "jsonl", "path": "rows", "kind": "pair"}
    else:
        source = {"type": "parquet", "files": [{"path": "rows/*.parquet", "kind": "pair"}]}
    main([str(tmp_path / "negatives"), str(tmp_path / "rows"), *flags])
    artifact = build({"root": str(tmp_path), "sources": [source], "split": TRAIN}, tmp_path / "run")
    negatives: dict[Any, dict[str, float]] = defaultdict(dict)
    for row in MINED:  # a labelled pair is a row by itself: its negatives are those of the anchor
        owner = row["anchor"] if form == "labeled-pair" else (row["anchor"], row["positive"])
        negatives[owner] = {**dict(row["negatives"]), **negatives[owner]}
    expected = []
    for row in MINED:
        known = negatives[row["anchor"] if form == "labeled-pair" else (row["anchor"], row["positive"])]
        texts = [(text, score if scores or form == "flag" else None) for text, score in known.items()]
        expected.append(
            (row["anchor"], row["positive"], row["positive_score"] if texts[0][1] is not None else None, texts)
        )
    found = [(*row[:3], list(row[3])) for row in triplets(artifact)]
    if form == "labeled-pair":
        found, expected = ([(*row[:3], sorted(row[3])) for row in rows] for rows in (found, expected))
    assert sorted(found) == sorted(expected)
    assert not artifact.manifest.notes["unread_columns"]


def test_a_given_negative_that_is_the_same_product_is_barred(inline: None, tmp_path: Path):
    """The catalogue says what the row does not: its negative is another offer of the positive, or has its title."""
    offers = [("red", "g1", "mug"), ("crimson", "g1", "cup"), ("scarlet", "g2", "Mug"), ("blue", "g3", "bowl")]
    rows = [
        {"id": f"o{n}", "title": title, "description": f"{colour} clay", "group": group}
        for n, (colour, group, title) in enumerate(offers)
    ]
    write_jsonl(tmp_path / "offers.jsonl", rows)
    texts = [f"{row['title']}. {row['description']}" for row in rows]
    stated = {"anchor": "mug of red clay", "positive": texts[0], "negative": texts[1:]}
    write_jsonl(tmp_path / "rows.jsonl", [stated])
    sources = [
        {"type": "jsonl", "name": "offers", "path": "offers.jsonl", "kind": "product", "fields": {"group": "group"}},
        {"type": "jsonl", "name": "rows", "path": "rows.jsonl", "kind": "pair"},
    ]
    artifact = build({"root": str(tmp_path), "sources": sources, "split": TRAIN}, tmp_path / "run")
    assert triplets(artifact) == [("mug of red clay", texts[0], None, ((texts[3], None),))]
    assert artifact.manifest.dropped["barred"] == 2
