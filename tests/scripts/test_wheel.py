"""The wheel: what it puts beside other people's packages, and that it works without a checkout."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.checkout import ROOT, tracked_files

SOURCES = ("pipeline", "training", "scripts", "pyproject.toml", "README.md", "LICENSE")
OURS = {"pipeline", "training", "tripletail"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of what git knows, built in a copy: a build in the checkout would leave folders there."""
    folder = tmp_path_factory.mktemp("wheel")
    for path in tracked_files():
        name = path.relative_to(ROOT)
        if name.parts[0] in SOURCES:
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / "source" / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "-w", str(folder), str(folder / "source")], check=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that has this wheel, and of others' packages what this environment has."""
    folder = tmp_path_factory.mktemp("env")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    (site, others) = (
        Path(subprocess.run([name, "-c", code], check=True, capture_output=True, text=True).stdout.strip())
        for name in (python, sys.executable)
    )
    # A path file adds a folder without the .pth files in it, and so without an editable install of the checkout.
    (site / "others.pth").write_text(f"{others}\n")
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*command, str(wheel)], check=True)
    return folder / "bin"


def run(command: list[str | Path], cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=400)


def test_it_holds_only_packages_of_our_own(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == OURS
    tracked = {path.relative_to(ROOT).as_posix() for path in tracked_files()}
    for folder in ("recipes", "sample", "examples", "tripletail"):
        files = {name.removeprefix(f"scripts/{folder}/") for name in tracked if name.startswith(f"scripts/{folder}/")}
        prefix = "tripletail/" if folder == "tripletail" else f"tripletail/{folder}/"
        assert files and not {name for name in files if prefix + name not in names}, folder
    data = {name for name in tracked if name.startswith(("pipeline/", "training/")) and not name.endswith(".md")}
    assert not data - set(names), "every file of a package is installed, templates and style sheet too"


def test_the_command_and_the_module_are_there(installed: Path, tmp_path: Path):
    for command in ([installed / "tripletail"], [installed / "python", "-m", "tripletail"]):
        assert run([*command, "--help"], tmp_path).stdout.startswith("usage: tripletail COMMAND")
    code = (
        "import tripletail, pipeline, importlib.util\n"
        "print(tripletail.__file__, pipeline.__file__, *map(importlib.util.find_spec, ('scripts', 'tests')))"
    )
    where = run([installed / "python", "-c", code], tmp_path).stdout.split()
    assert all(path.startswith(str(installed.parent)) for path in where[:2]) and where[2:] == ["None", "None"]


@pytest.mark.ray
def test_the_sample_shop_is_built_and_embedded_without_a_checkout(installed: Path, minilm: str, tmp_path: Path):
    """The whole sample shop takes minutes; `bash scripts/quickstart.sh` runs it in the checkout."""
    build = run([installed / "tripletail", "run", "--config", "quickstart", "--until", "build"], tmp_path)
    assert build.returncode == 0, build.stderr
    data = tmp_path / "runs" / "quickstart" / "data"
    assert json.loads((data / "manifest.json").read_text())["tables"]["corpus"]["rows"] > 500
    encoder = {"model": minilm, "layers": 1, "max_length": 16, "backend": "torch"}
    flags = [word for name, value in encoder.items() for word in (f"--encoder.{name}", str(value))]
    embed = run([installed / "tripletail", "embed", "--run", "runs/quickstart", *flags], tmp_path)
    assert embed.returncode == 0, embed.stderr
    code = "import tripletail; print(tripletail.Artifact.open('runs/quickstart/vectors').pandas('vectors').shape)"
    assert run([installed / "python", "-c", code], tmp_path).stdout.startswith("(")
    assert run([installed / "tripletail", "inspect", "runs/quickstart/vectors"], tmp_path).returncode == 0
