"""A recipe that is run every night: new, changed and deleted rows reach index and store, unless the gate refuses."""

from pathlib import Path

import pytest
import yaml

from pipeline.releases.versions import Versions
from pipeline.search.query import Searcher
from scripts.tripletail import cli

ROWS = [
    f"How do I return parcel {number}?,Send parcel {number} back within {number + 10} days." for number in range(30)
]


def night(folder: Path, rows: list[str], minilm: str, *, layers: int = 6) -> None:
    """Run the recipe on the rows of today; exits as the command does."""
    (folder / "faq.csv").write_text("question,answer\n" + "\n".join(rows) + "\n")
    encoder = {"model": minilm, "layers": layers, "max_length": 32}
    recipe = {
        "run": str(folder / "shop"),
        "build": {
            "root": str(folder),
            "sources": [{"type": "csv", "kind": "qa", "path": "faq.csv"}],
            "split": {"train": 0, "dev": 0, "test": 1},
        },
        "embed": {"encoder": encoder, "incremental": True},
        "evaluate": {"models": {"tuned": encoder}, "baseline": "bm25", "metrics": ["ndcg@10"], "variants": None},
        "index": {"index": {"type": "exact"}},
        "release": {"gate": {"max_drop": 0.0, "max_p": 1.0}},
        "publish": {"store": {"type": "lancedb", "uri": str(folder / "lance")}},
    }
    (folder / "nightly.yaml").write_text(yaml.safe_dump(recipe))
    cli.main(["run", "--config", str(folder / "nightly.yaml"), "--overwrite"])


def test_two_nights_and_one_that_the_gate_refuses(
    tmp_path: Path, minilm: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lancedb")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    night(tmp_path, ROWS, minilm)
    first = capsys.readouterr().err
    assert "00001-" in first and "30 inserted, 0 updated, 0 unchanged, 0 deleted: 30 points" in first

    changed = ["Where is the phone number?,Call us from nine.", *ROWS[2:-1], ROWS[-1].replace("within", "in")]
    night(tmp_path, changed, minilm)
    second = capsys.readouterr().err
    assert "29 vectors of 384 float32, 27 copied of texts embedded before" in second
    assert "2 inserted, 0 updated, 27 unchanged, 3 deleted: 29 points" in second, "an id is of the text"
    current = tmp_path / "shop" / "releases" / "current"
    assert Searcher(str(current / "index"))("phone", k=1)[0].columns is not None
    in_use = current.resolve()

    with pytest.raises(SystemExit) as end:
        night(tmp_path, changed, minilm, layers=1)
    refused = capsys.readouterr().err
    assert end.value.code == 2 and "release: error: refused: it is worse" in refused
    assert "inserted" not in refused, "what a gate refuses is not published"
    assert current.resolve() == in_use
    events = [event["event"] for event in Versions.open(str(current.parent)).history()]
    assert events == ["released", "released", "refused"]
