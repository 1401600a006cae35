"""Negatives are never the same product, a near duplicate or another known positive, however a triplet comes to be."""

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
from pipeline.storage.counts import Counts
from tests.support.catalogues import TRAIN, catalogue_recipe, catalogues, check, given_rows, judgments, similar
from tests.support.corpora import build, inline, table, write_jsonl

__all__ = ["inline"]


@settings(
    max_examples=150,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    rows=catalogues,
    judged=judgments,
    stated=given_rows,
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
    stated: list[tuple[str, list[int]]],
    by: list[str],
    levels: str,
    near: bool,
    anchor: str,
    depth: int,
    buckets: int,
):
    """Triplets of the catalogue, of judgments, of BM25 and of rows that state their negatives."""
    path = tmp_path_factory.mktemp("c")
    triplets = {"levels": levels, "anchor": anchor, "depth": depth, "negatives": 3, "judged_positive": 1}
    recipe = catalogue_recipe(
        path,
        rows,
        judged,
        stated,
        buckets=buckets,
        pairs={"title_description": True, "similar": {"by": by, "min_tags": 1}},
        triplets=triplets | {"lexical": {"negatives": 3, "skip": 0}},
        near_duplicates={"threshold": 0.5} if near else None,
    )
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
