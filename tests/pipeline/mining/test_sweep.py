"""A sweep counts what the rules themselves choose, whatever the pieces, and estimates what is false among it."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core import schema
from pipeline.core.config import validate
from pipeline.core.errors import UserError
from pipeline.mining import sweep as module
from pipeline.mining.candidate_arrays import CandidateArrays
from pipeline.mining.rules import apply_rule
from pipeline.mining.sweep import SweepConfig, run, sweep, table_lines
from pipeline.mining.threshold_rule import ThresholdRule
from pipeline.storage.artifact import Draft


def candidates(rows: int = 60, width: int = 9, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    made = []
    for row in range(rows):
        scores = -np.sort(-rng.random(width - row % 3).astype(np.float32))
        found = [
            {
                "doc_id": f"d{place}",
                "score": float(score),
                "cross_score": float(rng.random()) if place < 5 else None,
                "cluster": int(rng.integers(0, 3)),
            }
            for place, score in enumerate(scores)
        ]
        positive = None if row % 11 == 0 else float(rng.random())
        made.append({"anchor_id": f"q{row}", "positive_id": "p", "positive_score": positive, "candidates": found})
    return pa.Table.from_pylist(made, schema=schema.TABLES["candidates"])


@pytest.fixture
def mined(tmp_path) -> str:
    draft = Draft(str(tmp_path / "run" / "negatives"), "mine", {}, {})
    table = candidates()
    for part, (start, end) in enumerate(((0, 25), (25, 60))):
        draft.write("candidates", table.slice(start, end - start), part)
    return draft.finish(["candidates"]).path


GRID = {"max_percentage": [None, 0.9], "strategy": ["top", "sampled"], "per_cluster": [None, 1]}


def test_a_sweep_counts_what_the_rules_choose(mined, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_ROWS_PER_BATCH", 7)
    config = validate(SweepConfig, {"run": str(tmp_path / "run"), "grid": GRID, "rule": {"num_negatives": 3}})
    found = run(config)
    assert len(found) == 8 == len(table_lines(found, config)) - 1
    cells = CandidateArrays.from_table(candidates(), with_keys=True)
    for one in found:
        taken = apply_rule(ThresholdRule.model_validate(one["rule"]), cells).selected
        cross = cells.cross[taken]
        assert one["negatives_per_row"] == pytest.approx(taken.sum() / 60)
        assert one["full_rows"] == pytest.approx((taken.sum(axis=1) == 3).mean())
        assert one["rows_with_any"] == pytest.approx(taken.any(axis=1).mean())
        assert one["mean_score"] == pytest.approx(cells.scores[taken].mean(), rel=1e-5)
        assert one["false_by_reranker"] == pytest.approx((cross >= 0.5).sum() / (~np.isnan(cross)).sum())
        assert one["false_by_judgments"] is None


def test_judgments_tell_false_negatives(mined, tmp_path):
    judged = [{"query_id": f"q{row}", "doc_id": f"d{row % 9}", "relevance": row % 2} for row in range(60)]
    pq.write_table(pa.Table.from_pylist(judged), tmp_path / "judged.parquet")
    rule = ThresholdRule(num_negatives=4, max_percentage=None)
    found = run(
        validate(
            SweepConfig,
            {
                "run": str(tmp_path / "run"),
                "judgments": str(tmp_path / "judged.parquet"),
                "grid": {"max_percentage": [None]},
                "rule": {"num_negatives": 4},
            },
        )
    )
    taken = apply_rule(rule, CandidateArrays.from_table(candidates(), with_keys=False)).selected
    hit = [row for row in range(60) if row % 9 < taken.shape[1] and taken[row, row % 9]]
    assert found[0]["judged"] == len(hit) > 0
    assert found[0]["false_by_judgments"] == pytest.approx(sum(row % 2 for row in hit) / len(hit))


def test_a_wrong_grid_is_named(tmp_path):
    with pytest.raises(UserError, match="unknown setting percentage; choose from num_negatives"):
        validate(SweepConfig, {"grid": {"percentage": [1]}}).rules()
    with pytest.raises(UserError, match=r"grid: \{'max_percentage': 2\}: Input should be less"):
        validate(SweepConfig, {"grid": {"max_percentage": [2]}}).rules()


def test_no_files_no_rows():
    assert sweep([], [ThresholdRule()])[0].summary(8)["negatives_per_row"] == 0
