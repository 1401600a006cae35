"""The preflight: ten typical mistakes and the one line that each gets, before anything is started."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.core.config import exit_on_user_error
from pipeline.core.errors import UserError
from scripts.tripletail import cli
from scripts.tripletail import recipe as recipes
from scripts.tripletail.commands import run
from scripts.tripletail.preflight.run_path import check_run_path
from tests.support.checkout import ROOT

FAQ = "question,answer\n" + "".join(f"how do I mend mug {n}?,take glue number {n}\n" for n in range(40))


def settings(**over: Any) -> dict[str, Any]:
    """A recipe of every section on a small FAQ."""
    source = {"type": "csv", "name": "faq", "kind": "qa", "path": "faq.csv"}
    sections: dict[str, Any] = {
        "run": "run",
        "build": {"root": "${recipe_dir}", "sources": [source]},
        "mine": {"top_k": 30},
        "train": {"encoder": {"layers": 1, "max_length": 32}},
        "embed": {},
        "evaluate": {"split": "test"},
    }
    for path, value in over.items():
        *outer, last = path.split("__")
        section = sections
        for name in outer:
            section = section[int(name) if name.isdigit() else name]
        key: Any = int(last) if last.isdigit() else last
        if value is None:
            del section[key]
        else:
            section[key] = value
    return sections


@pytest.fixture
def folder(tmp_path: Path, minilm: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "faq.csv").write_text(FAQ, encoding="utf-8")
    (tmp_path / "blank.csv").write_text("question,answer\n" + "is it open?,\n" * 40, encoding="utf-8")
    (tmp_path / "judgments.csv").write_text("query,doc_id,rating\n" + "red mug,p1,2\n" * 40, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, **over: Any) -> str:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings(**over), sort_keys=False), encoding="utf-8")
    return str(path)


def test_a_plan_of_ten_lines_and_nothing_is_started(folder: Path, capsys):
    run.main(["--config", write(folder), "--dry-run"])
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert len(lines) <= 10 and lines[0].startswith("5 jobs into run, ") and lines[0].endswith("free")
    assert lines[1] == (
        "  [1/5] build     faq (csv, 1 file, 0.0 MB); train 80%, dev 10%, test 10% where no source says"
    )
    mined = "gt:all-minilm-l6-v2, 6 layers; 30 candidates and 8 negatives a pair, index exact"
    assert lines[2] == f"  [2/5] mine      {mined}"
    trained = (
        "gt:all-minilm-l6-v2, 1 of 6 layers; rows auto, infonce, epochs by the number of rows, in batches of 64 rows"
    )
    assert lines[3] == f"  [3/5] train     {trained}"
    assert lines[4] == "  [4/5] embed     documents by run/model (to be trained), float32"
    assert "base (gt:all-minilm-l6-v2, 6 layers); start (gt:all-minilm-l6-v2, 1 of 6 layers); tuned" in lines[5]
    assert printed.err == f"run: checks {folder}/recipe.yaml\n"
    assert sorted(path.name for path in folder.iterdir()) == ["blank.csv", "faq.csv", "judgments.csv", "recipe.yaml"]


MISTAKES = {
    "wrong column": (
        {"build__sources__0__fields": {"anchor": "qestion", "positive": "answer"}},
        ["build: error: source faq.csv: has no column 'qestion' for anchor; it has question, answer"],
    ),
    "rows of no use": (
        {"build__sources__0__path": "blank.csv"},
        ["build: error: source faq: 40 of its first 40 rows cannot be used"],
    ),
    "wrong path": ({"build__sources__0__path": "fax.csv"}, ["build: error: source fax.csv: no such file"]),
    "wrong model": ({"mine__encoder": {"model": "./modle"}}, ["mine: error: model ./modle: no such directory"]),
    "a model on no hub": (
        {"train__encoder__model": "no/such-model"},
        ["train: error: model no/such-model: not a directory here, and the hub gave none"],
    ),
    "too many layers": ({"train__encoder__layers": 12}, ["train: error: encoder.layers 12: the model has 6"]),
    "too long": (
        {"train__encoder__max_length": 4096},
        ["train: error: encoder.max_length 4096 is beyond the model's 512 positions"],
    ),
    "wrong split": (
        {"evaluate__split": "tets"},
        ["evaluate: error: split 'tets': a build makes train, dev, test; did you mean 'test'?"],
    ),
    "unknown key": (
        {"train__loop": {"epoch": 3}},
        ["train: error: unknown setting 'loop.epoch'; did you mean 'loop.epochs'?"],
    ),
    "missing section": (
        {"build": None, "mine": None},
        ["train: error: run/data: no such directory; run `tripletail build` first"],
    ),
    "no model": (
        {"train": None, "evaluate": None},
        ["embed: error: embed needs a model: name one as encoder.model, or train one: run/model: no such file"],
    ),
    "judgments without a catalogue": (
        {"build__sources__0": {"type": "csv", "kind": "rated", "path": "judgments.csv"}},
        ["build: error: sources: none of them has documents, which their judgments are about; name the catalogue too"],
    ),
    "no GPU": (
        {"train__encoder__attention": "flash_attention_2"},
        ["train: error: encoder.attention flash_attention_2: needs a GPU and the package flash-attn"],
    ),
    "a tracking server that is not there": (
        {"train__trackers": [{"type": "mlflow", "uri": "http://127.0.0.1:9"}]},
        ["train: error: trackers: mlflow: http://127.0.0.1:9 does not answer", "start it, or take the tracker out"],
    ),
    "a guard that is not there": (
        {"evaluate__guards": [{"name": "other", "data": "gone"}]},
        ["evaluate: error: gone: no such directory; run `tripletail build` first"],
    ),
    "rows that are not mined": (
        {"mine": None, "train__rows": ["mined"]},
        ["train: error: run/negatives: no such directory; run `tripletail mine` first"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_its_line_before_anything_is_started(folder: Path, capsys, mistake: str):
    over, parts = MISTAKES[mistake]
    with pytest.raises(SystemExit) as caught:
        run.main(["--config", write(folder, **over)])
    assert caught.value.code == 2
    lines = capsys.readouterr().err.splitlines()[1:]
    line = next((line for line in lines if line.startswith(parts[0].replace("run/", f"{folder}/run/"))), None)
    line = line or next((line for line in lines if line.startswith(parts[0])), None)
    assert line is not None, lines
    assert all(part in line for part in parts[1:]), line
    assert not (folder / "run").exists()


def test_a_tab_in_a_recipe_is_named_with_its_line(folder: Path, capsys):
    (folder / "recipe.yaml").write_text("run: run\nbuild:\n\tsources: []\n")
    with pytest.raises(SystemExit):
        run.main(["--config", "recipe.yaml"])
    (line,) = capsys.readouterr().err.splitlines()[1:]
    assert line.startswith("run: error: recipe recipe.yaml: not valid YAML:") and "line 3" in line and "\\t" in line


def test_all_that_is_wrong_is_said_at_once(folder: Path, capsys):
    with pytest.raises(SystemExit):
        run.main(["--config", write(folder, build__sources__0__path="fax.csv", evaluate__split="tets")])
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()[1:]] == ["build", "evaluate"]


def test_a_disk_without_room_is_told(folder: Path, capsys, monkeypatch):
    monkeypatch.setattr("pipeline.storage.disk_space.free_space", lambda path: 1000)
    steps = recipes.plan(write(folder), recipes.Options(), exit_on_user_error)
    with pytest.raises(SystemExit):
        recipes.preflight(steps, exit_on_user_error)
    assert "need about" in capsys.readouterr().err


def test_a_relative_run_in_rays_copy_of_the_directory_is_refused(tmp_path: Path, monkeypatch, folder: Path):
    copy = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    copy.mkdir(parents=True)
    config = recipes.plan(write(folder), recipes.Options(), exit_on_user_error)[0].config
    check_run_path(config)
    monkeypatch.chdir(copy)
    with pytest.raises(UserError, match=r"run: run is relative, so under `ray job submit` it would lie in Ray's copy"):
        check_run_path(config)
    check_run_path(config.model_copy(update={"run": "s3://bucket/run"}))
    check_run_path(config.model_copy(update={"run": str(tmp_path)}))


def test_a_finished_step_is_marked_and_its_split_is_looked_up(folder: Path, capsys):
    from tests.support.runs import make_data

    make_data(folder / "run")
    over = {"mine": None, "train": None, "embed": None, "build": None, "evaluate__encoder": {"layers": 2}}
    with pytest.raises(SystemExit):
        run.main(["--config", write(folder, **over), "--dry-run"])
    assert "split 'test' of run/data has no rows; it holds dev, train" in capsys.readouterr().err


def test_the_module_says_the_same(folder: Path):
    command = [sys.executable, "-m", "scripts.run", "--config", write(folder, evaluate__split="tets"), "--dry-run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("evaluate: error: split 'tets'")


def test_the_dry_run_of_one_job_checks_it_too(folder: Path, capsys):
    cli.main(["build", "--config", write(folder), "--dry-run"])
    printed = capsys.readouterr()
    assert json.loads(printed.out)["sources"][0]["path"] == "faq.csv"
    assert printed.err.startswith("build: faq (csv, 1 file, 0.0 MB); ")
    with pytest.raises(SystemExit) as caught:
        cli.main(["mine", "--config", write(folder), "--dry-run"])
    assert caught.value.code == 2
    assert "mine: error: run/data: no such directory; run `tripletail build` first" in capsys.readouterr().err


def test_the_resolved_recipe_is_printed_and_runs_as_one(folder: Path, capsys):
    run.main(["--config", write(folder), "--print-config"])
    assert set(json.loads(capsys.readouterr().out)) == {"build", "mine", "train", "embed", "evaluate"}
