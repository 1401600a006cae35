"""Groups of queries: the right queries in each, means by hand, and what no model finds."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.evaluation.corpus import Corpus
from pipeline.evaluation.dataset import EvalDataset
from pipeline.evaluation.query_groups import MIN_QUERIES, query_groups, unfound
from pipeline.evaluation.results import Results
from tests.support.rows import made

NDCG = "ndcg@10"


def results(
    folder: Path, documents: list[dict], qrels: list[dict[str, int]], values: dict[str, list[float]]
) -> Results:
    """Results of queries q0, q1, ... with texts of as many letters as their number; each model's values by query."""
    queries = [f"q{row}" for row in range(len(qrels))]
    corpus = [{"doc_id": f"d{row}", "title": "", "tags": [], **document} for row, document in enumerate(documents)]
    data = made(folder, "build", corpus=corpus)
    dataset = EvalDataset(
        queries, ["x" * (row + 1) for row in range(len(qrels))], dict(zip(queries, qrels, strict=True))
    )
    scores = {model: {NDCG: dict(zip(queries, of_model, strict=True))} for model, of_model in values.items()}
    return Results(Corpus(data), dataset, values=scores)


def test_lengths_are_cut_into_thirds_of_the_queries_and_categories_told_by_their_most_relevant_document(tmp_path: Path):
    documents = [
        {"text": "t" * (10 * row + 10), "category": "short" if row < 9 else None, "source": "faq"} for row in range(18)
    ]
    graded = [{f"d{row}": 2, f"d{17 - row}": 1} for row in range(18)]
    values = {"base": [row / 18 for row in range(18)], "tuned": [1.0] * 18}
    groups = {(g.by, g.name): g for g in query_groups(results(tmp_path, documents, graded, values), NDCG)}
    assert [(g.name, g.queries) for (by, _), g in groups.items() if by == "characters of the document"] == [
        ("up to 60", 6), ("61 to 120", 6), ("over 120", 6),
    ]  # fmt: skip
    assert [name for by, name in groups if by == "characters of the query"] == ["up to 6", "7 to 12", "over 12"]
    assert [(name, groups["category of the document", name].queries) for name in ("short", "none")] == [
        ("short", 9), ("none", 9),
    ]  # fmt: skip
    assert not [by for by, _ in groups if by == "source"], "one source is no group"
    middle = groups["characters of the document", "61 to 120"]
    assert middle.scores == pytest.approx({"base": np.mean([row / 18 for row in range(6, 12)]), "tuned": 1.0})


def test_rare_categories_share_a_group_and_small_groups_are_not_told(tmp_path: Path):
    names = [f"c{min(row // 6, 7 + row // 7)}" for row in range(70)]
    documents = [{"text": "same", "category": name, "source": f"s{row % 2}"} for row, name in enumerate(names)]
    found = query_groups(
        results(tmp_path, documents, [{f"d{row}": 1} for row in range(70)], {"base": [0.5] * 70}), NDCG
    )
    categories = {group.name: group.queries for group in found if group.by.startswith("category")}
    assert len(categories) == 9 and "others" in categories and sum(categories.values()) == 70
    assert all(count >= MIN_QUERIES for count in categories.values())
    assert {(g.name, g.queries) for g in found if g.by == "source"} == {("s0", 35), ("s1", 35)}
    assert not [group for group in found if group.by == "characters of the document"], "all are as long"


def test_a_document_that_the_corpus_lacks_puts_its_query_in_no_group(tmp_path: Path):
    documents = [{"text": "t" * (row + 1), "category": "a", "source": "s"} for row in range(15)]
    qrels = [{f"d{row}": 1} for row in range(15)] + [{"gone": 1}, {"d0": 0}]
    found = query_groups(results(tmp_path, documents, qrels, {"base": [1.0] * 17}), NDCG)
    assert sum(group.queries for group in found if group.by == "characters of the query") == 15


def test_queries_that_nothing_finds_are_named(tmp_path: Path):
    documents = [{"text": "t", "category": None, "source": "s"}]
    values = {"bm25": [0.0, 0.0, 0.5], "base": [0.0, 0.3, 0.0]}
    assert unfound(results(tmp_path, documents, [{"d0": 1}] * 3, values), NDCG) == ["x"]
    assert unfound(results(tmp_path / "none", documents, [{"d0": 1}] * 3, {}), NDCG) == []
