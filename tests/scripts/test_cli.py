"""The command `tripletail`: its sub-commands, its help, and the same commands as modules and files of a checkout."""

import ast
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.config import validate
from pipeline.core.help import default_text, full_help
from pipeline.core.settings import list_settings
from scripts.tripletail import cli
from scripts.tripletail.jobs import JOBS

ROOT = Path(__file__).resolve().parents[2]
SCREEN = (40, 80)


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, text=True, check=False)


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    try:
        cli.main(words)
    except SystemExit as end:  # argparse
        assert end.code == 0
    return capsys.readouterr().out


def test_the_overview_names_every_command(capsys):
    lines = printed(capsys, "--help").splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == ["run", *JOBS, *list(cli.TOOLS)[1:]]
    assert printed(capsys) == "\n".join(lines) + "\n"


def test_an_unknown_command_names_the_nearest(capsys):
    for name, hint in (("trian", "did you mean 'train'?"), ("xyz", "`tripletail --help` lists them")):
        with pytest.raises(SystemExit) as caught:
            cli.main([name])
        assert caught.value.code == 2
        assert capsys.readouterr().err == f"tripletail: error: there is no command '{name}'; {hint}\n"


@pytest.mark.parametrize("name", cli.SUMMARIES)
def test_help_fits_a_screen(capsys, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", str(SCREEN[1]))
    lines = printed(capsys, name, "--help").splitlines()
    assert lines[0].startswith(f"usage: tripletail {name}")
    assert 8 <= len(lines) <= SCREEN[0] and max(map(len, lines)) <= SCREEN[1]


@pytest.mark.parametrize("name", JOBS)
def test_help_is_what_the_settings_say(name):
    """The files save seconds of imports; after a change of settings `python -m scripts.tripletail.cli` renews them."""
    assert (cli.HELP / f"{name}.txt").read_text(encoding="utf-8") == cli.render_help(name)


@pytest.mark.parametrize("name", JOBS)
def test_help_shows_about_ten_settings_and_where_to_read_on(name):
    config_class, _ = JOBS[name].load()
    assert 4 <= len(config_class.common_settings) <= 10
    assert config_class.documentation in cli.render_help(name)


def test_help_all_lists_every_setting_with_its_real_default(capsys):
    text = printed(capsys, "train", "--help-all")
    config_class, _ = JOBS["train"].load()
    missing = [name for name in config_class.model_fields if not re.search(rf"^  (--)?{name}\b", text, re.MULTILINE)]
    assert not missing
    assert "loss of type triplet:\n" in text and "--loss.margin FLOAT" in text
    assert "(default: 5e-05)" in text and "null" not in text
    embed = full_help(JOBS["embed"].load()[0], "embed")
    assert "(default: {run}/model)" in " ".join(embed.split()), "what follows from another setting, not the class's own"


REQUIRED = {
    "build": {"sources": [{"type": "jsonl", "path": "a.jsonl"}]},
    "publish": {"store": {"type": "pgvector"}},
}  # what a job cannot do without


@pytest.mark.parametrize("name", JOBS)
def test_a_default_that_help_shows_is_the_one_that_a_job_takes(name):
    config_class, _ = JOBS[name].load()
    required = REQUIRED.get(name, {})
    config, compared = validate(config_class, required), 0
    for setting in list_settings(config_class):
        given = setting.path in config_class.computed_defaults or setting.path.split(".")[0] in required
        if given or setting.choice or "[]" in setting.path or ".NAME" in setting.path:
            continue
        section: Any = config
        for part in setting.path.split(".")[:-1]:
            section = getattr(section, part, None)
        if hasattr(section, setting.name):
            assert default_text(setting) == default_text(replace(setting, default=getattr(section, setting.name)))
            compared += 1
    assert compared > 4


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["mine", "--help"], ["search", "--help"]])
def test_help_imports_nothing_slow(words):
    code = (
        "import sys\nfrom scripts.tripletail.cli import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "slow = {'torch', 'ray', 'transformers', 'pydantic', 'pyarrow', 'pandas', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imports {slow}' if slow else 0)"
    )
    result = run("-c", code, *words)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "command", ["inspect faq.csv", "init faq.csv", "run --help", "run --config build.yaml --dry-run"]
)
def test_what_needs_no_model_imports_none(tmp_path, command):
    """torch and Ray take seconds to import; of a dry run the sections that name a model need torch, and no Ray."""
    (tmp_path / "faq.csv").write_text("question,answer\n" + "how do I mend it?,with glue\n" * 9)
    (tmp_path / "build.yaml").write_text("build:\n  sources: [{type: csv, kind: qa, path: faq.csv}]\n")
    code = (
        "import sys\nfrom scripts.tripletail.cli import main\ntry:\n    main(sys.argv[1:])\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "slow = {'torch', 'ray', 'transformers'} & set(sys.modules)\nsys.exit(f'imports {slow}' if slow else 0)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", code, *command.split()]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def modules() -> dict[str, Path]:
    """The files that `python -m scripts.<command>` starts, by command."""
    return {path.stem: path for path in sorted((ROOT / "scripts").glob("*.py")) if path.stem != "__init__"}


def test_every_command_is_a_module_of_the_checkout():
    started = {}
    for name, path in modules().items():
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        (argument,) = (call.args[0] for call in calls if ast.unparse(call.func) == "run_command")
        started[name] = ast.literal_eval(argument)
    assert set(started.values()) == set(cli.SUMMARIES)
    assert {name for name, command in started.items() if name != command.replace("-", "_")} == {"preview"}


def test_no_module_stands_in_for_one_of_the_standard_library():
    assert not set(modules()) & sys.stdlib_module_names
    packages = {path.parent.name for path in (ROOT / "scripts").glob("*/__init__.py")}
    assert not packages & sys.stdlib_module_names


@pytest.mark.parametrize("name", modules())
def test_a_module_runs_by_its_name_and_by_its_path(tmp_path, name):
    by_name = run("-m", f"scripts.{name}", "--help")
    by_path = run(str(modules()[name]), "--help", cwd=tmp_path)
    assert by_name.returncode == by_path.returncode == 0, by_name.stderr + by_path.stderr
    assert by_name.stdout == by_path.stdout and by_name.stdout.startswith("usage: tripletail ")


def test_inspect_goes_by_its_own_name_too():
    assert run("-m", "scripts.inspect", "--help").stdout == run("-m", "scripts.preview", "--help").stdout != ""


def test_a_job_started_by_its_path_reads_its_settings(tmp_path):
    result = run(str(ROOT / "scripts" / "build.py"), "--config", "quickstart", "--dry-run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["split"]["train"] == 0.6
    result = run(str(ROOT / "scripts" / "build.py"), "--strikt", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr == "build: error: unknown setting '--strikt'; did you mean '--strict'?\n"
