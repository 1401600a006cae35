"""The registry of metrics: names and their nearest, one line a metric, and a user's own function by import path."""

import sys
from pathlib import Path

import pytest

from pipeline.core import plugins
from pipeline.core.errors import UserError
from pipeline.metrics import registry
from pipeline.metrics.metric import RetrievalMetric
from pipeline.metrics.registry import higher_is_better, metric_label, parse_metric
from pipeline.metrics.retrieval import depth, retrieval

RANKINGS = {"q": ["a", "b", "c"]}
QRELS = {"q": {"b": 1, "c": 0}, "unranked": {"b": 2}, "nothing relevant": {"b": 0}}

OWN = '''
def first_rank(rankings, qrels, k):
    """Rank of the first relevant document."""
    ranks = {}
    for query, grades in qrels.items():
        hits = [rank for rank, doc in enumerate(rankings.get(query, ())[:k], start=1) if grades.get(doc, 0) > 0]
        ranks[query] = hits[0] if hits else 1000
    return ranks

first_rank.label = "First rank"
first_rank.higher_is_better = False

def share(rankings, qrels, k):
    return dict.fromkeys(qrels, 0.5)

def forgets(rankings, qrels, k):
    return {query: 1.0 for query in rankings}

def fails(rankings, qrels, k):
    return {query: rankings[query][0] for query in qrels}

def words(rankings, qrels, k):
    return dict.fromkeys(qrels, "many")

NUMBER = 3
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of its own name in a folder where a recipe may lie."""
    name = f"own_metrics_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(OWN, encoding="utf-8")
    monkeypatch.setattr(plugins, "_folders", [])
    monkeypatch.setattr(sys, "path", [*sys.path])
    plugins.look_in(str(tmp_path))
    return name


@pytest.mark.parametrize(
    ("name", "nearest"), [("ndgc@10", "ndcg"), ("recal@5", "recall"), ("hits@1", "hit"), ("MRR@10", "mrr")]
)
def test_an_unknown_name_is_refused_with_the_nearest(name, nearest):
    with pytest.raises(
        UserError, match=f"unknown metric '{name}'; did you mean {nearest}\\?; write one of ndcg, recall"
    ):
        parse_metric(name)
    with pytest.raises(UserError, match="variants of ndcg are linear or judged"):
        parse_metric("ndcg@10:liner")


def test_one_line_adds_a_metric(monkeypatch):
    first = RetrievalMetric("first", "First", lambda rankings, qrels, k: {q: float(q in rankings) for q in qrels})
    monkeypatch.setitem(registry.RETRIEVAL, "first", first)
    assert retrieval(RANKINGS, QRELS, ["first@3", "first@3:judged"])["first@3"] == {"q": 1.0, "unranked": 0.0}
    assert (metric_label("first@3:judged"), depth(["first@250"])) == ("First@3, judged only", 250)


def test_every_metric_has_a_label_and_a_direction():
    names = [f"{name}@10" for name in registry.RETRIEVAL] + list(registry.TASKS)
    assert all(metric_label(name)[0].isupper() or metric_label(name)[0] == "n" for name in names)
    assert all(higher_is_better(name) for name in names)


def test_a_function_of_the_users_own_gets_rankings_and_judgments(own):
    names = [f"{own}:first_rank@2", f"{own}:first_rank", f"{own}:first_rank@1:judged", f"{own}:share"]
    scores = retrieval(RANKINGS, QRELS, names)
    assert scores[names[0]] == {"q": 2.0, "unranked": 1000.0}, "cut at two documents, for queries that can be answered"
    assert scores[names[2]] == {"q": 1.0, "unranked": 1000.0}, "condensed to the judged documents first"
    assert scores[names[3]] == {"q": 0.5, "unranked": 0.5}
    assert [metric_label(name) for name in names] == [
        "First rank@2",
        "First rank",
        "First rank@1, judged only",
        "share",
    ]
    assert [higher_is_better(name) for name in names] == [False, False, False, True]
    assert parse_metric(names[0]).metric.source_file.endswith(f"{own}.py")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("forgets@3", "gives None for query 'query 2', not a number"),
        ("fails", "fails on a query with a ranking of two documents and one without a ranking: KeyError: 'query 2'"),
        ("words", "gives 'many' for query 'query 1', not a number"),
        ("NUMBER", r"is no function of \(rankings, qrels, k\)"),
        ("frist_rank", "has no metric frist_rank; did you mean first_rank"),
        ("share@0", "write it with a cut-off of 1 or more"),
        ("share@3:linear", "variants of .*:share are judged"),
    ],
)
def test_what_is_wrong_with_a_function_is_said_before_any_work(own, function, message):
    with pytest.raises(UserError, match=message):
        parse_metric(f"{own}:{function}")


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(UserError, match="there is no module no_such_module"):
        parse_metric("no_such_module:metric@3")
