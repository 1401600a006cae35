"""Data order is import order: the floors of the house, and what may lie on its top level."""

import ast
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A file imports only from strictly lower floors: 3.2 may use 3.1, never 3.2. `folder.*` stands for every file there
# that is not named itself. A new file goes in here first: its floor says what it may know.
FLOORS: dict[float, str] = {
    # contracts, settings, pure rules; no ray, no torch
    0.0: "pipeline.errors pipeline.console pipeline.text pipeline.tally pipeline.chunks pipeline.significance "
    "pipeline.pairscores pipeline.clustering",
    0.1: "pipeline.schema pipeline.config pipeline.metrics pipeline.lexical pipeline.columns",
    0.2: "pipeline.splits pipeline.shingles pipeline.lookalikes pipeline.inspection.repeats",
    0.3: "pipeline.minhash pipeline.similar",
    0.4: "pipeline.clusters pipeline.leaks",
    # places: files and artifacts, the Ray session, one corpus format a file, the one way from text to vector
    1.0: "pipeline.files pipeline.engine pipeline.dropout pipeline.textfiles pipeline.precision pipeline.tokenizing",
    1.1: "pipeline.artifact pipeline.card",
    1.2: "pipeline.exchange pipeline.shards pipeline.pool pipeline.modeldir pipeline.packing "
    "pipeline.sources.record pipeline.static pipeline.backends.runtime",
    1.22: "pipeline.backends.openvino",
    1.23: "pipeline.backends.onnx pipeline.backends.int8",
    1.25: "pipeline.attention pipeline.pooling pipeline.saving pipeline.backends.choose",
    1.3: "pipeline.cleaning pipeline.encoder pipeline.sources.lines pipeline.sources.mapping",
    1.35: "pipeline.sources.paths pipeline.sources.postlinks pipeline.distill pipeline.sources.batches "
    "pipeline.sources.jsontables",
    1.4: "pipeline.sources.*",
    1.5: "pipeline.sources.beir pipeline.sources.wands pipeline.sources.shopify pipeline.sources.esci "
    "pipeline.sources.amazon",
    1.9: "pipeline.judged",
    # steps: functions over Arrow tables
    2.0: "pipeline.read pipeline.dedup pipeline.pairs pipeline.triplets pipeline.search pipeline.embed.ids "
    "pipeline.embed.reuse pipeline.mining.cells",
    2.02: "pipeline.build.prompts",
    2.05: "pipeline.embed.columns pipeline.build.entries",
    2.1: "pipeline.build.near pipeline.build.checks pipeline.duplicates pipeline.embed.worker "
    "pipeline.mining.keys pipeline.mining.rule pipeline.mining.tuples pipeline.mining.cross "
    "pipeline.mining.stamp pipeline.mining.rescore",
    2.2: "pipeline.build.units pipeline.embed.job pipeline.index.kinds pipeline.export pipeline.mining.known "
    "pipeline.mining.select",
    2.3: "pipeline.index.lance pipeline.mining.stored pipeline.mining.candidates pipeline.mining.words",
    2.4: "pipeline.index.job pipeline.mining.index",
    2.5: "pipeline.index.ask pipeline.mining.config",
    2.6: "pipeline.mining.actors",
    2.7: "pipeline.mining.plan pipeline.mining.sweep",
    # jobs made of steps, and the report
    3.0: "pipeline.build.config pipeline.evaluate.questions pipeline.evaluate.corpus pipeline.report.findings",
    3.1: "pipeline.build.made pipeline.build.steps pipeline.evaluate.probes pipeline.evaluate.variants "
    "pipeline.evaluate.sample pipeline.report.wording pipeline.report.parts pipeline.inspection.survey",
    3.2: "pipeline.evaluate.figures pipeline.evaluate.ranking pipeline.report.plots pipeline.report.examples "
    "pipeline.report.guards pipeline.report.atlas",
    3.21: "pipeline.evaluate.contrasts",
    3.22: "pipeline.evaluate.measured",
    3.25: "pipeline.inspection.wording pipeline.report.standing pipeline.evaluate.landscape",
    3.27: "pipeline.report.pictures",
    3.3: "pipeline.evaluate.measure pipeline.report.page",
    3.35: "pipeline.inspection.page pipeline.inspection.terminal",
    3.4: "pipeline.evaluate.guards pipeline.evaluate.outputs pipeline.evaluate.story",
    3.45: "pipeline.evaluate.card",
    3.5: "pipeline.build.job pipeline.evaluate.job pipeline.mining.job pipeline.hard_negatives",
    # training: the global batch, the objectives, the loop, the job
    4.0: "training.guide training.lora training.compiled training.gather training.card training.optimizer "
    "training.average training.frozen training.memory training.lines training.trackers",
    4.05: "training.batches",
    4.1: "training.texts training.validation training.meter training.follow",
    4.15: "training.tokens",
    4.2: "training.rows training.epoch",
    4.25: "training.composer training.prepare training.staged",
    4.3: "training.refresh training.replay training.feed training.bulk",
    5.0: "training.losses.objective training.losses.tiled training.gradcache",
    5.1: "training.losses.masks training.losses.distance training.losses.lists",
    5.2: "training.losses.*",
    5.3: "training.losses.basic",
    5.4: "training.losses.weighted",
    5.5: "training.losses.matryoshka",
    5.6: "training.losses.union",
    6.0: "training.checkpoint",
    6.1: "training.loop training.keeper",
    6.2: "training.drive",
    7.0: "training.fit.config training.fit.faults",
    7.1: "training.fit.worker training.fit.beside training.fit.resources training.fit.data training.fit.lineage",
    7.2: "training.fit.trainer",
    7.3: "training.fit.again training.fit.rounds",
    7.4: "training.fit.job",
}

TOP = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "pipeline", "training", "tests", "cluster", "scripts"}
HEAVY = {"ray", "torch", "transformers"}
LINES = 300
MACHINE_PATH = re.compile(r"/(?:wor[k]|roo[t]|hom[e]|User[s])/")


def floor(module: str) -> float | None:
    """The floor of a module: its own name first, then its folder's `*`; a folder itself holds nothing and is on 0."""
    rooms = {room: number for number, names in FLOORS.items() for room in names.split()}
    if (ROOT / module.replace(".", "/") / "__init__.py").exists():
        return 0.0
    folder = module.rpartition(".")[0]
    return rooms.get(module, rooms.get(f"{folder}.*"))


def imports(tree: ast.AST, known: set[str]) -> list[tuple[int, str]]:
    """Every import of a file, in functions too: line and dotted name (`from a import b` is a.b where that is known)."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            names = [f"{base}.{alias.name}" for alias in node.names]
            found += [(node.lineno, name if name in known else base) for name in names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            found += [(node.lineno, str(ast.literal_eval(arg))) for arg in node.args if isinstance(arg, ast.Constant)]
    return list(dict.fromkeys(found))


def module_name(path: Path) -> str:
    """Dotted name of a file of the repository; a folder's `__init__.py` carries the folder's name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def breaches(module: str, tree: ast.AST, known: set[str]) -> list[str]:
    """What the imports of one module break, one sentence each."""
    own, said = floor(module), []
    if own is None:
        return [f"{module} has no floor: add it to FLOORS in tests/test_architecture.py, above all that it imports"]
    for line, name in imports(tree, known):
        top = name.split(".")[0]
        if name.startswith("."):
            said.append(f"{module}:{line} imports {name}: write the full name")
        elif top == "scripts":
            said.append(f"{module}:{line} imports {name}: scripts are imported by nobody")
        elif top == "training" and module.startswith("pipeline"):
            said.append(f"{module}:{line} imports {name}: pipeline never imports training")
        elif top in ("pipeline", "training"):
            below = floor(name)
            if below is None or below >= own:
                said.append(f"{module}:{line} (floor {own}) imports {name} (floor {below}), wanted a lower floor")
        elif top in HEAVY and own < 1:
            said.append(f"{module}:{line} (floor {own}) imports {name}: floor 0 knows no {top}")
    return said


def sources() -> list[Path]:
    return sorted(path for package in ("pipeline", "training") for path in (ROOT / package).rglob("*.py"))


@cache
def tracked() -> list[Path]:
    """What git knows, without what is deleted in the working tree."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip(f"not a git checkout: {listed.stderr.strip()}")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]


def test_every_file_imports_from_lower_floors():
    known = {module_name(path) for path in sources()}
    said = [
        sentence
        for path in sources()
        for sentence in breaches(module_name(path), ast.parse(path.read_text(encoding="utf-8")), known)
    ]
    assert not said, "\n" + "\n".join(said)


@pytest.mark.parametrize(
    ("module", "code", "complaint"),
    [
        ("pipeline.schema", "def f():\n    import torch", "floor 0 knows no torch"),
        ("pipeline.text", "import ray.data", "floor 0 knows no ray"),
        ("pipeline.artifact", "from pipeline import encoder", "wanted a lower floor"),
        ("pipeline.encoder", "from pipeline.search import top_k", "wanted a lower floor"),
        ("pipeline.engine", "import pipeline.artifact", "wanted a lower floor"),
        ("pipeline.mining.job", "from training.fit.job import run", "pipeline never imports training"),
        ("training.fit.job", "import scripts.run", "scripts are imported by nobody"),
        ("training.fit.job", "from . import loop", "write the full name"),
        (
            "training.fit.job",
            "import importlib\nimportlib.import_module('scripts.run')",
            "scripts are imported by nobody",
        ),
        ("pipeline.newcomer", "import json", "has no floor"),
    ],
)
def test_the_reader_of_imports_sees_a_breach(module: str, code: str, complaint: str):
    known = {"pipeline.encoder", "pipeline.search", "training.loop"}
    said = breaches(module, ast.parse(code), known)
    assert len(said) == 1 and complaint in said[0]


def test_the_reader_of_imports_accepts_lower_floors():
    code = "import numpy\nfrom pipeline import artifact\nfrom pipeline.errors import UserError\nimport torch"
    assert breaches("pipeline.encoder", ast.parse(code), {"pipeline.artifact"}) == []


def test_the_table_names_each_module_once_and_none_that_is_gone():
    named = [room for names in FLOORS.values() for room in names.split()]
    assert len(named) == len(set(named))
    known = {module_name(path) for path in sources()}
    assert not {room for room in named if not room.endswith("*")} - known


def test_init_files_hold_no_imports():
    found = {
        path.relative_to(ROOT).as_posix(): names
        for path in sources()
        if path.name == "__init__.py" and (names := imports(ast.parse(path.read_text(encoding="utf-8")), set()))
    }
    assert not found


def test_top_level_holds_the_house_and_nothing_else():
    names = {path.relative_to(ROOT).parts[0] for path in tracked()}
    assert not {name for name in names if not name.startswith(".")} - TOP


def test_every_package_is_installed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(
        {module_name(path) for path in sources() if path.name == "__init__.py"} | {"scripts"}
    )


def test_files_stay_short():
    long = {
        path.relative_to(ROOT).as_posix(): lines
        for path in tracked()
        if path.suffix in (".py", ".sh")
        and path.relative_to(ROOT).parts[0] != "tests"
        and (lines := len(path.read_text(encoding="utf-8").splitlines())) > LINES
    }
    assert not long, f"over {LINES} lines; a folder of the same name reads better"


def test_no_file_names_a_machine_path():
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in tracked()
        if path.suffix in (".py", ".sh", ".md", ".yaml", ".yml", ".toml", ".txt", "") and path.is_file()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if MACHINE_PATH.search(line) and "://" not in line
    ]
    assert not found, "\n" + "\n".join(found)
