"""Several runs beside each other, on the queries that all of them were measured on."""

from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.evaluation.run_comparison import compare_runs, pool_folds, print_comparison
from pipeline.report.run_comparison import render
from tests.support.measured_runs import measured_run

QUERIES = [f"q{number}" for number in range(40)]
BASE = {query: 0.25 for query in QUERIES}
GOOD = {query: 0.5 + 0.01 * (number % 7) for number, query in enumerate(QUERIES)}
BETTER = {query: value + 0.1 for query, value in GOOD.items()}


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    """Two runs on the same data, the second better, with one setting that differs."""
    loops = {"first": {"epochs": 1, "seed": 13}, "second": {"epochs": 3, "seed": 13}}
    tuned = {"first": GOOD, "second": BETTER}
    return [
        measured_run(tmp_path / name, {"base": BASE, "tuned": tuned[name]}, {"run": name, "loop": loop})
        for name, loop in loops.items()
    ]


def test_models_of_both_runs_and_what_is_the_same_once(two: list[str]) -> None:
    report = compare_runs(two).report
    assert list(report.scores) == ["base", "first/tuned", "second/tuned"]
    assert report.baseline == "first/tuned" and report.subject == "second/tuned"
    assert report.scores["second/tuned"]["ndcg@10"] == pytest.approx(sum(BETTER.values()) / 40)
    assert report.scores["base"]["layers"] == 6
    (test,) = [t for t in report.comparisons if (t["model"], t["metric"]) == ("second/tuned", "ndcg@10")]
    assert test["difference"] == pytest.approx(0.1) and test["won"] == 40 and test["p_holm"] < 0.001


def test_settings_that_differ_and_costs(two: list[str]) -> None:
    comparison = compare_runs(two)
    assert comparison.settings == {"train.loop.epochs": {"first": "1", "second": "3"}}
    assert (comparison.costs["first"].rows, comparison.costs["first"].steps) == (1_200, 10)
    assert comparison.costs["first"].seconds == 5 * 2.0 + 5 * 3.0


def test_only_common_queries_count(tmp_path: Path, two: list[str]) -> None:
    fewer = {query: BETTER[query] for query in QUERIES[:30]}
    third = measured_run(tmp_path / "third", {"tuned": fewer}, data="d2", split="dev")
    comparison = compare_runs([two[0], third])
    assert comparison.report.queries == 30
    mean = sum(GOOD[query] for query in QUERIES[:30]) / 30
    assert comparison.report.scores["first/tuned"]["ndcg@10"] == pytest.approx(mean)
    assert comparison.notes == [
        "The runs were measured on different builds: documents and judgments may differ, and with them the figures.",
        "first has 10 more queries, which do not count here.",
        "They were measured on different splits: first on test, third on dev.",
    ]


def test_another_baseline_and_metric(two: list[str]) -> None:
    report = compare_runs(two, baseline="base", metric="hit@1").report
    assert report.baseline == "base" and report.metrics[0] == "hit@1"
    assert {test["baseline"] for test in report.comparisons} == {"base"}


def test_queries_that_differ_most(tmp_path: Path) -> None:
    other = {**GOOD, "q3": 0.0, "q5": 1.0}
    first, second = measured_run(tmp_path / "a", {"tuned": GOOD}), measured_run(tmp_path / "b", {"tuned": other})
    changes = compare_runs([first, second]).changes
    assert [change.query for change in changes] == ["text of q5", "text of q3"]
    assert changes[-1].after == 0.0


def test_the_page_and_the_terminal_say_it(two: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    comparison = compare_runs(two)
    mean, before = (sum(values.values()) / 40 for values in (BETTER, GOOD))
    sentence = f"second/tuned reaches nDCG@10 {mean:.3f} against {before:.3f} of first/tuned, p ".replace(" 0.", " .")
    assert comparison.headline().startswith(sentence)
    page = render(comparison)
    for text in ("Comparison of first, second", "train.loop.epochs", "text of q0", "Training rows", sentence):
        assert text in page, text
    print_comparison(comparison)
    printed = capsys.readouterr().out
    for text in ("second/tuned", "train.loop.epochs", "Few queries (40)"):
        assert text in printed, text


def test_a_hostile_text_stays_a_text(tmp_path: Path) -> None:
    other = {**{query: 0.1 for query in QUERIES}, "q1": 0.9}
    first, second = measured_run(tmp_path / "a", {"tuned": GOOD}), measured_run(tmp_path / "b<i>", {"tuned": other})
    page = render(compare_runs([first, second]))
    assert "b<i>" not in page and "b&lt;i&gt;" in page


def test_folds_are_pooled_by_query(tmp_path: Path) -> None:
    halves = QUERIES[:20], QUERIES[20:]
    folds = [
        measured_run(tmp_path / str(fold), {"base": {q: BASE[q] for q in half}, "tuned": {q: GOOD[q] for q in half}})
        for fold, half in enumerate(halves)
    ]
    pooled = pool_folds(folds)
    assert pooled.scope == "40 queries in 2 folds, each asked of a model that was trained without it"
    assert pooled.report.scores["tuned"]["ndcg@10"] == pytest.approx(sum(GOOD.values()) / 40)
    (test,) = [t for t in pooled.report.comparisons if t["metric"] == "ndcg@10"]
    assert (test["model"], test["baseline"], test["won"]) == ("tuned", "base", 40)
    assert f"Cross-validation of {tmp_path.parent}"[:20] in render(pooled)
    with pytest.raises(UserError, match="query q0 is held out in two folds; where sources state splits"):
        pool_folds([folds[0], folds[0]])


def test_mistakes_are_one_line(tmp_path: Path, two: list[str]) -> None:
    other = measured_run(tmp_path / "other", {"tuned": {"x": 0.5}})
    twin = measured_run(tmp_path / "again" / "first", {"tuned": GOOD})
    cases: list[tuple[list[str], dict[str, str], str]] = [
        (two[:1], {}, "two runs at least"),
        ([two[0], other], {}, "have no query in common"),
        ([two[0], twin], {}, "two runs are called first"),
        (two, {"baseline": "bm25"}, "baseline 'bm25' is not among the models; choose from base, first/tuned"),
        (two, {"metric": "map"}, "metrics in common: ndcg@10, hit@1"),
        ([two[0], str(tmp_path)], {}, str(tmp_path / "report")),
    ]
    for runs, settings, text in cases:
        with pytest.raises(UserError, match=text):
            compare_runs(runs, **settings)
