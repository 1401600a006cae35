"""Negatives are never the same product, a near duplicate or another known positive, however a triplet comes to be."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipeline.building.negatives import (
    KNOWN_POSITIVES,
    allowed_triplets,
    anchor_key,
    as_candidates,
    document_identities,
    reading,
)
from pipeline.storage.artifact import Artifact
from pipeline.storage.counts import Counts
from tests.support.corpora import build, inline, table, write_jsonl

__all__ = ["inline"]
TRAIN = {"train": 1, "dev": 0, "test": 0}
WORDS = ["red mug", "Red Mug", "blue cup", "tea pot", "steel filter coffee pot", "green lamp"]
CATEGORIES = ["home > cups > mugs", "home > cups > glasses", "home > pots", "garden > lamps", "toys"]


def check(artifact: Artifact) -> None:
    """No negative shares an identity with its anchor, its positive or another known positive of the anchor's text."""
    corpus = {row["doc_id"]: row for row in table(artifact, "corpus")}
    triplets, queries = table(artifact, "triplets"), {row["query_id"]: row for row in table(artifact, "queries")}
    known = defaultdict(set)
    for row in [*table(artifact, "pairs"), *triplets]:
        known[row["anchor"].casefold()].add(row["positive_id"])
    for row in table(artifact, "qrels"):
        if row["relevance"] > 0:
            known[queries[row["query_id"]]["text"].casefold()].add(row["doc_id"])
    for row in triplets:
        text = row["anchor"].casefold()
        right = {name: corpus[name] for name in {row["anchor_id"], *known[text]} & set(corpus)}
        assert row["positive_id"] in right and row["negatives"]
        for negative in row["negatives"]:
            document = corpus[negative["doc_id"]]
            assert negative["doc_id"] not in right
            assert text not in (document["text"].casefold(), document["title"].casefold())
            for other in right.values():
                assert document["group_id"] is None or document["group_id"] != other["group_id"]
                assert document["cluster_id"] is None or document["cluster_id"] != other["cluster_id"]
                assert document["title"].casefold() != other["title"].casefold()


products = st.fixed_dictionaries(
    {
        "title": st.sampled_from(WORDS),
        "description": st.sampled_from(["a", "made of clay", "made of glass", "old and heavy"]),
        "category": st.sampled_from(CATEGORIES),
        "group": st.sampled_from([None, "g1", "g2", "g3"]),
        "tags": st.lists(st.sampled_from(["t1", "t2", "t3"]), max_size=3),
    }
)
judgments = st.lists(
    st.tuples(st.sampled_from([*WORDS, "old pot", "glass"]), st.integers(0, 23), st.integers(0, 2)), max_size=25
)
similar = st.lists(st.sampled_from(["group", "tags", "category", "parent"]), unique=True)


@settings(
    max_examples=400,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    rows=st.lists(products, min_size=6, max_size=24),
    judged=judgments,
    by=similar,
    levels=st.sampled_from(["nearest", "medium", "easy", "both"]),
    near=st.booleans(),
    anchor=st.sampled_from(["title", "text"]),
    depth=st.sampled_from([1, 2]),
    buckets=st.sampled_from([1, 3]),
)
def test_random_catalogues(
    inline: None,
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[dict[str, Any]],
    judged: list[tuple[str, int, int]],
    by: list[str],
    levels: str,
    near: bool,
    anchor: str,
    depth: int,
    buckets: int,
):
    path = tmp_path_factory.mktemp("c")
    write_jsonl(path / "p.jsonl", [{"id": f"p{n}", **row} for n, row in enumerate(rows)])
    grades = [{"query": q, "doc_id": f"p{n}", "relevance": grade} for q, n, grade in judged if n < len(rows)]
    write_jsonl(path / "j.jsonl", grades)
    sources = [{"type": "jsonl", "name": "p", "path": "p.jsonl", "kind": "product", "fields": {"group": "group"}}]
    sources += [{"type": "jsonl", "name": "j", "path": "j.jsonl", "kind": "rated"}] if grades else []
    triplets = {"levels": levels, "anchor": anchor, "depth": depth, "negatives": 3, "judged_positive": 1}
    recipe = {
        "root": str(path),
        "sources": sources,
        "split": TRAIN,
        "buckets": buckets,
        "pairs": {"title_description": True, "similar": {"by": by, "min_tags": 1}},
        "triplets": triplets | {"lexical": {"negatives": 3, "skip": 0}},
        "near_duplicates": {"threshold": 0.5} if near else None,
    }
    check(build(recipe, path / "run"))


def offers(tmp_path: Path) -> dict[str, Any]:
    """Offers of one product stand in sibling categories."""
    rows = [
        {"id": f"o{n}", "title": f"mug {n // 2}", "description": f"shop {n}", "item_group_id": f"g{n // 2}"}
        | {"category": f"home > {('cups', 'mugs')[n % 2]}"}
        for n in range(20)
    ]
    write_jsonl(tmp_path / "o.jsonl", rows)
    source = {"type": "jsonl", "path": "o.jsonl", "kind": "product", "fields": {"group": "item_group_id"}}
    return {"root": str(tmp_path), "sources": [source], "split": TRAIN, "pairs": {"similar": {"by": ["group"]}}}


def test_offers_of_one_product_are_barred_and_counted(inline: None, tmp_path: Path):
    artifact = build(offers(tmp_path), tmp_path / "run")
    check(artifact)
    rows = table(artifact, "triplets")
    assert {row["group_id"] for row in rows} == {f"g{n}" for n in range(10)}
    assert all(len(row["negatives"]) == 4 for row in rows if row["reason"] == "same category")
    assert artifact.manifest.dropped["barred"] == artifact.manifest.notes["records_dropped"]["barred"] > 0
    assert "as a negative of o" in artifact.manifest.notes["examples"]["barred"][0]


def test_the_first_allowed_negatives_stay_in_their_order():
    negatives = [{"doc_id": name, "text": f"text {name}"} for name in ("same", "near", "a", "reads", "b", "c")]
    names = [[], ["cluster 1"], [], [reading("The Anchor")], [], []]
    row = {"anchor_id": "q", "anchor": "the anchor", "positive_id": "p", "positive": "right", "reason": "judged 2"}
    row |= {"negatives": negatives, "identities": names, "barred": ["cluster 1"], "max_negatives": 2}
    known = pa.table([[anchor_key("THE ANCHOR")], [["id same"]]], schema=KNOWN_POSITIVES)
    tally = Counts()
    (kept,) = allowed_triplets(as_candidates([row]), known, tally).to_pylist()
    assert [negative["doc_id"] for negative in kept["negatives"]] == ["a", "b"]
    assert tally.dropped == {"barred": 3}
    none = as_candidates([row | {"negatives": negatives[:2], "identities": names[:2]}])
    assert allowed_triplets(none, known, tally).num_rows == 0
    assert tally.counts["triplets_without_negative"] == 1


def test_identities_of_documents():
    rows = pa.table(
        {
            "title": ["Mug", "mug", "", None, "Mug"],
            "cluster": [None, "c", "c", None, None],
            "group": ["g", None, "g", "g", "g"],
            "product": [True, True, True, None, False],
        }
    )
    a, b, c, none, document = map(set, document_identities(rows).to_pylist())
    assert "group g" in a & c and "cluster c" in b & c and len(a & b) == 2 and none == set()
    assert document == {reading("MUG")} and len(a & document) == 1  # a title that reads like the anchor, nothing else
