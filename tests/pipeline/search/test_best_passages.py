"""Documents by their best passage against every product, with ties, exclusions and searches that see only a part."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.encoder.passage_vectors import mixed
from pipeline.search import best_passages as module
from pipeline.search.best_passages import best_passages, first_of_documents, top_documents
from pipeline.search.exact import Floats, Rows, TopK


def brute_force(queries: Floats, passages: Floats, owners: Rows, k: int, excluded: set[tuple[int, int]]) -> TopK:
    best = TopK.empty(len(queries), k)
    for query, vector in enumerate(queries):
        scores: dict[int, float] = {}
        for passage, owner in zip(passages, owners.tolist(), strict=True):
            if (query, owner) not in excluded:
                scores[owner] = max(scores.get(owner, -np.inf), float(np.float32(vector @ passage)))
        for rank, (owner, score) in enumerate(sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:k]):
            best.scores[query, rank], best.rows[query, rank] = score, owner
    return best


@given(st.integers(0, 10_000), st.integers(0, 30), st.integers(1, 9), st.integers(1, 12))
@settings(max_examples=150, deadline=None)
def test_documents_are_those_of_every_product(seed: int, documents: int, most: int, k: int):
    rng = np.random.default_rng(seed)
    owners = np.repeat(np.arange(documents) + 5, rng.integers(0, most + 1, documents))
    passages = rng.integers(-2, 3, (len(owners), 4)).astype(np.float32)  # few values: many ties
    queries = rng.integers(-2, 3, (3, 4)).astype(np.float32)
    barred = {(int(q), int(d)) for q, d in zip(rng.integers(0, 3, 6), rng.integers(5, 40, 6), strict=True)}
    pairs = np.array(sorted(barred), np.int64).reshape(-1, 2)
    found = top_documents(queries, passages, owners, k, (pairs[:, 0], pairs[:, 1]))
    wanted = brute_force(queries, passages, owners, k, barred)
    assert found.rows.tolist() == wanted.rows.tolist() and found.scores.tolist() == wanted.scores.tolist()


def test_parts_of_a_corpus_merge_into_the_ranking_of_the_whole():
    rng = np.random.default_rng(1)
    owners = np.repeat(np.arange(40), rng.integers(1, 6, 40))
    passages, queries = (rng.normal(size=(count, 8)).astype(np.float32) for count in (len(owners), 5))
    whole, merged = top_documents(queries, passages, owners, 7), TopK.empty(5, 7)
    for first in range(0, 40, 9):
        part = slice(*np.searchsorted(owners, [first, first + 9]))
        merged.merge(top_documents(queries, passages[part], owners[part], 7))
    assert merged.rows.tolist() == whole.rows.tolist() and merged.scores.tolist() == whole.scores.tolist()


def test_one_document_with_all_the_best_passages_is_asked_beyond():
    owners = np.repeat([0, 1, 2], [50, 1, 1])
    passages = np.concatenate([np.full((50, 1), 9), [[3], [2]]]).astype(np.float32)
    widths: list[int] = []

    def search(waiting: Rows, width: int) -> tuple[Floats, Rows]:
        widths.append(width)
        return module.top_k(np.ones((len(waiting), 1), np.float32), [passages], width)

    best = best_passages(search, 1, owners, 3)
    assert owners[best.rows].tolist() == [[0, 1, 2]] and best.scores.tolist() == [[9, 3, 2]]
    assert best.rows.tolist() == [[0, 50, 51]] and widths == [6, 24, 52]


def test_a_passage_that_an_index_misses_leaves_a_gap():
    rows = np.array([[4, 3, -1], [-1, -1, -1]])
    found = first_of_documents(np.array([[3, 2, -np.inf]] * 2, np.float32), rows, np.array([0, 0, 1, 2, 2]), 2)
    assert found.rows.tolist() == [[4, -1], [-1, -1]]


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 0.5, 0.9]))
@settings(max_examples=50, deadline=None)
def test_the_mean_with_the_whole_text_is_the_mean_of_scores(seed: int, share: float):
    rng = np.random.default_rng(seed)
    owners = np.repeat(np.arange(6), rng.integers(1, 5, 6))
    passages, whole, query = (rng.normal(size=(count, 5)).astype(np.float32) for count in (len(owners), 6, 1))
    found = top_documents(query, mixed(passages, whole, owners, share), owners, 6)
    best = np.array([max(query[0] @ passage for passage in passages[owners == row]) for row in range(6)])
    wanted = (1 - share) * best + share * whole @ query[0]
    assert np.allclose(found.scores[0], np.sort(wanted)[::-1], atol=1e-5)
    assert np.allclose(wanted[found.rows[0]], found.scores[0], atol=1e-5)
