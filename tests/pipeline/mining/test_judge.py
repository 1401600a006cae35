"""A language model that judges selected negatives: those that answer the anchor are left out, and all is counted."""

import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.config import validate
from pipeline.core.errors import UserError
from pipeline.mining.config import MineConfig
from pipeline.mining.job import run
from pipeline.storage.artifact import Artifact
from tests.support.chat_server import ChatServer
from tests.support.corpora import inline  # noqa: F401  a fixture
from tests.support.mining import write_mining_data

pytestmark = pytest.mark.usefixtures("inline")


def chosen(artifact: Artifact) -> dict[tuple[str, str], list[str]]:
    rows = artifact.read("triplets").to_pylist()
    return {(row["anchor"], row["positive_id"]): [n["text"] for n in row["negatives"]] for row in rows}


def is_unclear(anchor: str) -> bool:
    """Whether the server answers neither yes nor no about an anchor."""
    return int(re.search(r"number (\d+)", anchor)[1]) % 7 == 3


def test_negatives_that_answer_the_anchor_are_left_out(tmp_path: Path, minilm: str, chat_server: ChatServer, capfd):
    data = write_mining_data(str(tmp_path / "data"))
    encoder = {"model": minilm, "layers": 2}
    settings: dict[str, Any] = {"data": data, "encoder": encoder, "top_k": 20, "rows_per_shard": 100}
    settings |= {"rule": {"num_negatives": 4, "max_percentage": None}}
    plain = run(validate(MineConfig, {**settings, "out": str(tmp_path / "plain")}))
    generator = {"type": "openai", "base_url": chat_server.url, "model": "m", "price": {"prompt": 1}}
    judge: dict[str, Any] = {"generator": generator}
    judged = run(validate(MineConfig, {**settings, "out": str(tmp_path / "judged"), "judge": judge}))
    expected = {
        key: [text for text in texts if is_unclear(key[0]) or not text.startswith("small")]
        for key, texts in chosen(plain).items()
    }
    assert chosen(judged) == expected and expected != chosen(plain)
    left_out = sum(map(len, chosen(plain).values())) - sum(map(len, expected.values()))
    notes = judged.manifest.notes
    assert notes["refused"]["judged_relevant"] == left_out
    counts = notes["judged"]
    assert counts["requests"] == counts["yes"] + counts["no"] + counts["unclear"] and counts["unclear"] > 0
    pairs = {(key[0], text) for key, texts in chosen(plain).items() for text in texts}
    assert counts["requests"] == len(pairs), "an anchor and a document are asked about once"
    assert counts["cost"] == pytest.approx(counts["requests"] * 100 / 1e6)
    assert "judged" not in plain.manifest.notes
    assert judged.read("candidates").equals(plain.read("candidates")), "candidates are those of the search"
    said = capfd.readouterr().err
    assert f"mine: the judge was asked {counts['requests']:,} times: {counts['yes']:,} yes" in said

    strict = {**judge, "unclear": "refuse"}
    reused = {**settings, "candidates": plain.path, "judge": strict, "out": str(tmp_path / "strict")}
    assert chosen(run(validate(MineConfig, reused))) == {
        key: [text for text in texts if not is_unclear(key[0])] for key, texts in expected.items()
    }


def test_a_judge_that_is_away_ends_the_mining_and_what_was_searched_is_kept(
    tmp_path: Path, minilm: str, chat_server: ChatServer
):
    data = write_mining_data(str(tmp_path / "data"))
    generator = {"type": "openai", "base_url": chat_server.url, "model": "m", "retries": 1, "first_wait": 0.01}
    settings = {"data": data, "encoder": {"model": minilm, "layers": 2}, "out": str(tmp_path / "out")}
    settings |= {"top_k": 20, "judge": {"generator": generator}}
    chat_server.kill()
    with pytest.raises(UserError, match="requests failed, more than max_failures"):
        run(validate(MineConfig, settings))
    searched = [path.stat().st_ino for path in (tmp_path / "out" / ".work" / "searched").iterdir()]
    chat_server.start()
    assert run(validate(MineConfig, settings)).manifest.notes["judged"]["requests"] > 0 and searched


def test_settings_of_before_there_were_judges_mean_the_same():
    assert "judge" not in MineConfig().result_settings()
    judge = {"generator": {"type": "openai", "base_url": "http://127.0.0.1:1/v1", "model": "m"}}
    settings = validate(MineConfig, {"judge": judge}).result_settings()
    assert "base_url" not in settings["judge"]["generator"] and settings["judge"]["generator"]["model"] == "m"
    with pytest.raises(UserError, match=r"a prompt is made of \{query\}, \{text\}"):
        validate(MineConfig, {"judge": {**judge, "prompt": "{text}"}})
