"""A user's own class in a recipe: found by its import path, checked as a built-in, and brought to the workers."""

import json
import subprocess
import sys
from abc import abstractmethod
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from pipeline.core import plugins
from pipeline.core.config import JobConfig, Plugin, parse
from pipeline.core.errors import UserError
from pipeline.core.plugins import Registry

OWN = """
from pydantic import Field
from tests.pipeline.core.test_plugins import InfoNCE, Loss
import own_helper_{name}

class Focal(Loss):
    gamma: float = Field(2.0, gt=0)
    def value(self):
        return self.gamma * own_helper_{name}.FACTOR

class Sharper(InfoNCE):
    temperature: float = 0.01

class Named(Loss):
    type: str = "named"
    def value(self):
        return 0.0

class Unfinished(Loss):
    pass

class Other:
    pass
"""


class Loss(Plugin):
    @abstractmethod
    def value(self) -> float:
        """What it comes to."""


class InfoNCE(Loss):
    type: Literal["infonce"] = "infonce"
    temperature: float = Field(0.05, gt=0)

    def value(self) -> float:
        return self.temperature


class Margin(Loss):
    type: Literal["margin"] = "margin"
    margin: float = 0.3

    def value(self) -> float:
        return self.margin


AnyLoss = Annotated[InfoNCE | Margin, Registry("loss", Loss, {"mnrl": {"type": "infonce", "temperature": 0.02}})]


class TrainConfig(JobConfig):
    """A job with a loss."""

    loss: AnyLoss = InfoNCE()
    more: list[AnyLoss] = Field([], description="further losses")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of a name of its own in the recipe's folder, which imports another one from there."""
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(OWN.format(name=name), encoding="utf-8")
    (tmp_path / f"own_helper_{name}.py").write_text("FACTOR = 10\n", encoding="utf-8")
    monkeypatch.setattr(plugins, "_folders", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def resolve(folder: Path, loss: object, *flags: str) -> TrainConfig:
    recipe = folder / "recipe.json"
    recipe.write_text(json.dumps({"loss": loss}), encoding="utf-8")
    return parse(TrainConfig, "train", ["--config", str(recipe), *flags])[0]


def complaint(folder: Path, loss: object) -> str:
    with pytest.raises(UserError) as caught:
        resolve(folder, loss)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_class_beside_the_recipe_is_used_and_written_down(own: str, tmp_path: Path):
    config = resolve(tmp_path, {"type": f"{own}:Focal", "gamma": 3})
    assert type(config.loss).__name__ == "Focal" and config.loss.value() == 30
    written = config.model_dump(mode="json")
    assert written["loss"] == {"type": f"{own}:Focal", "gamma": 3.0}
    assert TrainConfig.model_validate(json.loads(json.dumps(written))) == config
    assert TrainConfig.model_validate(written).model_dump_json() == config.model_dump_json()


def test_a_subclass_of_a_built_in_goes_by_its_own_path(own: str, tmp_path: Path):
    config = resolve(tmp_path, {"type": f"{own}:Sharper"}, "--loss.temperature", "0.5")
    assert config.loss.model_dump() == {"type": f"{own}:Sharper", "temperature": 0.5}


def test_lists_and_flags_take_own_classes(own: str, tmp_path: Path):
    resolve(tmp_path, {})
    more = json.dumps([{"type": f"{own}:Focal"}, {"type": "margin"}])
    config = resolve(tmp_path, {}, "--more", more, "--loss.type", f"{own}:Sharper")
    assert [loss.type for loss in config.more] == [f"{own}:Focal", "margin"]
    assert config.loss.type == f"{own}:Sharper"


def test_what_was_imported_from_the_folder_travels_and_nothing_else(own: str, tmp_path: Path):
    (tmp_path / "unused.py").write_text("raise SystemExit", encoding="utf-8")
    resolve(tmp_path, {"type": "infonce"})
    assert plugins.shipped() == []
    resolve(tmp_path, {"type": f"{own}:Focal"})
    assert plugins.shipped() == sorted(str(tmp_path / f"{name}.py") for name in (own, f"own_helper_{own}"))


def test_a_package_travels_whole(own: str, tmp_path: Path):
    package = tmp_path / f"package_{own}"
    package.mkdir()
    (package / "losses.py").write_text(OWN.format(name=own), encoding="utf-8")
    resolve(tmp_path, {"type": f"{package.name}.losses:Focal"})
    assert plugins.shipped() == [str(tmp_path / f"own_helper_{own}.py"), str(package)]


def test_nothing_of_the_folder_hides_an_installed_module(own: str, tmp_path: Path):
    (tmp_path / "yaml.py").write_text("raise SystemExit", encoding="utf-8")
    resolve(tmp_path, {"type": f"{own}:Focal"})
    assert sys.path.index(str(tmp_path)) > max(
        number for number, folder in enumerate(sys.path) if folder.endswith("site-packages")
    )


def test_an_instance_of_an_own_class_is_taken(own: str, tmp_path: Path):
    loss = resolve(tmp_path, {"type": f"{own}:Focal", "gamma": 3}).loss
    assert TrainConfig(loss=loss).loss is loss


def test_an_instance_that_workers_cannot_import_is_refused():
    class Local(Margin):
        pass

    with pytest.raises(ValidationError, match="has no class"):
        TrainConfig(loss=Local())


def test_a_class_of_a_script_is_refused_with_the_way_out():
    script = (
        "from tests.pipeline.core.test_plugins import Margin, TrainConfig\n"
        "class Mine(Margin): pass\n"
        "try: TrainConfig(loss=Mine())\n"
        "except ValueError as error: print(error)"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "__main__:Mine: workers cannot import" in shown and "put the class into a .py file" in shown


@pytest.mark.parametrize(
    ("loss", "parts"),
    [
        ({"type": "no_such_module:Focal"}, ["no_such_module:Focal", "there is no module no_such_module", "{folder}"]),
        ({"type": "{own}.deeper:Focal"}, ["there is no module {own}.deeper"]),
        ({"type": "{own}:Focla"}, ["{own}.py has no class Focla", "did you mean Focal?"]),
        ({"type": "{own}:Other"}, ["{own}:Other is not a subclass of", "Loss"]),
        ({"type": "{own}:Unfinished"}, ["{own}:Unfinished does not define value"]),
        ({"type": "{own}:Named"}, ["leave `type` out"]),
        ({"type": "{own}:InfoNCE"}, ["{own}:InfoNCE is called 'infonce'"]),
        ({"type": "{own}:Focal", "gamma": -1}, ["setting 'loss.gamma' is -1", "greater than 0"]),
        ({"type": "{own}:Focal", "gama": 1}, ["unknown setting 'loss.gama'; did you mean 'loss.gamma'?"]),
        ({"type": "infonse"}, ["'infonse'", "did you mean infonce?", "margin", "mnrl", "package.module:Class"]),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(own: str, tmp_path: Path, loss: dict[str, str], parts: list[str]):
    filled = {key: value.format(own=own) if isinstance(value, str) else value for key, value in loss.items()}
    message = complaint(tmp_path, filled)
    wanted = [part.format(own=own, folder=tmp_path) for part in parts]
    assert not [part for part in wanted if part not in message], message


def test_an_own_setting_that_is_missing_is_named(own: str, tmp_path: Path):
    source = (tmp_path / f"{own}.py").read_text().replace("Field(2.0, gt=0)", "Field(gt=0)")
    (tmp_path / f"{own}.py").write_text(source, encoding="utf-8")
    assert complaint(tmp_path, {"type": f"{own}:Focal"}) == "setting 'loss.gamma' is required"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("import no_such_library", ["importing {own} failed", "{own}.py:1", "no_such_library"]),
        ("x = (", ["importing {own} failed", "SyntaxError"]),
        ("\n1 / 0", ["{own}.py:2", "ZeroDivisionError"]),
    ],
)
def test_a_module_that_fails_is_named_with_its_line(own: str, tmp_path: Path, text: str, parts: list[str]):
    (tmp_path / f"{own}.py").write_text(text, encoding="utf-8")
    message = complaint(tmp_path, {"type": f"{own}:Focal"})
    assert not [part for part in parts if part.format(own=own) not in message], message


def test_an_alias_brings_its_settings_and_the_recipe_wins(tmp_path: Path):
    assert resolve(tmp_path, {"type": "mnrl"}).loss == InfoNCE(temperature=0.02)
    assert resolve(tmp_path, {"type": "mnrl", "temperature": 0.5}).loss == InfoNCE(temperature=0.5)


def test_the_json_schema_holds_the_built_ins():
    schema = TypeAdapter(TrainConfig).json_schema()
    assert schema["properties"]["loss"]["discriminator"]["mapping"].keys() == {"infonce", "margin"}


def test_help_lists_the_built_ins_and_their_settings(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        parse(TrainConfig, "train", ["--help"])
    shown = capsys.readouterr().out
    assert "--loss.type {infonce,margin}" in shown and "--loss.temperature" in shown and "--loss.margin" in shown
