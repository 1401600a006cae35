"""The walks of pipeline/README.md lead past files, functions, classes and methods that are there."""

import ast
import re

import pytest

from tests.support.checkout import ROOT

STOP = re.compile(r"`([\w/]+\.py): ([\w.]+)`")
MENTION = re.compile(r"`[^`\n]*\.py: [^`\n]*`")


def walks() -> str:
    text = (ROOT / "pipeline" / "README.md").read_text(encoding="utf-8")
    return text[text.index("## Four walks") :]


def definitions(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    """The functions and classes of a body, by name."""
    return {node.name: node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def exists(path: str, name: str) -> bool:
    """Whether a file defines a function or class, or with a dot a method of a class."""
    file = ROOT / path
    body = ast.parse(file.read_text(encoding="utf-8")).body if file.is_file() else []
    for part in name.split("."):
        node = definitions(body).get(part)
        if node is None:
            return False
        body = node.body if isinstance(node, ast.ClassDef) else []
    return True


def test_every_stop_of_the_walks_exists():
    missing = [f"{path}: {name}" for path, name in STOP.findall(walks()) if not exists(path, name)]
    assert not missing


def test_every_walk_has_stops_and_every_mention_is_read():
    paragraphs = re.split(r"^\*\*.+\*\*$", walks(), flags=re.MULTILINE)[1:]
    assert [len(STOP.findall(walk)) > 5 for walk in paragraphs] == [True] * 4
    assert len(STOP.findall(walks())) == len(MENTION.findall(walks()))


@pytest.mark.parametrize(
    ("path", "name", "there"),
    [
        ("pipeline/encoder/encoder.py", "Encoder", True),
        ("pipeline/encoder/encoder.py", "Encoder.encode", True),
        ("pipeline/encoder/encoder.py", "encode", False),
        ("pipeline/encoder/encoder.py", "Encoder.gone", False),
        ("pipeline/encoder/pooling.py", "pool.gone", False),
        ("pipeline/gone.py", "pool", False),
    ],
)
def test_a_stop_that_is_gone_is_seen(path: str, name: str, there: bool):
    assert exists(path, name) is there
