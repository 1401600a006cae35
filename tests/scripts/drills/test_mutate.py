"""The list of mutations fits the source, a part of it is tried here, and a mutation that survives is told."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from scripts.drills.mutate import Mutation, read_mutations, report, try_all
from tests.support.checkout import ROOT

PARTS = 24  # one of so many is tried here; `python -m scripts.drills.mutate` tries all
ROOMS = [f"training/{room}" for room in ("losses", "data", "loop", "run")] + [
    f"pipeline/{room}" for room in ("storage", "encoder", "metrics", "mining", "building", "sources", "search", "text")
]


@pytest.fixture(scope="module")
def mutations() -> list[Mutation]:
    return read_mutations()


def test_every_line_is_there_once_and_its_mutation_is_python(mutations):
    assert len(mutations) >= 60 and len(set(mutations)) == len(mutations)
    for mutation in mutations:
        before = (ROOT / mutation.file).read_text(encoding="utf-8")
        after = mutation.apply(before)
        assert ast.dump(ast.parse(before)) != ast.dump(ast.parse(after)), f"changes nothing: {mutation}"


def test_every_test_is_there(mutations):
    paths = {mutation.test.partition("::")[0] for mutation in mutations}
    nodes = {path: list(ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))) for path in paths}
    names = {path: {node.name for node in found if isinstance(node, ast.FunctionDef)} for path, found in nodes.items()}
    for mutation in mutations:
        path, _, name = mutation.test.partition("::")
        assert name.partition("[")[0] in names[path], mutation.test


def test_every_room_that_decides_a_result_is_in_the_list(mutations):
    files = [mutation.file for mutation in mutations]
    assert not [room for room in ROOMS if not any(file.startswith(f"{room}/") for file in files)]
    assert max(Counter(files).values()) < len(mutations) / 4


def test_a_part_of_the_list_is_caught():
    command = [sys.executable, "-m", "scripts.drills.mutate", "--part", f"1/{PARTS}", "--processes", "1"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    assert "mutations caught (100.0%)" in result.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small project of its own, with a test that sees only half of what it should."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "till.py").write_text(
        "def total(prices, rebate):\n    whole = sum(prices)\n    return whole - rebate\n"
    )
    test = "from shop.till import total\n\n\ndef test_total():\n    assert total([1, 2], 0) == 3\n"
    (tmp_path / "test_till.py").write_text(test)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    return tmp_path


def mutation(line: str, becomes: str) -> Mutation:
    return Mutation("shop/till.py", line, becomes, "test_till.py::test_total")


def test_what_no_test_notices_survives_and_is_told(checkout, capsys):
    tried = [
        mutation("whole = sum(prices)", "whole = max(prices)"),
        mutation("return whole - rebate", "return whole + rebate"),
        mutation("whole = sum(prices)", "whole = = 1"),
    ]
    outcomes = try_all(tried, checkout, processes=1)
    assert [outcome.result for outcome in outcomes] == ["caught", "survived", "broken"]
    assert report(outcomes) == 1 and report(outcomes[:1]) == 0
    printed = capsys.readouterr().out
    assert "survived: shop/till.py: return whole - rebate  ->  return whole + rebate" in printed
    assert "mutate: 1 of 3 mutations caught (33.3%)" in printed
    assert (checkout / "shop" / "till.py").read_text().endswith("return whole - rebate\n"), "the checkout is untouched"


def test_tests_that_fail_by_themselves_tell_nothing(checkout):
    (checkout / "test_till.py").write_text("def test_total():\n    assert False\n")
    with pytest.raises(UserError, match="the tests fail without a mutation"):
        try_all([mutation("whole = sum(prices)", "whole = 0")], checkout, processes=1)


def test_a_line_that_is_gone_or_there_twice_is_named():
    with pytest.raises(UserError, match="the line is there 0 times, wanted once: x = 1"):
        Mutation("f.py", "x = 1", "x = 2", "t").apply("y = 1\n")
    with pytest.raises(UserError, match="the line is there 2 times"):
        Mutation("f.py", "x = 1", "x = 2", "t").apply("x = 1\nif y:\n    x = 1\n")
    assert Mutation("f.py", "x = 1", "x = 2", "t").apply("if y:\n    x = 1\n") == "if y:\n    x = 2\n"
