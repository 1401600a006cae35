"""The READMEs stay true: their links, commands, paths and modules exist, and the first one stays short."""

import importlib.util
import re
from pathlib import Path

import pytest

from tests.support.checkout import ROOT, tracked_files

README_LINES = 150
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^()\s]+)\)")
INLINE_CODE = re.compile(r"`([^`\n]+)`")
COMMAND = re.compile(r"python3? -m (scripts(?:\.\w+)*)(?![\w.<{*])")
PACKAGES = ("pipeline", "training", "scripts", "tests", "cluster")
PATH_IN_CODE = re.compile(rf"(?:{'|'.join(PACKAGES)})/[\w./-]*")
NAME_IN_CODE = re.compile(rf"(?:{'|'.join(PACKAGES)})(?:\.\w+)+")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def guides() -> list[Path]:
    """Every Markdown file that describes the project as it is; a changelog describes it as it was."""
    return [path for path in tracked_files() if path.suffix == ".md" and path.name != "CHANGELOG.md"]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(markdown: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = (heading.replace("`", "").lower() for heading in HEADING.findall(FENCE.sub("", markdown)))
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """The links of a page to files or headings that are not there."""
    broken = []
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    return broken


def exists(dotted: str) -> bool:
    """Whether a dotted name is a module of the checkout, or a top-level name in one."""
    path = ROOT.joinpath(*dotted.split("."))
    if path.is_dir() or path.with_suffix(".py").exists():
        return True
    source = path.parent.with_suffix(".py")
    pattern = rf"^(?:(?:async )?def |class )?{re.escape(path.name)}\b"
    return source.exists() and re.search(pattern, source.read_text(encoding="utf-8"), re.MULTILINE) is not None


def unknown_names(page: Path) -> list[str]:
    """The files and dotted names in a page's inline code that the checkout does not have."""
    codes = INLINE_CODE.findall(FENCE.sub("", page.read_text(encoding="utf-8")))
    paths = [code for code in codes if PATH_IN_CODE.fullmatch(code) and not (ROOT / code).exists()]
    return paths + [code for code in codes if NAME_IN_CODE.fullmatch(code) and not exists(code)]


@pytest.mark.parametrize("page", guides(), ids=name)
def test_local_links_lead_somewhere(page: Path):
    assert not broken_links(page)


@pytest.mark.parametrize("page", guides(), ids=name)
def test_commands_exist(page: Path):
    commands = COMMAND.findall(page.read_text(encoding="utf-8"))
    missing = [command for command in commands if importlib.util.find_spec(command) is None]
    assert not missing


@pytest.mark.parametrize("page", guides(), ids=name)
def test_files_and_names_in_code_exist(page: Path):
    assert not unknown_names(page)


def test_the_first_readme_is_for_a_person_in_a_hurry():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= README_LINES, f"README.md has {len(lines)} lines: move what is longer into a folder's README"


def test_the_checks_see_what_is_wrong(tmp_path: Path):
    page = tmp_path / "README.md"
    page.write_text(
        "# A `page` of two\n[x](#a-page-of-two) [y](#b) [z](gone.md) [w](README.md)\n"
        "`pipeline/core/config.py` `pipeline/gone.py` "
        "`scripts.tripletail.cli.main` `scripts.run.gone` `scripts.gone`\n",
        encoding="utf-8",
    )
    assert broken_links(page) == ["#b", "gone.md"]
    assert unknown_names(page) == ["pipeline/gone.py", "scripts.run.gone", "scripts.gone"]
    assert COMMAND.findall("python -m scripts.run x; python -m scripts.<job>; python -m scripts.bench.mine") == [
        "scripts.run",
        "scripts.bench.mine",
    ]
