"""What a recipe names in mining: built-in rules, a rule of one's own, and output formats, each in one place."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.core.config import parse, validate
from pipeline.core.errors import UserError
from pipeline.mining.bm25_source import Bm25
from pipeline.mining.candidate_arrays import CandidateArrays
from pipeline.mining.config import MineConfig
from pipeline.mining.registry import OUTPUT_FORMATS
from pipeline.mining.rules import Selection, SelectionRule, apply_rule
from pipeline.mining.sweep import SweepConfig
from pipeline.mining.threshold_rule import ThresholdRule
from pipeline.storage.artifact import Artifact
from tests.pipeline.mining.test_output_formats import scored
from tests.support.mining import write_mining_data

ARRAYS = CandidateArrays.from_scores(np.float32([[0.9, 0.8, 0.7, -np.inf]]), np.float32([0.95]))
SOURCE = """
import numpy as np
from pipeline.mining.bm25_source import Bm25
from pipeline.mining.candidate_arrays import CandidateArrays
from pipeline.mining.rules import Selection, SelectionRule


class Middle(SelectionRule):
    first: int = 2

    def select(self, candidates: CandidateArrays) -> Selection:
        rank = np.broadcast_to(np.arange(1, candidates.scores.shape[1] + 1), candidates.scores.shape)
        inside = (rank > self.first) & (rank <= self.first + self.num_negatives)
        return Selection(inside & np.isfinite(candidates.scores), {"outside": int((~inside).sum())})
"""


class Middle(SelectionRule):
    """The same here, for what needs no file."""

    first: int = 2

    @property
    def min_candidates(self) -> int:
        return self.first + self.num_negatives

    def select(self, candidates: CandidateArrays) -> Selection:
        rank = np.arange(1, candidates.scores.shape[1] + 1)
        inside = (rank > self.first) & (rank <= self.first + self.num_negatives)
        return Selection(inside & np.isfinite(candidates.scores))


def test_a_recipe_without_a_type_has_the_rule_by_thresholds():
    rule = validate(MineConfig, {"rule": {"skip_top": 3}}).rule
    assert rule == ThresholdRule(skip_top=3) and rule.model_dump(mode="json")["type"] == "threshold"
    config, _ = parse(MineConfig, "mine", ["--rule.num-negatives", "3", "--lexical.k1", "0.9"])
    assert config.rule == ThresholdRule(num_negatives=3) and config.lexical == Bm25(k1=0.9)


def test_a_rule_of_ones_own_is_checked_as_ours():
    config = validate(MineConfig, {"rule": {"type": f"{__name__}:Middle", "num_negatives": 1}})
    assert apply_rule(config.rule, ARRAYS).selected.tolist() == [[False, False, True, False]]
    assert validate(MineConfig, config.model_dump(mode="json")) == config, "config.json is a recipe"
    for rule, message in (
        ({"type": f"{__name__}:Middle", "frist": 1}, r"unknown setting 'rule\.frist'"),
        ({"type": f"{__name__}:Midle"}, "has no class Midle; did you mean Middle"),
        ({"type": f"{__name__}:Path"}, "is not a subclass of pipeline.mining.rules.SelectionRule, as a rule must be"),
        ({"type": "treshold"}, r"no rule is called 'treshold'; did you mean threshold\?; choose from threshold"),
    ):
        with pytest.raises(UserError, match=message):
            validate(MineConfig, {"rule": rule})
    with pytest.raises(UserError, match="top_k 4 is below the 5 candidates that the rule needs"):
        validate(MineConfig, {"rule": {"type": f"{__name__}:Middle", "num_negatives": 3}, "top_k": 4})


def test_a_sweep_tries_settings_of_a_rule_of_ones_own():
    rule = {"type": f"{__name__}:Middle", "num_negatives": 2}
    rules = validate(SweepConfig, {"rule": rule, "grid": {"first": [1, 4]}}).rules()
    assert rules == [Middle(first=1, num_negatives=2), Middle(first=4, num_negatives=2)]
    with pytest.raises(UserError, match="grid: unknown setting skip_top; choose from num_negatives, first"):
        validate(SweepConfig, {"rule": rule, "grid": {"skip_top": [1]}}).rules()


class Wrong(SelectionRule):
    how: str

    def select(self, candidates: CandidateArrays) -> Selection:
        masks = {
            "shape": np.ones(4, np.bool_),
            "type": np.ones((1, 4), np.int64),
            "missing": np.bool_([[False, False, False, True]]),
            "many": np.isfinite(candidates.scores),
        }
        return Selection(masks[self.how])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("shape", r"selected a bool array of shape \(4,\), not a bool array of shape \(1, 4\)"),
        ("type", "selected a int64 array"),
        ("missing", "selected a candidate that is missing"),
        ("many", "selected more than num_negatives 2 of a pair"),
    ],
)
def test_a_rule_that_selects_what_it_may_not_is_refused(how: str, message: str):
    with pytest.raises(UserError, match=f"rule .*:Wrong: {message}"):
        apply_rule(Wrong(how=how, num_negatives=2), ARRAYS)


def test_every_format_converts_rows_and_says_what_it_is():
    assert list(OUTPUT_FORMATS) == ["triplet", "n-tuple", "labeled-pair", "labeled-list", "flag"]
    for name, form in OUTPUT_FORMATS.items():
        for scores in (False, True):
            table = form.convert(scored(), 1, scores=scores)
            assert table.num_rows > 0 and form.description, name
            assert any("score" in column for column in table.column_names) == (scores or name == "flag")


@pytest.mark.ray
def test_a_rule_of_ones_own_beside_the_recipe_reaches_every_actor(tmp_path: Path, minilm: str):
    (tmp_path / "my_mining_rule.py").write_text(SOURCE)
    settings = {
        "data": write_mining_data(str(tmp_path / "data")), "encoder": {"model": minilm, "layers": 1}, "top_k": 8,
        "rows_per_shard": 7, "num_actors": 2, "rule": {"type": "my_mining_rule:Middle", "num_negatives": 3},
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"run": str(tmp_path / "run"), "mine": settings}))
    command = [sys.executable, "-m", "scripts.mine", "--config", str(tmp_path / "recipe.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    artifact = Artifact.open(str(tmp_path / "run" / "negatives"), "mine")
    rows = artifact.read("triplets").to_pylist()
    assert len(rows) == 22 and all([negative["rank"] for negative in row["negatives"]] == [3, 4, 5] for row in rows)
    assert artifact.manifest.notes["refused"]["outside"] == 22 * 5
