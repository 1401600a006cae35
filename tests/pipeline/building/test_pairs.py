"""Pairs and negatives by choice: products that belong together, weights, caps, lexical and graded negatives."""

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.building.triplets import BM25_DOCUMENTS, PAIRS_WITH_POSITIVES, LexicalConfig, lexical_triplets
from pipeline.storage.counts import Counts
from pipeline.text.analyzer import Analyzer
from tests.support.corpora import build, inline, sample_recipe, table, write_jsonl

__all__ = ["inline"]
ALL = {"train": 1, "dev": 0, "test": 0}


def goods(tmp_path: Path, count: int = 60, **over: Any) -> dict[str, Any]:
    """Offers of products, three a product, in ten categories below three parents, with two or three tags each."""
    rows = [
        {
            "sku": f"p{n}",
            "name": f"thing {n}",
            "description": f"offer {n} of shop {n % 3}",
            "category": f"parent {n % 3} > leaf {n % 10}",
            "tags": [f"tag {n % 4}", f"tag {n % 5}", "every"],
            "ean": f"ean {n // 3}",
        }
        for n in range(count)
    ]
    write_jsonl(tmp_path / "p.jsonl", rows)
    source = {"type": "jsonl", "name": "shop", "path": "p.jsonl", "kind": "product", "fields": {"group": "ean"}}
    return {"root": str(tmp_path), "sources": [source], "triplets": {"negatives": 0}, "split": ALL, **over}


def number(doc_id: str) -> int:
    return int(doc_id.removeprefix("t-").removeprefix("p"))


@pytest.mark.parametrize("over", [{}, {"buckets": 3}])
def test_offers_of_one_product_are_pairs(inline: None, tmp_path: Path, over: dict[str, Any]):
    similar = {"by": ["group"], "weights": {"group": 0.5}}
    rows = table(build(goods(tmp_path, pairs={"similar": similar}, **over), tmp_path / "run"), "pairs")
    found = {(number(row["anchor_id"]), number(row["positive_id"])) for row in rows}
    assert found == {(a, b) for a in range(60) for b in range(60) if a != b and a // 3 == b // 3}
    assert {(row["reason"], row["weight"], row["source"]) for row in rows} == {("same product", 0.5, "shop")}
    assert all(row["anchor"] == f"thing {number(row['anchor_id'])}" for row in rows)
    assert all(row["positive"].startswith(f"thing {number(row['positive_id'])}. offer") for row in rows)


def test_products_with_shared_tags_or_category_are_pairs(inline: None, tmp_path: Path):
    similar = {"by": ["category", "parent", "tags"], "min_tags": 3, "per_product": 1, "anchor": "text"}
    recipe = goods(tmp_path, 240, pairs={"similar": similar})
    rows = table(build(recipe, tmp_path / "run"), "pairs")
    tags = {n: {f"tag {n % 4}", f"tag {n % 5}", "every"} for n in range(240)}
    kinds = defaultdict(list)
    for row in rows:
        kinds[row["reason"].partition(":")[0]].append((number(row["anchor_id"]), number(row["positive_id"])))
    assert set(kinds) == {"same category", "same parent category", "shared tags"}
    assert all(a % 30 == b % 30 for a, b in kinds["same category"])
    assert all(a % 3 == b % 3 for a, b in kinds["same parent category"])
    assert all(len(tags[a] & tags[b]) >= 3 for a, b in kinds["shared tags"])
    shown = next(row for row in rows if row["reason"].startswith("shared"))
    first = number(shown["anchor_id"])
    assert shown["reason"] == f"shared tags: {', '.join(sorted(tags[first]))}" and not shown["anchor_id"].startswith(
        "t-"
    )
    for pairs in kinds.values():
        assert max(Counter(a for a, _ in pairs).values()) == 1 and len(pairs) > 60
    places = [(row["anchor_id"], row["positive_id"]) for row in rows]
    assert len(set(places)) == len(places)
    cut = table(build({**recipe, "buckets": 4, "block_bytes": 3000}, tmp_path / "cut"), "pairs")
    assert cut == rows


def test_a_popular_key_gives_no_more_than_its_cap(inline: None, tmp_path: Path):
    similar = {"by": ["tags"], "min_tags": 1, "per_key": 10, "per_product": 3}
    rows = table(build(goods(tmp_path, 240, pairs={"similar": similar}), tmp_path / "run"), "pairs")
    assert 0 < len(rows) <= 10 * 10 * 3
    assert max(Counter(row["anchor_id"] for row in rows).values()) <= 3


def test_products_of_two_splits_are_no_pair(inline: None, tmp_path: Path):
    recipe = goods(
        tmp_path, 240, pairs={"similar": {"by": ["category"]}}, split={"train": 0.5, "dev": 0.25, "test": 0.25}
    )
    artifact = build(recipe, tmp_path / "run")
    split: dict[int, set[str]] = defaultdict(set)
    for row in table(artifact, "pairs"):
        split[number(row["anchor_id"]) // 3].add(row["split"])
        split[number(row["positive_id"]) // 3].add(row["split"])
    assert all(len(found) == 1 for found in split.values()) and len(set().union(*split.values())) == 3


def judged(tmp_path: Path, grades: list[tuple[str, str, int]], **over: Any) -> dict[str, Any]:
    texts = {name: f"document {name}" for _, name, _ in grades}
    write_jsonl(tmp_path / "d.jsonl", [{"id": name, "text": text} for name, text in texts.items()])
    write_jsonl(tmp_path / "q.jsonl", [{"id": q, "text": f"query {q}"} for q in sorted({q for q, _, _ in grades})])
    write_jsonl(tmp_path / "j.jsonl", [{"query_id": q, "doc_id": d, "relevance": r} for q, d, r in grades])
    kinds = {"d": "document", "q": "query", "j": "judgment"}
    sources = [{"type": "jsonl", "path": f"{name}.jsonl", "kind": kind} for name, kind in kinds.items()]
    return {"root": str(tmp_path), "sources": sources, "split": ALL, **over}


def test_pairs_count_by_their_relevance(inline: None, tmp_path: Path):
    grades = [("a", "x", 3), ("a", "y", 1), ("b", "x", 2)]
    artifact = build(judged(tmp_path, grades, pairs={"weights": {1: 0.25, 3: 2}}), tmp_path / "run")
    assert {(row["relevance"], row["weight"]) for row in table(artifact, "pairs")} == {(3, 2), (1, 0.25), (2, None)}
    from training.data.read_rows import load_rows

    assert sorted(load_rows(["pairs"], artifact, None, None, None).weight.tolist()) == [0.25, 1.0, 2.0]


@pytest.mark.parametrize("over", [{}, {"buckets": 3}])
def test_a_popular_document_has_few_pairs(inline: None, tmp_path: Path, over: dict[str, Any]):
    grades = [(f"q{n}", "popular", 1 + (n == 7)) for n in range(20)] + [("q3", "rare", 1), ("q4", "rare", 0)]
    artifact = build(judged(tmp_path, grades, pairs={"max_per_document": 4}, **over), tmp_path / "run")
    found = Counter(row["positive_id"] for row in table(artifact, "pairs"))
    assert found == {"popular": 4, "rare": 1} and artifact.manifest.dropped == {"over_max_per_document": 16}
    assert "q7" in {row["anchor_id"] for row in table(artifact, "pairs")}  # the most relevant first
    assert artifact.rows("qrels") == 22


def test_lookalikes_share_words_and_are_not_known_to_be_right():
    texts = {"right": "old steel filter coffee", "near": "old steel filter coffee pot", "own": "Steel filter coffee"}
    texts |= {"best": "steel coffee", "good": "the steel door", "far": "blue sky"}
    clusters = {"right": ["cluster c"], "near": ["cluster c"]}
    rows = [{"doc_id": n, "text": t, "identities": clusters.get(n, [])} for n, t in texts.items()]
    documents = pa.Table.from_pylist(rows, schema=BM25_DOCUMENTS)
    pair = {"anchor_id": "q", "anchor": "steel filter coffee", "positive_id": "right", "positive": texts["right"]}
    pairs = pa.Table.from_pylist(
        [pair | {"positives": ["id right", "cluster c"], "reason": "judged 1"}], schema=PAIRS_WITH_POSITIVES
    )
    found = lexical_triplets(pairs, documents, LexicalConfig(skip=0), Counts()).to_pylist()
    assert [(n["doc_id"], n["rank"]) for n in found[0]["negatives"]] == [("best", 1), ("good", 2)]
    assert found[0]["reason"] == "judged 1" and found[0]["negatives"][0]["reason"] == "BM25, not judged right"
    skipped = lexical_triplets(pairs, documents, LexicalConfig(skip=1), Counts()).to_pylist()
    assert [n["doc_id"] for n in skipped[0]["negatives"]] == ["good"]
    tally = Counts()
    assert lexical_triplets(pairs, documents, LexicalConfig(skip=2), tally).num_rows == 0
    assert lexical_triplets(pairs, BM25_DOCUMENTS.empty_table(), LexicalConfig(), tally).num_rows == 0
    assert tally.counts["pairs_without_lexical_negative"] == 2


def test_lexical_negatives_of_a_build(inline: None, tmp_path: Path):
    recipe = sample_recipe(triplets={"negatives": 0, "judged": False, "lexical": {"negatives": 3, "shards": 2}})
    artifact, cut = build(recipe, tmp_path / "a"), build({**recipe, "buckets": 5}, tmp_path / "b")
    rows, english = table(artifact, "triplets"), Analyzer("english")
    right = defaultdict(set)
    for row in table(artifact, "qrels"):
        if row["relevance"] > 0:
            right[row["query_id"]].add(row["doc_id"])
    assert len(rows) > 100 and {row["split"] for row in rows} == {"train"}
    assert all(0 < len(row["negatives"]) <= 3 for row in rows)
    for row in rows:
        assert not {negative["doc_id"] for negative in row["negatives"]} & right[row["anchor_id"]]
        words = set(english.words(row["anchor"]))
        assert all(words & set(english.words(negative["text"])) for negative in row["negatives"])
    assert table(cut, "triplets") == rows
    pairs = {(row["anchor_id"], row["positive_id"]) for row in table(artifact, "pairs")}
    assert all((row["anchor_id"], row["positive_id"]) in pairs for row in rows)


@pytest.mark.parametrize("levels", ["nearest", "medium", "easy", "both"])
def test_negatives_are_easy_or_medium_by_choice(inline: None, tmp_path: Path, levels: str):
    artifact = build(sample_recipe(triplets={"levels": levels, "judged": False, "depth": 1}), tmp_path / "run")
    found = [[negative["reason"] for negative in row["negatives"]] for row in table(artifact, "triplets")]
    kinds = {reason for reasons in found for reason in reasons}
    wanted = {"medium": {"sibling category"}, "easy": {"another branch"}}
    assert kinds == wanted.get(levels, {"sibling category", "another branch"})
    if levels == "both":
        assert ["sibling category"] * 2 + ["another branch"] * 2 in found
    if levels == "nearest":
        assert all(len(set(reasons)) == 1 for reasons in found)
