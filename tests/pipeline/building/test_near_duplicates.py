"""Near duplicates: planted truth is found, nothing else is, the same whatever the cut, and training masks know it."""

import random
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.building.minhash import NearConfig, sketch
from pipeline.building.near_duplicates import EDGES, candidate_pairs, clusters, spanning_forest
from pipeline.building.shingles import jaccard, shingle
from tests.support.corpora import build, inline, sample_recipe, table, write_jsonl

__all__ = ["inline"]
WORDS = [f"w{number}" for number in range(20_000)]


def plain_shingles(text: str) -> set[tuple[str, ...]]:
    """The definition, without arrays: runs of one and two words."""
    words = text.lower().split()
    return {(word,) for word in words} | set(pairwise(words))


def index(left: str, right: str) -> float:
    one, other = plain_shingles(left), plain_shingles(right)
    return len(one & other) / len(one | other)


def planted(count: int, seed: int = 0, changes: tuple[int, int] = (1, 5)) -> list[tuple[str, str]]:
    """Pairs of texts, the second with some words changed, dropped or put in; other pairs share next to nothing."""
    draw, pairs = random.Random(seed), []
    while len(pairs) < count:
        words = draw.choices(WORDS, k=draw.randint(12, 80))
        other = list(words)
        for _ in range(draw.randint(*changes)):
            place = draw.randrange(len(other))
            other[place : place + draw.randint(0, 1)] = draw.choices(WORDS, k=draw.randint(0, 1))
        if other != words:
            pairs.append((" ".join(words), " ".join(other)))
    return pairs


def test_shingles_are_runs_of_words():
    texts = ["Hello, WORLD; hello!", "", "...", "\u5496\u5561 bean", "one", "\u00c9t\u00e9 \u00e9t\u00e9"]
    found = shingle(pa.array(texts))
    assert [len(found.of(row)) for row in range(len(texts))] == [4, 0, 0, 5, 1, 2]
    sliced = shingle(pa.chunked_array([pa.array(["x", *texts[:2]])[1:], pa.array(texts[2:])]))
    assert np.array_equal(sliced.hashes, found.hashes) and np.array_equal(sliced.offsets, found.offsets)
    three = shingle(pa.array(["a b c d"]), words=3)
    assert len(three.of(0)) == 4 + 3 + 2


def test_the_jaccard_index_is_that_of_sets():
    pairs = planted(200)
    left, right = (shingle(pa.array([pair[side] for pair in pairs])) for side in (0, 1))
    found = jaccard(left, right, np.stack([np.arange(200)] * 2, axis=1))
    assert found == pytest.approx([index(*pair) for pair in pairs])


@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.95])
def test_bands_find_what_they_promise(threshold: float):
    config = NearConfig(threshold=threshold)
    assert 1 - (1 - threshold**config.rows) ** config.bands >= 0.98


def test_planted_near_duplicates_are_found_and_others_are_no_candidates():
    pairs = planted(4000)
    texts = [text for pair in pairs for text in pair]
    config, found = NearConfig(), sketch(pa.array(texts), NearConfig())
    numbers = np.repeat(np.arange(len(texts), dtype=np.uint64), config.bands)
    bands = pa.table({"key": found.keys.ravel(), "number": numbers, "bits": np.repeat(found.bits, config.bands)})
    proposed = set(map(tuple, np.stack(list(map(np.asarray, candidate_pairs(bands, config).columns)), axis=1).tolist()))
    truth = {(2 * place, 2 * place + 1) for place, pair in enumerate(pairs) if index(*pair) >= 0.8}
    at_threshold = {pair for pair in truth if index(texts[pair[0]], texts[pair[1]]) < 0.85}
    assert len(at_threshold) > 300
    assert len(truth & proposed) >= 0.99 * len(truth)
    assert len(at_threshold & proposed) >= 0.95 * len(at_threshold)
    assert all(left // 2 == right // 2 for left, right in proposed)  # unrelated texts are not even compared


def test_a_crowded_band_gives_few_candidates():
    texts = [f"the same long sentence about one and the same thing in a shop number {n}" for n in range(2000)]
    config, found = NearConfig(threshold=0.7), sketch(pa.array(texts), NearConfig(threshold=0.7))
    numbers = np.repeat(np.arange(len(texts), dtype=np.uint64), config.bands)
    bands = pa.table({"key": found.keys.ravel(), "number": numbers, "bits": np.repeat(found.bits, config.bands)})
    pairs = candidate_pairs(bands, config)
    assert len(pairs) <= 6 * config.bands * len(texts)
    assert len(clusters(pairs)) == len(texts) and len(clusters(pairs)["cluster"].unique()) == 1


def test_components_do_not_depend_on_how_edges_were_cut():
    draw = np.random.default_rng(3)
    pairs = draw.integers(0, 900, (600, 2)).astype(np.uint64)
    whole = pa.table([pairs.min(axis=1), pairs.max(axis=1)], schema=EDGES)
    parts = pa.concat_tables([spanning_forest(whole.slice(start, 70)) for start in range(0, 600, 70)])
    assert clusters(parts).sort_by("number").equals(clusters(spanning_forest(whole)).sort_by("number"))
    assert clusters(EDGES.empty_table()).num_rows == 0
    reference = {number: {number} for number in range(900)}
    for left, right in pairs.tolist():
        merged = reference[left] | reference[right]
        for member in merged:
            reference[member] = merged
    found = defaultdict(set)
    for row in clusters(whole).to_pylist():
        found[row["cluster"]].add(row["number"])
    wanted = {frozenset(group) for group in reference.values() if len(group) > 1}
    assert {frozenset(group) for group in found.values()} == wanted
    assert all(name == f"c-{min(group):016x}" for name, group in found.items())


def corpus(tmp_path: Path, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Documents d0-0, d0-1, d1-0, ... with planted near duplicates, each asked for by a query of its own."""
    places = [(pair, side) for pair in range(len(pairs)) for side in (0, 1)]
    documents = [{"id": f"d{p}-{s}", "text": pairs[p][s]} for p, s in places]
    queries = [{"id": f"q{p}-{s}", "text": f"what of {p} and {s} {WORDS[p]}"} for p, s in places]
    judged = [{"query_id": f"q{p}-{s}", "doc_id": f"d{p}-{s}", "relevance": 1} for p, s in places]
    for kind, rows in (("document", documents), ("query", queries), ("judgment", judged)):
        write_jsonl(tmp_path / f"{kind}.jsonl", rows)
    sources = [{"type": "jsonl", "path": f"{kind}.jsonl", "kind": kind} for kind in ("document", "query", "judgment")]
    return {"root": str(tmp_path), "sources": sources, "near_duplicates": {"threshold": 0.8}}


@pytest.mark.parametrize("over", [{}, {"buckets": 5, "block_bytes": 9000}])
def test_a_build_clusters_near_duplicates(inline: None, tmp_path: Path, over: dict[str, Any]):
    pairs = planted(400, seed=1)
    artifact = build({**corpus(tmp_path, pairs), **over}, tmp_path / "run")
    found = defaultdict(set)
    for row in table(artifact, "corpus"):
        if row["cluster_id"]:
            found[row["cluster_id"]].add(row["doc_id"])
    truth = {frozenset({f"d{p}-0", f"d{p}-1"}) for p, pair in enumerate(pairs) if index(*pair) >= 0.8}
    clustered = {frozenset(members) for members in found.values()}
    assert len(truth) > 200 and clustered <= truth  # none is false: all were compared exactly
    assert len(clustered) >= 0.97 * len(truth)
    assert artifact.manifest.notes["counts"]["near_duplicate_documents"] == 2 * len(clustered)


def test_clusters_do_not_depend_on_blocks_and_buckets(inline: None, tmp_path: Path):
    recipe = corpus(tmp_path, planted(150, seed=2)) | {"split": {"by": "cluster"}}
    whole = build(recipe, tmp_path / "whole")
    for number, over in enumerate([{"buckets": 2}, {"buckets": 7, "block_bytes": 5000}]):
        cut = build({**recipe, **over}, tmp_path / f"cut{number}")
        for name in ("corpus", "queries", "pairs"):
            assert table(cut, name) == table(whole, name)
        assert cut.manifest.notes["counts"] == whole.manifest.notes["counts"]


def test_splits_by_cluster_keep_near_duplicates_together(inline: None, tmp_path: Path):
    recipe = corpus(tmp_path, planted(150, seed=2, changes=(1, 1)))
    splits: dict[str, dict[str, set[str]]] = {}
    for by in ("group", "cluster"):
        artifact = build({**recipe, "split": {"by": by}}, tmp_path / by)
        cluster = {row["doc_id"]: row["cluster_id"] for row in table(artifact, "corpus")}
        splits[by] = defaultdict(set)
        for row in table(artifact, "pairs"):
            if cluster[row["positive_id"]]:
                splits[by][cluster[row["positive_id"]]].add(row["split"])
    assert len(splits["cluster"]) > 100 and set().union(*splits["cluster"].values()) == {"train", "dev", "test"}
    assert any(len(found) > 1 for found in splits["group"].values())
    assert all(len(found) == 1 for found in splits["cluster"].values())


def test_groups_that_near_duplicate_queries_tie_are_one_unit(inline: None, tmp_path: Path):
    words = "how do i get the ground coffee out of my old steel filter without any mess at all {n} times a day"
    queries = [{"id": f"q{n}", "text": words.format(n=n), "topic": f"topic {n}"} for n in range(20)]
    queries += [{"id": f"o{n}", "text": f"{WORDS[n]} {WORDS[n + 99]}", "topic": f"topic {n}"} for n in range(20)]
    write_jsonl(tmp_path / "q.jsonl", queries)
    write_jsonl(tmp_path / "d.jsonl", [{"id": "d", "text": "with water"}])
    write_jsonl(tmp_path / "j.jsonl", [{"query_id": q["id"], "doc_id": "d", "relevance": 1} for q in queries])
    sources = [
        {"type": "jsonl", "path": "q.jsonl", "kind": "query", "fields": {"group": "topic"}},
        {"type": "jsonl", "path": "d.jsonl", "kind": "document"},
        {"type": "jsonl", "path": "j.jsonl", "kind": "judgment"},
    ]
    recipe = {"root": str(tmp_path), "sources": sources, "near_duplicates": {}}
    apart = table(build(recipe, tmp_path / "group"), "pairs")
    as_one = table(build({**recipe, "split": {"by": "cluster"}, "buckets": 3}, tmp_path / "cluster"), "queries")
    assert len({row["split"] for row in apart if row["anchor_id"].startswith("o")}) > 1
    assert len(as_one) == 40 and len({row["split"] for row in as_one}) == 1


def test_clusters_reach_the_training_masks(inline: None, tmp_path: Path):
    import torch

    from tests.support.rows import gathered_columns
    from training.data.read_rows import load_rows
    from training.losses.false_negatives import MaskConfig, document_mask
    from training.losses.loss import Batch

    pairs = [pair for pair in planted(30, seed=4, changes=(1, 1)) if index(*pair) >= 0.85][:8]
    recipe = corpus(tmp_path, pairs) | {"split": {"train": 1, "dev": 0, "test": 0}}
    artifact = build(recipe, tmp_path / "run")
    rows = load_rows(["pairs"], artifact, None, None, None)
    count = len(rows)
    columns = {name: torch.from_numpy(value) for name, value in gathered_columns(rows).items()}
    vectors = torch.zeros(count, 2)
    batch = Batch(
        query=vectors,
        positive=vectors,
        negative=torch.zeros(0, 2),
        negative_row=torch.zeros(0, dtype=torch.int64),
        rows=slice(0, count),
        negative_rows=slice(0, 0),
        positive_cluster=columns["positive.cluster"],
        relevant_cluster=columns["query.relevant_cluster"],
    )
    masked = document_mask(batch, MaskConfig())
    other = {a: b for pair in pairs for a, b in (pair, pair[::-1])}
    partner = [rows.positives.index(other[text]) for text in rows.positives]
    wanted = torch.zeros(count, count, dtype=torch.bool)
    wanted[torch.arange(count), partner] = True
    assert torch.equal(masked, wanted)


def test_queries_cluster_apart_from_documents_of_the_same_id(inline: None, tmp_path: Path):
    text = "one sentence that is asked and answered in nearly the same words by everybody here today"
    write_jsonl(tmp_path / "q.jsonl", [{"id": "1", "text": text + " again"}, {"id": "2", "text": "unlike"}])
    write_jsonl(tmp_path / "d.jsonl", [{"id": "1", "text": text}, {"id": "2", "text": "something else"}])
    write_jsonl(tmp_path / "j.jsonl", [{"query_id": "1", "doc_id": "1", "relevance": 1}])
    kinds = {"q": "query", "d": "document", "j": "judgment"}
    sources = [{"type": "jsonl", "path": f"{name}.jsonl", "kind": kind} for name, kind in kinds.items()]
    artifact = build({"root": str(tmp_path), "sources": sources, "near_duplicates": {}}, tmp_path / "run")
    assert [row["cluster_id"] for row in table(artifact, "corpus")] == [None, None]


def test_cluster_splits_need_clusters():
    from pipeline.building.config import BuildConfig

    with pytest.raises(ValueError, match="needs near_duplicates"):
        BuildConfig.model_validate(sample_recipe(split={"by": "cluster"}))
