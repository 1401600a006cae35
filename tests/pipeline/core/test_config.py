"""Recipes, flags over recipes, and the one line that a mistake is answered with."""

import json
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from pipeline.core.config import Config, JobConfig, exit_on_user_error, main, merge, parse, read_recipe, user_cause
from pipeline.core.errors import UserError
from pipeline.embedding.job import EmbedConfig
from pipeline.evaluation.config import EvaluateConfig
from pipeline.mining.config import MineConfig


class InfoNCE(Config):
    type: Literal["infonce"] = "infonce"
    temperature: float = Field(0.05, gt=0)


class Margin(Config):
    type: Literal["margin"] = "margin"
    margin: float = 0.3


class TrainConfig(JobConfig):
    """A job with every kind of setting."""

    loss: Annotated[InfoNCE | Margin, Field(discriminator="type")] = InfoNCE()
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_steps: int = 10
    prompts: dict[str, str] | None = None
    stages: list[Annotated[InfoNCE | Margin, Field(discriminator="type")]] = Field(default=[])
    shuffle: bool = True


def recipe(tmp_path: Path, text: str, name: str = "recipe.yaml") -> str:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def resolve(*argv: str) -> TrainConfig:
    return parse(TrainConfig, "train", argv)[0]


def complaint(*argv: str) -> str:
    with pytest.raises(UserError) as caught:
        resolve(*argv)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults_recipe_and_flags_in_rising_precedence(tmp_path):
    path = recipe(tmp_path, "run: here\ntrain: {max_steps: 20, loss: {temperature: 0.02}}\nbuild: {source: x}\n")
    config = resolve("--config", path, "--loss.temperature", "0.01")
    assert (config.run, config.max_steps, config.dtype) == ("here", 20, "float32")
    assert config.loss == InfoNCE(temperature=0.01)


def test_a_recipe_of_one_job_needs_no_section(tmp_path):
    assert resolve("--config", recipe(tmp_path, "max_steps: 3")).max_steps == 3


def test_a_bare_section_beside_others_means_the_defaults(tmp_path):
    assert resolve("--config", recipe(tmp_path, "run: r\nbuild: {x: 1}\ntrain:\n")) == TrainConfig(run="r")


def test_a_json_recipe_reads_the_same(tmp_path):
    assert resolve("--config", recipe(tmp_path, '{"train": {"max_steps": 4}}', "recipe.json")).max_steps == 4


def test_a_section_wins_over_the_shared_keys(tmp_path):
    assert resolve("--config", recipe(tmp_path, "run: all\ntrain: {run: mine}")).run == "mine"


def test_dashes_and_underscores_in_flags_are_the_same():
    assert resolve("--max-steps", "5").max_steps == resolve("--max_steps=5").max_steps == 5


def test_switches_go_both_ways(tmp_path):
    assert resolve("--no-shuffle").shuffle is False
    assert resolve("--config", recipe(tmp_path, "shuffle: false"), "--shuffle").shuffle is True


def test_dry_run_is_told_apart_from_the_settings():
    assert parse(TrainConfig, "train", ["--dry-run"])[1] is True
    assert parse(TrainConfig, "train", [])[1] is False


def test_a_value_that_starts_with_a_dash_keeps_it():
    assert resolve("--loss.type=margin", "--loss.margin=-0.5").loss == Margin(margin=-0.5)


def test_the_default_type_is_filled_in(tmp_path):
    assert resolve("--config", recipe(tmp_path, "loss: {temperature: 0.5}")).loss == InfoNCE(temperature=0.5)


def test_another_type_starts_its_section_afresh(tmp_path):
    path = recipe(tmp_path, "loss: {type: infonce, temperature: 0.5}")
    assert resolve("--config", path, "--loss.type", "margin").loss == Margin()


def test_merge_goes_down_and_leaves_its_inputs_alone():
    below = {"a": {"x": 1, "y": 2}, "b": 1}
    assert merge(below, {"a": {"y": 3}, "c": 4}) == {"a": {"x": 1, "y": 3}, "b": 1, "c": 4}
    assert below == {"a": {"x": 1, "y": 2}, "b": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_stps: 3", "unknown setting 'max_stps'; did you mean 'max_steps'?"),
        ("loss: {temprature: 1}", "unknown setting 'loss.temprature'; did you mean 'loss.temperature'?"),
        ("temprature: 1", "unknown setting 'temprature'; did you mean 'loss.temperature'?"),
        ("stages: [{type: margin, margn: 1}]", "unknown setting 'stages.0.margn'; did you mean 'stages.0.margin'?"),
        ("biuld: {min_chars: 3}", "unknown setting 'biuld'; did you mean the section 'build'?"),
        (
            "colour: 1",
            "unknown setting 'colour'; choose from dtype, loss, max_steps, overwrite, prompts, run, shuffle, stages",
        ),
    ],
)
def test_an_unknown_setting_names_the_nearest_or_the_choices(tmp_path, text, message):
    assert complaint("--config", recipe(tmp_path, text)) == message


def test_an_unknown_setting_below_is_named_with_its_path_and_choices(tmp_path):
    said = complaint("--config", recipe(tmp_path, "loss: {type: infonce, margin: 1}"))
    assert said == "unknown setting 'loss.margin'; choose from temperature, type"


@pytest.mark.parametrize(
    ("flag", "hint"),
    [
        ("--max_stps", "did you mean '--max_steps'?"),
        ("--temperature", "did you mean '--loss.temperature'?"),
        ("--loss.temprature", "did you mean '--loss.temperature'?"),
        ("--colour", "see --help-all"),
    ],
)
def test_an_unknown_flag_names_the_nearest(flag, hint):
    assert complaint(flag, "3") == f"unknown setting '{flag}'; {hint}"


def test_recipe_dir_is_the_folder_of_the_recipe(tmp_path):
    path = recipe(tmp_path, "run: ${recipe_dir}/run\nprompts: {query: '${recipe_dir}', other: '$recipe_dir'}")
    config = resolve("--config", path)
    assert (config.run, config.prompts) == (f"{tmp_path}/run", {"query": str(tmp_path), "other": "$recipe_dir"})


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("dtype: float8", ["'dtype'", "'float8'", "'float32'", "'bfloat16'"]),
        ("max_steps: many", ["'max_steps'", "'many'", "integer"]),
        ("loss: {temperature: -1}", ["'loss.temperature'", "-1", "greater than 0"]),
        ("stages: [{type: infonce}, {type: margin, margin: high}]", ["'stages.1.margin'", "'high'"]),
        ("loss: {type: triplett}", ["loss", "triplett", "infonce", "margin"]),
        ("loss: 3", ["loss", "3"]),
    ],
)
def test_a_bad_value_is_named_with_the_field_and_the_rule(tmp_path, text, parts):
    said = complaint("--config", recipe(tmp_path, text))
    assert not [part for part in parts if part not in said], said


def test_every_bad_field_is_named_at_once(tmp_path):
    said = complaint("--config", recipe(tmp_path, "dtype: float8\nmax_steps: many"))
    assert "'dtype'" in said and "'max_steps'" in said


def test_a_long_value_is_cut(tmp_path):
    assert len(complaint("--config", recipe(tmp_path, f"max_steps: {'x' * 5000}"))) < 300


@pytest.mark.parametrize(
    ("text", "part"),
    [("a: [", "not valid YAML"), ("- 1\n- 2", "expected a mapping"), ("build: {x: 1}", "no section 'train:'")],
)
def test_a_recipe_that_cannot_be_used_is_named(tmp_path, text, part):
    path = recipe(tmp_path, text)
    assert part in complaint("--config", path) and path in complaint("--config", path)


def test_a_recipe_that_is_not_there_is_named(tmp_path):
    assert "none.yaml: No such file" in complaint("--config", str(tmp_path / "none.yaml"))


def test_what_a_run_writes_is_what_a_run_reads(tmp_path):
    config = resolve("--max-steps", "7", "--loss.type", "margin", "--prompts", '{"query": "q: "}')
    path = recipe(tmp_path, json.dumps(config.model_dump(mode="json")), "config.json")
    assert resolve("--config", path) == config
    assert read_recipe(path, "train") == config.model_dump(mode="json")


def test_places_do_not_make_a_result_another_one():
    assert resolve("--run", "a", "--overwrite").result_settings() == resolve("--run", "b").result_settings()
    assert resolve("--max-steps", "1").result_settings() != resolve("--max-steps", "2").result_settings()


@pytest.mark.parametrize(
    ("job", "encoder"),
    [
        (EmbedConfig, lambda given: {"encoder": given}),
        (MineConfig, lambda given: {"encoder": given, "cross_encoder": {"model": "reranker", **given}}),
        (EvaluateConfig, lambda given: {"models": {"tuned": given}}),
    ],
)
def test_what_ran_out_of_memory_goes_on_with_less_at_a_time(job, encoder):
    plain = job.model_validate(encoder({})).result_settings()
    assert job.model_validate(encoder({"token_budget": 512})).result_settings() == plain
    assert job.model_validate(encoder({"max_length": 32})).result_settings() != plain


def test_configs_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        resolve().max_steps = 3  # type: ignore[misc]


def test_main_runs_the_job_with_its_config():
    ran = []
    main(TrainConfig, "train", ran.append, ["--max-steps", "2"])
    assert [config.max_steps for config in ran] == [2]


def test_main_prints_the_plan_and_starts_nothing(capsys):
    main(TrainConfig, "train", lambda config: pytest.fail("was started"), ["--dry-run", "--max-steps", "2"])
    assert json.loads(capsys.readouterr().out)["max_steps"] == 2


def test_main_answers_a_user_error_with_one_line_and_exit_2(capsys):
    with pytest.raises(SystemExit) as caught:
        main(TrainConfig, "train", lambda config: None, ["--dtype", "float8"])
    assert caught.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("train: error: ") and "float8" in said[0]


def test_a_defect_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), exit_on_user_error("train"):
        _ = 1 // 0


def test_an_interruption_leaves_with_130(capsys):
    with pytest.raises(SystemExit) as caught, exit_on_user_error("train"):
        raise KeyboardInterrupt
    assert caught.value.code == 130 and "interrupted" in capsys.readouterr().err


def test_the_cause_is_found_below_wrappers():
    class TaskError(Exception):
        def __init__(self, cause: Exception) -> None:
            self.cause = cause

    class GroupError(Exception):
        def __init__(self, failures: dict[int, Exception]) -> None:
            self.worker_failures = failures

    assert user_cause(TaskError(UserError("no such\n  corpus"))) == "no such corpus"
    assert user_cause(GroupError({0: RuntimeError("x"), 1: TaskError(UserError("rank one"))})) == "rank one"
    assert user_cause(FileNotFoundError(2, "No such file", "a.csv")) == "a.csv: No such file"
    assert user_cause(RuntimeError("a defect")) is None
