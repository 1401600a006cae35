"""The end of a run: what was made, what it gained, and the command that comes next."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts.tripletail.recipe import _stages
from scripts.tripletail.summary import gain, summary


def report(folder: Path, p: float, difference: float, best: float = 0.2) -> str:
    models = {
        "bm25": {"ndcg@10": best},
        "base": {"ndcg@10": 0.55, "layers": 6, "of": 6},
        "tuned": {"ndcg@10": 0.55 + difference, "layers": 3, "of": 6},
    }
    tests = [
        {"model": name, "baseline": "base", "metric": "ndcg@10", "difference": difference, "p_holm": p}
        for name in ("bm25", "tuned")
    ]
    metrics = {"queries": 112, "baseline": "base", "models": models, "comparisons": tests}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "manifest.json").write_text("{}")
    return str(folder)


@pytest.mark.parametrize(
    ("p", "difference", "verdict"),
    [
        (0.001, 0.05, "p = 0.0010: better"),
        (0.001, -0.26, "p = 0.0010: worse: keep the model that was there"),
        (0.07, 0.05, "p = 0.070: a difference that chance may explain"),
    ],
)
def test_what_a_run_gained(tmp_path: Path, p: float, difference: float, verdict: str):
    (line, *rest) = gain(report(tmp_path, p, difference))
    ours = f"nDCG@10 {0.55 + difference:.3f} (tuned, 3 of 6 layers)".replace("0.", ".", 1)
    assert line == f"{ours} against .550 (base, 6 layers) on 112 queries, {verdict}"
    assert rest == (["the best of all is base, .550"] if difference < 0 else [])


def test_a_better_rival_is_named_and_a_report_without_tests_says_nothing(tmp_path: Path):
    assert gain(report(tmp_path, 0.5, 0.01, best=0.7))[1] == "the best of all is bm25, .700"
    assert gain(str(tmp_path / "none")) == []


def test_the_end_of_a_run(tmp_path: Path):
    run = str(tmp_path)
    report(tmp_path / "report", 0.01, 0.1)
    (tmp_path / "data").mkdir()
    tables = {"corpus": {"rows": 1200}, "queries": {"rows": 40}, "pairs": {"rows": 0}}
    (tmp_path / "data" / "manifest.json").write_text(json.dumps({"tables": tables, "notes": {}}))
    build = SimpleNamespace(run=run, out=f"{run}/data")
    evaluate = SimpleNamespace(run=run, out=None)
    lines = summary([("build", build), ("evaluate", evaluate)], 12.34)
    assert lines[0] == "done: 2 jobs in 12.3 s"
    assert lines[1] == f"  build     {run}/data: 1,200 corpus, 40 queries"
    assert lines[2] == f"  evaluate  {run}/report/report.html"
    assert lines[3].startswith("  gain      nDCG@10 .650 (tuned")
    assert lines[-1] == f"next: tripletail embed --run {run}"
    embed = SimpleNamespace(run=run, out=None, role="document")
    assert summary([("build", build), ("embed", embed)], 1)[-1] == (
        f'next: tripletail search "your question" --index {run}/vectors'
    )


def test_stages_say_what_is_done_and_what_comes():
    labels = ["build", "mine", "train"]
    assert [_stages(labels, index) for index in range(3)] == [
        "  (to come: mine, train)",
        "  (done: build; to come: train)",
        "  (done: build, mine)",
    ]
    assert _stages(["build"], 0) == ""
