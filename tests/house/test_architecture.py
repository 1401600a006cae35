"""Data order is import order, by room (import-linter), and what may lie on the top level."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.checkout import ROOT, tracked_files

TOP = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "pipeline", "training", "tests", "cluster", "scripts"}
LINES = 400
MACHINE_PATH = re.compile(r"/(?:wor[k]|roo[t]|hom[e]|User[s])/")


def imports(tree: ast.AST) -> list[tuple[int, str]]:
    """Every import of a file, in functions too: line and dotted name."""
    names: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append((node.lineno, "." * node.level + (node.module or "")))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            names += [(node.lineno, str(ast.literal_eval(arg))) for arg in node.args if isinstance(arg, ast.Constant)]
    return list(dict.fromkeys(names))


def module_name(path: Path) -> str:
    """Dotted name of a file of the repository; a folder's `__init__.py` carries the folder's name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources() -> list[Path]:
    return sorted(path for package in ("pipeline", "training") for path in (ROOT / package).rglob("*.py"))


def run_linter(folder: Path) -> subprocess.CompletedProcess[str]:
    """import-linter over a checkout, by the contracts of its pyproject.toml."""
    lint = Path(sys.executable).with_name("lint-imports")
    return subprocess.run([lint, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False)


def test_rooms_import_only_the_rooms_below_them():
    result = run_linter(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("pipeline/text/keys.py", "def f():\n    import torch"),
        ("pipeline/storage/upward.py", "from pipeline.encoder import encoder"),
        ("pipeline/mining/upward.py", "from training.run.job import run"),
        ("training/run/upward.py", "import scripts.run"),
        ("training/losses/sideways.py", "from pipeline.building import pairs"),
    ],
)
def test_the_contracts_see_a_breach(tmp_path: Path, path: str, code: str):
    for name in ("pipeline", "training", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / path).write_text(f'"""A breach."""\n\n{code}\n', encoding="utf-8")
    result = run_linter(tmp_path)
    assert result.returncode == 1 and "BROKEN" in result.stdout, result.stdout + result.stderr


def test_imports_are_absolute():
    relative = [
        f"{module_name(path)}:{line} imports {name}: write the full name"
        for path in sources()
        for line, name in imports(ast.parse(path.read_text(encoding="utf-8")))
        if name.startswith(".")
    ]
    assert not relative, relative


def test_init_files_hold_no_imports():
    importing = {
        path.relative_to(ROOT).as_posix(): names
        for path in sources()
        if path.name == "__init__.py" and (names := imports(ast.parse(path.read_text(encoding="utf-8"))))
    }
    assert not importing, f"an __init__.py of a room holds a docstring only: {importing}"


def test_top_level_holds_the_house_and_nothing_else():
    names = {path.relative_to(ROOT).parts[0] for path in tracked_files()}
    assert not {name for name in names if not name.startswith(".")} - TOP


def test_every_package_is_in_the_wheel():
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    packages = {module_name(path) for path in sources() if path.name == "__init__.py"}
    missing = sorted(packages - set(tools["setuptools"]["packages"]))
    assert not missing, f"add to [tool.setuptools] packages in pyproject.toml: {', '.join(missing)}"


def test_files_stay_short():
    long = {
        path.relative_to(ROOT).as_posix(): lines
        for path in tracked_files()
        if path.suffix in (".py", ".sh")
        and path.relative_to(ROOT).parts[0] != "tests"
        and (lines := len(path.read_text(encoding="utf-8").splitlines())) > LINES
    }
    assert not long, f"over {LINES} lines; a folder of the same name reads better"


def test_no_file_names_a_machine_path():
    lines = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in tracked_files()
        if path.suffix in (".py", ".sh", ".md", ".yaml", ".yml", ".toml", ".txt", "") and path.is_file()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if MACHINE_PATH.search(line) and "://" not in line
    ]
    assert not lines, "paths of one machine:\n" + "\n".join(lines)
