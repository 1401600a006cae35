"""Versions of an index: the gate, the link that is turned in one step, going back, and what a kill leaves."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.core.errors import UserError
from pipeline.embedding import job as embedding
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.releases import job
from pipeline.releases.gate import Gate, check
from pipeline.releases.job import ReleaseConfig, rollback
from pipeline.releases.versions import Versions
from pipeline.search import job as indexing
from pipeline.search.query import Searcher
from scripts.tripletail import cli
from tests.support.checkout import ROOT
from tests.support.measured_runs import measured_run, write_artifact

QUERIES = [f"q{number}" for number in range(60)]
GOOD = {query: 0.5 + 0.01 * (number % 7) for number, query in enumerate(QUERIES)}


def changed(by: float, queries: int = 60) -> dict[str, float]:
    """Values of the queries, the first of them changed."""
    return {query: value + (by if number < queries else 0.0) for number, (query, value) in enumerate(GOOD.items())}


def candidate(run: Path, values: dict[str, float], texts: str = "first") -> dict[str, Any]:
    """A run with a report and an index; `texts` stands for what was indexed. Returns settings of its release."""
    for folder in ("report", "index"):
        shutil.rmtree(run / folder, ignore_errors=True)
    measured_run(run, {"base": dict.fromkeys(values, 0.1), "tuned": values})
    table = pa.table({"doc_id": [texts]})
    write_artifact(run / "index", "index", {"texts": texts}, {"documents": table}, model={"model": str(run / "model")})
    return {"run": str(run)}


def release(settings: dict[str, Any], **more: Any) -> Path:
    return Path(job.run(ReleaseConfig.model_validate(settings | more)))


@pytest.mark.parametrize(
    ("after", "gate", "reason"),
    [
        (GOOD, {}, ""),
        (changed(0.1), {}, ""),
        (changed(-0.005), {}, "it is worse, p < 0.0001"),  # little, but of every query
        (changed(-0.5, queries=2), {}, "it is worse by more than .010"),  # two queries prove nothing, and cost .017
        (changed(-0.1, queries=2), {}, ""),
        (changed(-0.5, queries=2), {"max_drop": 0.05}, ""),
        ({query: 1.0 for query in QUERIES[:40]}, {}, "only 40 of the 60 queries in use were measured again"),
        ({query: 1.0 for query in QUERIES[:40]}, {"min_common": 0.5}, ""),
    ],
)
def test_the_gate(after: dict[str, float], gate: dict[str, float], reason: str) -> None:
    assert check(Gate.model_validate(gate), "ndcg@10", GOOD, after).reason == reason


def test_a_better_one_takes_the_place_and_a_worse_one_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "shop"
    first = release(candidate(run, GOOD))
    assert "the first one, ndcg@10 .529 on 60 queries" in capsys.readouterr().err
    assert release({"run": str(run)}) == first, "the same index and report are in use already"
    second = release(candidate(run, changed(0.1), "second"))
    link = run / "releases" / "current"
    assert link.resolve() == second != first
    assert "nDCG@10 .529 in use, .629 now, +.100 (+.100 to +.100), p < 0.0001, 60 queries" in capsys.readouterr().err
    with pytest.raises(
        UserError, match=f"refused: it is worse, p < 0.0001: nDCG@10 .629 in use, .529 now.*{second.name} stays"
    ):
        release(candidate(run, GOOD, "third"))
    assert link.resolve() == second
    events = Versions.open(str(run / "releases")).history()
    assert [event["event"] for event in events] == ["released", "released", "refused"]
    assert events[-1]["after"] == pytest.approx(sum(GOOD.values()) / 60)


def test_going_back_and_forth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, link = tmp_path / "shop", tmp_path / "shop" / "releases" / "current"
    home = str(run / "releases")
    with pytest.raises(UserError, match="nothing is released there"):
        rollback(home)
    names = [release(candidate(run, changed(0.01 * number), str(number))).name for number in range(3)]
    assert rollback(home) == names[1] == link.readlink().name
    assert rollback(home) == names[2], "the version that was in use before this one"
    assert rollback(home, names[0]) == names[0]
    with pytest.raises(UserError, match=f"has no version none; others that are there: {names[1]}, {names[2]}"):
        rollback(home, "none")
    cli.main(["rollback", home, "--to", names[2]])
    assert capsys.readouterr().out == f"rollback: {names[2]} is in use again\n"
    cli.main(["rollback", home, "--list"])
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == 7 and listed[-1].endswith("(in use)") and "rolled back" in listed[-1]


def test_old_versions_go_but_never_the_one_to_go_back_to(tmp_path: Path) -> None:
    run, home = tmp_path / "shop", str(tmp_path / "shop" / "releases")
    names = [release(candidate(run, changed(0.01 * n), str(n)), keep=2).name for n in range(4)]
    assert Versions.open(home).names() == names[2:]
    rollback(home)
    latest = release(candidate(run, changed(0.2), "latest"), keep=2).name
    assert Versions.open(home).names() == [names[2], names[3], latest], "what was in use before, though it is older"
    assert rollback(home) == names[2]


KILLED = """
import os, sys
from pathlib import Path
from pipeline.releases import job, versions

def stop(*arguments, **settings):
    os._exit(9)

target = {"copy": (versions.shutil, "copytree"), "rename": (Path, "rename"), "link": (Path, "replace")}[sys.argv[2]]
setattr(*target, stop)
job.run(job.ReleaseConfig(run=sys.argv[1]))
"""


@pytest.mark.parametrize("point", ["copy", "rename", "link"])
def test_a_kill_leaves_what_was_in_use_and_the_next_call_goes_on(tmp_path: Path, point: str) -> None:
    run = tmp_path / "shop"
    first = release(candidate(run, GOOD))
    settings = candidate(run, changed(0.1), "second")
    ended = subprocess.run([sys.executable, "-c", KILLED, str(run), point], cwd=ROOT, check=False)
    assert ended.returncode == 9
    assert (run / "releases" / "current").resolve() == first
    second = release(settings)
    assert (run / "releases" / "current").resolve() == second
    assert not list((run / "releases").glob("*.partial"))
    assert json.loads((second / "release.json").read_text())["ranked_by"] == "tuned"
    assert rollback(str(run / "releases")) == first.name


def test_a_release_searches_with_its_own_model(tmp_path: Path, minilm: str) -> None:
    run = tmp_path / "shop"
    measured_run(run, {"base": GOOD, "tuned": GOOD})
    model = run / "model"
    Encoder.load(EncoderConfig(model=minilm, layers=1), "cpu").save(str(model))
    texts = tmp_path / "texts.jsonl"
    texts.write_text(
        "".join(json.dumps({"id": name, "text": name}) + "\n" for name in ("wireless headphones", "shoes"))
    )
    settings: dict[str, Any] = {
        "run": str(run),
        "input": str(texts),
        "encoder": {"model": str(model)},
        "columns": ["text"],
    }
    embedding.run(embedding.EmbedConfig.model_validate(settings))
    indexing.run(indexing.IndexConfig.model_validate({"run": str(run), "index": {"type": "exact"}}))
    release({"run": str(run)})
    before = Searcher(str(run / "index"))("headphones", k=1)
    shutil.rmtree(model)  # as the next training replaces it
    after = Searcher(str(run / "releases" / "current" / "index"))("headphones", k=1)
    assert [hit.doc_id for hit in after] == ["wireless headphones"] and after[0].score == before[0].score


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    run = tmp_path / "shop"
    settings = candidate(run, GOOD)
    for more, text in (
        ({"ranked_by": "mix"}, "ranked_by 'mix' is not in the report; choose from base, tuned"),
        ({"gate": {"metric": "map"}}, "gate.metric 'map' is not in the report; it has ndcg@10, hit@1"),
        ({"out": "s3://bucket/releases"}, "s3://bucket/releases: versions of a release are folders of a file system"),
        ({"index": str(tmp_path)}, str(tmp_path)),
    ):
        with pytest.raises(UserError, match=text):
            release(settings, **more)
