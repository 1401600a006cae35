"""A document that is the query itself is neither ranked nor counted, by any model, and the report says how many."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import UserError
from pipeline.core.tasks import LocalValue
from pipeline.evaluation.bm25_tuning import EvaluatedBM25
from pipeline.evaluation.corpus import Corpus
from pipeline.evaluation.dataset import read_dataset
from pipeline.evaluation.evaluator import evaluate
from pipeline.evaluation.ranking import RankedQueries, Ranker
from pipeline.evaluation.results import BM25, EvaluationPlan
from pipeline.evaluation.self_matches import exclude_self_matches
from pipeline.evaluation.similarity_samples import SimilarityPairs
from pipeline.evaluation.vector_variants import Variant
from pipeline.storage.vectors import l2_normalize
from tests.support.corpora import build, inline  # noqa: F401  a fixture
from tests.support.rows import made

POSTS = """<?xml version="1.0" encoding="utf-8"?>
<posts>
<row Id="1" PostTypeId="1" AcceptedAnswerId="2" Score="5" Title="How do I switch tabs?" Tags="|keys|" />
<row Id="2" PostTypeId="2" ParentId="1" Score="4" Body="&lt;p&gt;Press Cmd-1 to Cmd-9.&lt;/p&gt;" />
<row Id="4" PostTypeId="1" Score="2" Title="How can tabs be switched by keyboard?" Tags="|tabs|" />
<row Id="5" PostTypeId="1" Score="2" Title="How do I zoom the page?" Tags="|zoom|" />
<row Id="6" PostTypeId="2" ParentId="5" Score="2" Body="&lt;p&gt;Cmd and plus zooms the page.&lt;/p&gt;" />
<row Id="7" PostTypeId="1" Score="2" Title="How is a page made larger?" Tags="|zoom|" />
</posts>
"""
LINKS = """<?xml version="1.0" encoding="utf-8"?>
<postlinks>
<row Id="1" PostId="4" RelatedPostId="1" LinkTypeId="3" />
<row Id="2" PostId="7" RelatedPostId="5" LinkTypeId="3" />
</postlinks>
"""
PLAN = EvaluationPlan(models={}, bm25=EvaluatedBM25(), metrics=["hit@1", "mrr@10"], vectors="none", actors=None, seed=0)


def artifact(folder: Path, queries: dict[str, str], corpus: dict[str, str], qrels: list[tuple[str, str, int]]):
    return made(
        folder,
        "build",
        queries=[{"query_id": q, "text": text, "source": "s", "split": "test"} for q, text in queries.items()],
        corpus=[{"doc_id": d, "text": text, "source": "s"} for d, text in corpus.items()],
        qrels=[{"query_id": q, "doc_id": d, "relevance": grade, "split": "test"} for q, d, grade in qrels],
    )


def test_a_linked_question_does_not_find_itself(inline, tmp_path: Path, ray_session: None):  # noqa: F811
    (tmp_path / "Posts.xml").write_text(POSTS, encoding="utf-8")
    (tmp_path / "PostLinks.xml").write_text(LINKS, encoding="utf-8")
    source = {"type": "stackexchange", "path": str(tmp_path / "Posts.xml"), "links": str(tmp_path / "PostLinks.xml")}
    data = build({"sources": [source], "split": {"train": 0, "dev": 0, "test": 1}}, tmp_path / "out")
    dataset = read_dataset(data, "test", None, 100)
    corpus = dict(zip(*(data.read("corpus")[name].to_pylist() for name in ("doc_id", "text")), strict=True))
    texts = dict(zip(dataset.query_ids, dataset.texts, strict=False))
    itself = {(q, d) for q, text in texts.items() for d, other in corpus.items() if d == q or other == text}
    assert itself, "a question that others link to is a document too"
    results = evaluate(data, dataset, PLAN)
    ranked = {(query, doc) for query, docs in results.docs[BM25].items() for doc in docs}
    assert ranked and not ranked & itself
    assert results.dataset.skipped["document_is_query_itself"] == len(itself)


def test_ids_texts_and_judgments(tmp_path: Path):
    queries = {"q1": "Is it safe?", "q2": "Red chairs", "3": "Who built it?", "q4": "Only me"}
    corpus = {
        "d1": "IS IT  SAFE?",
        "d2": "It is safe.",
        "q2": "Red chairs, with a body",
        "3": "The king.",
        "x": "only me",
    }
    qrels = [("q1", "d2", 1), ("q1", "d1", 2), ("q2", "d2", 1), ("3", "3", 1), ("q4", "x", 1)]
    data = artifact(tmp_path, queries, corpus, qrels)
    dataset = read_dataset(data, "test", None, 100)
    index = dataset.index_of("a text of a pair")
    dataset.scored_pairs.append((dataset.index_of("Only me"), index, 1.0))
    exclude_self_matches(dataset, Corpus(data))
    assert dataset.query_ids == ["q1", "q2", "3"], "q4 has no relevant document but itself"
    assert dataset.texts == ["Is it safe?", "Red chairs", "Who built it?", "Only me", "a text of a pair"]
    assert dataset.scored_pairs == [(3, 4, 1.0)] and dataset.index_of("Red chairs") == 1
    assert dataset.qrels == {"q1": {"d2": 1}, "q2": {"d2": 1}, "3": {"3": 1}}
    assert [array.tolist() for array in dataset.excluded] == [[0, 1], [0, 2]], "(q1, d1) by text, (q2, q2) by id"
    assert dataset.skipped == {
        "document_is_query_itself": 3,
        "judgment_of_query_itself": 2,
        "query_relevant_to_itself_alone": 1,
    }


def test_bm25_ranks_the_next_document_first(tmp_path: Path, ray_session: None):
    corpus = {"d1": "is it safe?", "d2": "It is safe.", "d3": "A red chair"}
    data = artifact(tmp_path, {"q1": "Is it safe?"}, corpus, [("q1", "d2", 1)])
    results = evaluate(data, read_dataset(data, "test", None, 100), PLAN)
    assert results.docs[BM25] == {"q1": ["d2"]} and results.scores[BM25]["hit@1"] == 1.0
    assert results.scores[BM25]["mrr@10"] == 1.0


def test_nothing_but_itself_is_refused(tmp_path: Path):
    data = artifact(tmp_path, {"q1": "Only me"}, {"d1": "only me", "d2": "other"}, [("q1", "d1", 1)])
    with pytest.raises(UserError, match="all 1 queries have no relevant document but themselves"):
        evaluate(data, read_dataset(data, "test", None, 100), PLAN)


@pytest.mark.parametrize("rows", [1, 2, 10])
def test_a_model_and_its_variants_never_rank_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int):
    """The actor's own work, on vectors that are those of the texts: the query's own is nearest without the rule."""
    corpus = {f"d{number}": f"text {number}" for number in range(10)}
    data = artifact(tmp_path, {"q": "text 4", "r": "text 7"}, corpus, [("q", "d1", 1), ("r", "d1", 1)])
    dataset = read_dataset(data, "test", None, 100)
    exclude_self_matches(dataset, Corpus(data))
    vectors = l2_normalize(np.random.default_rng(0).normal(size=(10, 32)).astype(np.float32))
    variants = [Variant(32, "binary"), Variant(16, "float32")]
    shared = (SimilarityPairs().arrays(), RankedQueries.of(dataset), variants, {}, "cosine")
    ranker = Ranker(None, LocalValue(vectors[[4, 7]]), LocalValue(shared), k=10, threads=1)
    monkeypatch.setattr(ranker, "_vectors", lambda chunk: vectors[chunk.first_row : chunk.first_row + chunk.rows])
    for chunk in Corpus(data).chunks(rows=rows):
        part = ranker.rank(chunk)
        for best in [part.best, *(ranking.top(10) for ranking in part.variants)]:
            assert 4 not in best.rows[0] and 7 not in best.rows[1]
            in_chunk = sum(chunk.first_row <= row < chunk.first_row + chunk.rows for row in (4, 7))
            assert (best.rows >= 0).sum() == 2 * chunk.rows - in_chunk, "all others are ranked"
            assert (np.isneginf(best.scores) == (best.rows < 0)).all()
            assert (np.diff(best.scores, axis=1)[best.rows[:, 1:] >= 0] <= 0).all(), "what is left out comes last"
