"""The line that training prints: every share that a loss reports, and nothing twice."""

from training.keeper import _line

ROW = {"step": 5, "steps": 10, "epoch": 0.5, "loss": 1.25, "learning_rate": 1e-5, "grad_norm": 2.0, "bad_steps": 0} | {
    "seconds_per_step": 0.5,
    "pairs_per_s": 32.0,
    "tokens_per_s": 640.0,
    "padding": 0.125,
}


def test_every_reported_share_is_shown():
    shares = {"masked": 0.015625, "active": 0.5, "positive_similarity": 0.75, "1_scored": 1.0, "loss_64": 2.0}
    line = _line(ROW | shares, "ndcg@10")
    assert "loss 1.2500, masked 0.016, active 0.500, positive similarity 0.750, 1 scored 1.000, loss 64 2.000, " in line
    assert line.startswith("train: step 5/10: ") and line.endswith("640 tokens/s, padding 12.5%, 2 s left")
    assert all(word not in line for word in ("epoch", "bad", "rate", "norm"))


def test_a_validation_is_a_line_of_its_metric():
    assert _line({"step": 5, "spearman": 0.8125}, "spearman") == "train: step 5: validation spearman 0.8125"
