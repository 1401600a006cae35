"""Cross-validation: other groups are test in each fold, and all are test once."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sources.reading.splits import SplitConfig
from scripts.tripletail import cli
from scripts.tripletail.cross_validation import fold_shares

GROUPS = [f"group {number}" for number in range(500)]


@settings(deadline=None)
@given(st.integers(2, 10), st.floats(0, 0.5))
def test_every_group_is_test_in_one_fold(folds: int, dev: float) -> None:
    configs = [SplitConfig.model_validate(fold_shares({"dev": dev}, folds, fold)) for fold in range(folds)]
    splits = [config.assigned(pa.array(GROUPS)).to_pylist() for config in configs]
    assert splits == [[config.assign(group) for group in GROUPS] for config in configs]
    assert [column.count("test") for column in zip(*splits, strict=True)] == [1] * len(GROUPS)


def test_fold_zero_is_the_order_that_every_build_has() -> None:
    shares = fold_shares({"dev": 0.2}, 5, 0)
    plain = SplitConfig.model_validate({name: shares[name] for name in ("train", "dev", "test")})
    assert plain.assigned(pa.array(GROUPS)) == SplitConfig.model_validate(shares).assigned(pa.array(GROUPS))
    assert shares["dev"] == 0.2 and fold_shares({"dev": 0.9}, 2, 1)["dev"] == 0.25


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--config", "shop.yaml", "--folds", "1"], "'1': wanted a number from 2 on"),
        (["--config", "shop.yaml"], "shop.yaml: has no section 'train:', which a fold needs"),
        (["--config", "none.yaml"], "none.yaml: No such file or directory"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shop.yaml").write_text("run: shop\nbuild: {}\nevaluate: {}\n")
    with pytest.raises(SystemExit) as end:
        cli.main(["cross-validate", *words])
    assert end.value.code == 2
    assert line in capsys.readouterr().err
