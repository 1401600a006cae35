"""The line that training prints: every share that a loss reports, and nothing twice."""

import re

from tests.support.terminal import run_on_terminal
from training.run.jsonl_log import JsonlLog
from training.run.progress_log import ProgressPrinter, format_row

ROW = {"step": 5, "steps": 10, "epoch": 0.5, "loss": 1.25, "learning_rate": 1e-5, "grad_norm": 2.0, "bad_steps": 0} | {
    "seconds_per_step": 0.5,
    "pairs_per_s": 32.0,
    "tokens_per_s": 640.0,
    "padding": 0.125,
    "wait": 0.01,
}


def test_every_reported_share_is_shown():
    shares = {"masked": 0.015625, "active": 0.5, "positive_similarity": 0.75, "1_scored": 1.0, "loss_64": 2.0}
    (line,) = format_row(ROW | shares, "ndcg@10")
    assert "loss 1.2500, masked 0.016, active 0.500, positive similarity 0.750, 1 scored 1.000, loss 64 2.000, " in line
    assert line.startswith("train: step 5/10: ") and line.endswith("640 tokens/s, padding 12.5%, wait 1.0%, 2 s left")
    assert all(word not in line for word in ("epoch", "skipped", "rate", "slow"))


def test_a_validation_is_a_line_of_its_metric():
    assert format_row({"step": 5, "spearman": 0.8125}, "spearman") == ["train: step 5: validation spearman 0.8125"]


def test_a_slow_worker_is_named():
    steady = {"slowest_rank": 1, "slowest_rank_s": 0.44, "mean_rank_s": 0.4}
    assert len(format_row(ROW | steady, "ndcg@10")) == 1
    late = {"slowest_rank": 1, "slowest_rank_s": 1.5, "mean_rank_s": 0.9}
    assert format_row(ROW | late, "ndcg@10")[1:] == [
        "train: worker 1 is slow: 1.50 s to the gather of a step, all 0.90 s"
    ]


def test_what_is_not_finite_is_said():
    (line,) = format_row(ROW | {"loss": None, "grad_norm": None, "bad_steps": 1}, "ndcg@10")
    assert "loss not finite" in line and "1 steps skipped" in line


def test_what_was_printed_before_a_cut_is_not_printed_again(tmp_path, capsys):
    writer = JsonlLog(str(tmp_path / "metrics.jsonl"))
    follow = ProgressPrinter(str(tmp_path / "metrics.jsonl"), "ndcg@10")
    writer.replace([ROW | {"step": step} for step in (1, 2, 3)])
    follow._print()
    assert capsys.readouterr().err.count("train: step") == 3
    writer.replace([ROW | {"step": 1}, {"step": 1, "note": "goes on after step 1"}])
    for step in (2, 3, 4):
        writer.append(ROW | {"step": step, "loss": 1.5})
    follow._print()
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "train: goes on after step 1"
    assert [line.split(":")[1] for line in said[1:]] == [" step 2/10", " step 3/10", " step 4/10"]


def test_on_a_terminal_steps_move_a_bar_and_the_rest_are_lines(tmp_path):
    validated = {"step": 5, "ndcg@10": 0.5}
    late = ROW | {"step": 10, "loss": 0.75, "slowest_rank": 1, "slowest_rank_s": 1.5, "mean_rank_s": 0.9}
    script = f"""
from training.run.jsonl_log import JsonlLog
from training.run.progress_log import ProgressPrinter
with ProgressPrinter({str(tmp_path / "metrics.jsonl")!r}, "ndcg@10"):
    for row in {[ROW, validated, {"step": 5, "note": "goes on after step 5"}, late]!r}:
        JsonlLog({str(tmp_path / "metrics.jsonl")!r}).append(row)
"""
    output = run_on_terminal(script)
    lines = [line.strip() for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output))]
    assert {"train: step 5: validation ndcg@10 0.5000", "train: goes on after step 5"} <= set(lines)
    assert any(line.startswith("train: worker 1 is slow") for line in lines)
    assert any("10/10 steps" in line and "loss 0.7500, 32.0 pairs/s, 0 s left" in line for line in lines)
    assert not any(line.startswith("train: step 5/10") for line in lines)
    assert output.count("\x1b[?25l") == output.count("\x1b[?25h") == 1, "a cursor that is hidden is shown again"
