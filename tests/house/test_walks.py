"""The walks of pipeline/README.md lead past files, functions and classes that are there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STOP = re.compile(r"`([a-z_/]+\.py): (\w+)`")


def stops() -> list[tuple[str, str]]:
    text = (ROOT / "pipeline" / "README.md").read_text(encoding="utf-8")
    return STOP.findall(text[text.index("## Four walks") :])


def test_every_stop_of_the_walks_exists():
    missing = []
    for path, name in stops():
        file = ROOT / path
        tree = ast.parse(file.read_text(encoding="utf-8")) if file.exists() else ast.Module([], [])
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        if name not in names:
            missing.append(f"{path}: {name}")
    assert not missing
    assert len(stops()) > 20


def test_a_stop_that_is_gone_is_seen():
    assert STOP.findall("1. `pipeline/core/errors.py: Nothing` does") == [("pipeline/core/errors.py", "Nothing")]
