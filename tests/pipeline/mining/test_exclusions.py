"""What mining never takes for a candidate: over random catalogues, the same as build bars, and nothing else."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipeline.core.config import validate
from pipeline.core.schema import TABLES
from pipeline.mining.actors import MiningPaths, add_document_keys, find_candidates, first_rows, join_block
from pipeline.mining.config import MineConfig
from pipeline.mining.exclusions import names_of
from pipeline.storage import shards
from pipeline.storage.artifact import Artifact
from pipeline.storage.vectors import vectors_table
from pipeline.text.same_document import text_keys
from tests.support.catalogues import (
    KnownDocuments,
    catalogue_recipe,
    catalogues,
    given_rows,
    judgments,
    similar,
)
from tests.support.corpora import build, inline

__all__ = ["inline"]
Candidates = list[tuple[dict[str, Any], set[str]]]


def encoded(ids: pa.ChunkedArray, texts: pa.ChunkedArray, seed: int) -> pa.Table:
    """Random unit vectors of texts [N], with the keys of the texts."""
    vectors = np.random.default_rng(seed).normal(size=(len(ids), 8)).astype(np.float32)
    table = vectors_table(ids, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), "float16")
    return table.append_column("text_key", pa.array(text_keys(texts.to_pylist())))


def mine(data: Artifact, folder: Path, **more: Any) -> tuple[Candidates, int]:
    """Every pair with the ids of all its candidates under random vectors, and how often a document was barred."""
    corpus, pairs = data.read("corpus"), data.read("pairs")
    half = len(pairs) // 2
    tables = [pairs.slice(0, half), pairs.slice(half)]  # two shards, of which each encodes its own anchors
    documents = add_document_keys(encoded(corpus["doc_id"], corpus["text"], 0), corpus)
    shards.commit(str(folder), "corpus", documents, {})
    anchors = []
    for number, table in enumerate(tables):
        first = first_rows(table)
        anchors.append(encoded(first["anchor_id"], first["anchor"], number + 1))
        shards.commit(str(folder), f"anchors-{number}", anchors[-1], {})
    paths = MiningPaths(
        out=str(folder / "out"),
        pairs=data.files("pairs"),
        qrels=data.files("qrels") if data.has("qrels") else [],
        queries=data.files("queries") if data.has("queries") else [],
        corpus=data.files("corpus"),
        vectors=str(folder),
        documents=["corpus"],
        anchors={"0": "anchors-0", "1": "anchors-1"},
        reused=None,
    )
    config = validate(MineConfig, {"run": "unused", "top_k": 50, **more})
    found, barred = [], 0
    for table, vectors in zip(tables, anchors, strict=True):
        if len(table):
            candidates, counts = find_candidates(join_block([table], [vectors]), paths, config, None, None)
            names = [{one["doc_id"] for one in row} for row in candidates["candidates"].to_pylist()]
            found += list(zip(table.to_pylist(), names, strict=True))
            barred += int(counts.sum())
    return found, barred


@settings(
    max_examples=80,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    rows=catalogues,
    judged=judgments,
    stated=given_rows,
    by=similar,
    near=st.booleans(),
    titles=st.booleans(),
)
def test_random_catalogues(
    inline: None,
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[dict[str, Any]],
    judged: list[tuple[str, int, int]],
    stated: list[tuple[str, list[int]]],
    by: list[str],
    near: bool,
    titles: bool,
):
    path = tmp_path_factory.mktemp("m")
    recipe = catalogue_recipe(
        path,
        rows,
        judged,
        stated,
        pairs={"title_description": titles, "similar": {"by": by, "min_tags": 1}},
        triplets={"negatives": 0},
        near_duplicates={"threshold": 0.5} if near else None,
    )
    data = build(recipe, path / "run")
    if not data.has("pairs"):
        return
    documents = KnownDocuments(data)
    for pair, candidates in mine(data, path / "vectors")[0]:
        right = documents.right(pair["anchor"], pair["anchor_id"]).values()
        itself = [row for row in documents.corpus.values() if documents.is_same(pair["anchor"], row, [])]
        same = {
            name
            for name, document in documents.corpus.items()
            if documents.is_same(pair["anchor"], document, [*right, *itself])
        }
        assert candidates == set(documents.corpus) - same


def test_offers_of_a_product_are_counted_as_barred(tmp_path: Path, inline: None):
    """Two offers of each product; the other one is no candidate, unless the setting says so."""
    rows = [
        {"title": f"mug {n}", "description": f"of shop {n}", "category": "home", "group": f"g{n // 2}", "tags": []}
        for n in range(8)
    ]
    recipe = catalogue_recipe(tmp_path, rows, [], [], pairs={"title_description": True}, triplets={"negatives": 0})
    data = build(recipe, tmp_path / "run")
    found, barred = mine(data, tmp_path / "vectors")
    assert len(found) == 8 and all(len(candidates) == 6 for _, candidates in found)
    assert barred == 8
    found, barred = mine(data, tmp_path / "more", exclude={"same_product": False})
    assert all(len(candidates) == 7 for _, candidates in found) and barred == 0


def test_a_corpus_of_an_earlier_build_has_no_groups(tmp_path: Path):
    names = [name for name in TABLES["corpus"].names if name != "group_id"]
    corpus = pa.Table.from_pylist([{"doc_id": "d", "title": "", "text": "a mug", "tags": []}], TABLES["corpus"])
    keyed = add_document_keys(encoded(corpus["doc_id"], corpus["text"], 0), corpus.select(names))
    assert keyed["group_key"].to_pylist() == keyed["title_key"].to_pylist() == [0]
    assert pc.all(pc.greater(keyed["id_key"], 0)).as_py()


def test_a_query_that_reads_like_the_anchor_brings_its_positives(tmp_path: Path):
    """Whatever its case and the form of its characters: `fi` in one character reads the same."""
    queries = pa.table({"query_id": ["q1", "q2"], "text": ["Where is the \ufb01le?", "where is it?"]})
    shards.commit(str(tmp_path), "queries", queries, {})
    vectors = encoded(pa.chunked_array([["a"]]), pa.chunked_array([["where is the file?"]]), 0)
    pairs = [{"anchor_id": "a", "anchor": "where is the file?", "positive_id": "d", "positive": "there"}]
    block = join_block([pa.Table.from_pylist(pairs, TABLES["pairs"])], [vectors])
    names = names_of(block, [], [str(tmp_path / "queries.parquet")])
    assert names.ids == ["a", "q1"] and names.anchors.tolist() == [0, 0]
