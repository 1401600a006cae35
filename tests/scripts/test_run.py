"""All jobs of one recipe in order: what is chosen, what is messages, where it stops."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.core.config import JOBS, JobConfig, exit_on_user_error
from pipeline.core.errors import UserError
from scripts.tripletail import recipe as recipe_jobs
from scripts.tripletail.commands import run
from scripts.tripletail.jobs import JOBS as JOB_TABLE


class SizedConfig(JobConfig):
    """Stands for a job's settings."""

    size: int = 1
    referenced: tuple[str, ...] = ()

    def recipes(self) -> list[str]:
        """Recipes that this job looks into."""
        return list(self.referenced)


ROOT = Path(__file__).resolve().parents[2]
RECIPE = "run: somewhere\nbuild: {size: 2}\nmine: {size: 3}\nevaluate:\n"


@pytest.fixture
def ran(monkeypatch):
    """Replace the five job modules by ones that note what they were started with; `mine` refuses the size 13."""
    started = []

    def job(name: str):
        def start(config: SizedConfig) -> None:
            if config.size == 13:
                raise UserError("corpus.parquet: no such file")
            started.append((name, config.size, config.run, config.overwrite))

        return start

    for name in JOBS:
        module, _, config_class = JOB_TABLE[name].config.partition(":")
        fake = SimpleNamespace(**{config_class: SizedConfig, "run": job(name)})
        monkeypatch.setitem(sys.modules, module, fake)
        monkeypatch.setitem(sys.modules, JOB_TABLE[name].run.partition(":")[0], fake)
    monkeypatch.setattr(recipe_jobs, "preflight", lambda steps, guard: [step.job for step in steps])
    monkeypatch.setattr(recipe_jobs, "describe", lambda steps, lines: [])
    monkeypatch.setattr(
        "scripts.tripletail.summary.summary", lambda steps, seconds: [f"done: {len(steps)} jobs in {seconds:.1f} s"]
    )
    return started


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def stops(*argv: str) -> int:
    with pytest.raises(SystemExit) as caught:
        run.main(argv)
    return caught.value.code


def test_the_sections_of_the_recipe_run_in_order(ran, recipe, capsys):
    run.main(["--config", str(recipe)])
    assert ran == [
        ("build", 2, "somewhere", False),
        ("mine", 3, "somewhere", False),
        ("evaluate", 1, "somewhere", False),
    ]
    messages = capsys.readouterr().err.splitlines()[1:]
    assert messages[0] == "[1/3] build  (to come: mine, evaluate)"
    assert messages[1].startswith("[1/3] build: ") and messages[1].endswith(" s")
    assert messages[-1].startswith("done: 3 jobs in ")


@pytest.mark.parametrize(
    ("argv", "jobs"),
    [
        (["--from", "mine"], ["mine", "evaluate"]),
        (["--until", "mine"], ["build", "mine"]),
        (["--from", "mine", "--until", "mine"], ["mine"]),
    ],
)
def test_from_and_until_choose(ran, recipe, argv, jobs):
    run.main(["--config", str(recipe), *argv])
    assert [name for name, *_ in ran] == jobs


def test_run_and_overwrite_reach_every_job(ran, recipe):
    run.main(["--config", str(recipe), "--run", "here", "--overwrite"])
    assert {row[2:] for row in ran} == {("here", True)}


def test_print_config_prints_a_recipe_and_starts_nothing(ran, recipe, capsys, tmp_path):
    run.main(["--config", str(recipe), "--print-config"])
    assert ran == []
    printed = capsys.readouterr().out
    assert [(job, part["size"]) for job, part in json.loads(printed).items()] == [
        ("build", 2),
        ("mine", 3),
        ("evaluate", 1),
    ]
    again = tmp_path / "again.json"
    again.write_text(printed)
    run.main(["--config", str(again), "--print-config"])
    assert capsys.readouterr().out == printed


@pytest.fixture
def guard(recipe, tmp_path):
    """Another recipe, which two of the jobs refer to."""
    path = tmp_path / "guard.yaml"
    path.write_text("run: apart\nbuild: {size: 7}\ntrain: {size: 8}\n", encoding="utf-8")
    recipe.write_text(f"build: {{size: 2}}\nmine: {{referenced: [{path}]}}\nevaluate: {{referenced: [{path}]}}\n")
    return path


def test_the_builds_of_other_recipes_come_first_and_once(ran, recipe, guard, capsys):
    run.main(["--config", str(recipe), "--run", "here", "--overwrite"])
    assert ran[0] == ("build", 7, "apart", False), "in its own place, and never replaced"
    assert [row[:3] for row in ran[1:]] == [("build", 2, "here"), ("mine", 1, "here"), ("evaluate", 1, "here")]
    assert f"[1/4] build of {guard}" in capsys.readouterr().err


def test_only_what_the_chosen_jobs_look_into_is_built(ran, recipe, guard):
    run.main(["--config", str(recipe), "--until", "build"])
    assert [name for name, *_ in ran] == ["build"] and ran[0][1] == 2


def test_a_referenced_recipe_is_checked_before_the_first_job(ran, recipe, guard, capsys):
    guard.write_text("run: apart\nbuild: {sise: 7}\n")
    assert stops("--config", str(recipe)) == 2
    assert ran == []
    assert capsys.readouterr().err.splitlines()[1].startswith("build: error: unknown setting 'sise'")


def test_a_user_error_stops_with_that_jobs_line(ran, recipe, capsys):
    recipe.write_text(RECIPE.replace("size: 3", "size: 13"))
    assert stops("--config", str(recipe)) == 2
    assert [name for name, *_ in ran] == ["build"]
    assert capsys.readouterr().err.splitlines()[-1] == "mine: error: corpus.parquet: no such file"


def test_every_section_is_checked_before_the_first_job_starts(ran, recipe, capsys):
    recipe.write_text(RECIPE + "  sise: 4\n")
    assert stops("--config", str(recipe)) == 2
    assert ran == []
    assert capsys.readouterr().err.splitlines()[1:] == ["evaluate: error: unknown setting 'sise'; did you mean 'size'?"]


@pytest.mark.parametrize(
    ("text", "argv", "part"),
    [
        (RECIPE, ["--from", "train"], "has no section 'train:' for --from; it has build, mine, evaluate"),
        (RECIPE, ["--from", "evaluate", "--until", "build"], "no job to run"),
        (
            "size: 3",
            [],
            "no job to run; a section is one of build, mine, train_reranker, train, embed, evaluate, index",
        ),
        ("[", [], "not valid YAML"),
    ],
)
def test_a_recipe_without_the_jobs_is_answered_in_one_line(ran, recipe, capsys, text, argv, part):
    recipe.write_text(text)
    assert stops("--config", str(recipe), *argv) == 2
    messages = capsys.readouterr().err.splitlines()[1:]
    assert len(messages) == 1 and messages[0].startswith("run: error: ") and part in messages[0]


@pytest.mark.parametrize("name", run.installed_recipes())
def test_the_shipped_recipes_are_valid(name, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    run.main(["--config", f"scripts/recipes/{name}.yaml", "--print-config"])
    assert json.loads(capsys.readouterr().out)


def test_a_recipe_goes_by_its_name_where_there_is_no_such_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run.main(["--config", "quickstart", "--print-config"])
    settings = json.loads(capsys.readouterr().out)
    root = Path(settings["build"]["root"])
    assert all((root / source["path"]).exists() for source in settings["build"]["sources"])
    (tmp_path / "quickstart").write_text("run: own\nmine: {split: dev}\n")
    run.main(["--config", "quickstart", "--print-config"])
    assert json.loads(capsys.readouterr().out)["mine"]["run"] == "own"
    assert stops("--config", "quickstrat") == 2
    assert "recipe quickstrat: No such file" in capsys.readouterr().err


def test_every_job_has_its_module():
    assert set(JOBS) <= set(JOB_TABLE)
    for name, job in JOB_TABLE.items():
        config_class, function = job.load()
        assert issubclass(config_class, JobConfig) and callable(function), name


def test_strict_reaches_the_build(tmp_path: Path):
    path = tmp_path / "recipe.yaml"
    path.write_text("build: {sources: [{type: jsonl, path: a.jsonl}]}")
    plans = [
        recipe_jobs.plan(str(path), recipe_jobs.Options(strict=strict), exit_on_user_error) for strict in (False, True)
    ]
    assert [step.config.model_dump()["strict"] for (step,) in plans] == [False, True]
