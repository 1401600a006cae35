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
    table_rows = []
    for row in range(rows):
        scores = -np.sort(-rng.random(width - row % 3).astype(np.float32))
        row_candidates = [
            {
                "doc_id": f"d{rank}",
                "score": float(score),
                "cross_score": float(rng.random()) if rank < 5 else None,
                "cluster": int(rng.integers(0, 3)),
            }
            for rank, score in enumerate(scores)
        ]
        positive = None if row % 11 == 0 else float(rng.random())
        table_rows.append(
            {"anchor_id": f"q{row}", "positive_id": "p", "positive_score": positive, "candidates": row_candidates}
        )
    return pa.Table.from_pylist(table_rows, schema=schema.TABLES["candidates"])


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
    results = run(config)
    assert len(results) == 8 == len(table_lines(results, config)) - 1
    cells = CandidateArrays.from_table(candidates(), with_keys=True)
    for result in results:
        selected = apply_rule(ThresholdRule.model_validate(result["rule"]), cells).selected
        cross = cells.cross[selected]
        assert result["negatives_per_row"] == pytest.approx(selected.sum() / 60)
        assert result["full_rows"] == pytest.approx((selected.sum(axis=1) == 3).mean())
        assert result["rows_with_any"] == pytest.approx(selected.any(axis=1).mean())
        assert result["mean_score"] == pytest.approx(cells.scores[selected].mean(), rel=1e-5)
        assert result["false_by_reranker"] == pytest.approx((cross >= 0.5).sum() / (~np.isnan(cross)).sum())
        assert result["false_by_judgments"] is None


def test_judgments_tell_false_negatives(mined, tmp_path):
    judgments = [{"query_id": f"q{row}", "doc_id": f"d{row % 9}", "relevance": row % 2} for row in range(60)]
    pq.write_table(pa.Table.from_pylist(judgments), tmp_path / "judged.parquet")
    rule = ThresholdRule(num_negatives=4, max_percentage=None)
    results = run(
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
    selected = apply_rule(rule, CandidateArrays.from_table(candidates(), with_keys=False)).selected
    hit = [row for row in range(60) if row % 9 < selected.shape[1] and selected[row, row % 9]]
    assert results[0]["judged"] == len(hit) > 0
    assert results[0]["false_by_judgments"] == pytest.approx(sum(row % 2 for row in hit) / len(hit))


def test_a_wrong_grid_is_named(tmp_path):
    with pytest.raises(UserError, match="unknown setting percentage; choose from num_negatives"):
        validate(SweepConfig, {"grid": {"percentage": [1]}}).rules()
    with pytest.raises(UserError, match=r"grid: \{'max_percentage': 2\}: Input should be less"):
        validate(SweepConfig, {"grid": {"max_percentage": [2]}}).rules()


def test_no_files_no_rows():
    assert sweep([], [ThresholdRule()])[0].summary(8)["negatives_per_row"] == 0
