"""The three pages of a first run: their commands are taken from their text and run as they stand, at small size."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout import ROOT

PAGES = ROOT / "scripts" / "examples"
_BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SMALL = {  # what a page says, and what stands for it in a test
    "faq.md": {"return deposit address newsletter delivery basket guarantee ": "", "receipt discount complaint": ""},
    "shop.md": {"QUERIES=400": "QUERIES=40", "readlines()[:400]": "readlines()[:150]"},
}
SHORT = "s/epochs: [0-9]*/epochs: 1/; s/validations: 4/validations: 1/; s/^  encoder: {/  encoder: {layers: 1, /"


def commands(page: str) -> str:
    """All commands of a page; recipes that `init` writes are cut to one epoch of one layer after they were written."""
    script = "".join(_BLOCK.findall((PAGES / page).read_text(encoding="utf-8")))
    for old, new in SMALL.get(page, {}).items():
        assert script.count(old) == 1, old
        script = script.replace(old, new)
    return re.sub(r"^(tripletail init .* --out (\S+) .*)$", rf"\1\nsed -i '{SHORT}' \2", script, flags=re.MULTILINE)


@pytest.fixture
def run_page(minilm: str, tmp_path: Path):
    """Run a page in a folder of its own, with `tripletail` and `python` of this checkout."""
    binaries, folder = tmp_path / "bin", tmp_path / "work"
    binaries.mkdir()
    folder.mkdir()
    for name, words in (("python", ""), ("tripletail", " -m scripts.tripletail")):
        (binaries / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{words} "$@"\n')
        (binaries / name).chmod(0o755)
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    env |= {"PATH": f"{binaries}{os.pathsep}{env['PATH']}", "TRIPLETAIL_SAMPLE": str(ROOT / "scripts" / "sample")}
    env["PYTHONPATH"] = f"{ROOT}{os.pathsep}{ROOT / 'scripts'}"

    def run(page: str) -> tuple[Path, str, str]:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands(page)],
            **{"cwd": folder, "env": env, "capture_output": True, "text": True, "check": False, "timeout": 560},
        )
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        return folder, done.stdout, done.stderr

    return run


@pytest.mark.ray
def test_a_help_desks_faq(run_page):
    folder, printed, said = run_page("faq.md")
    assert "csv of kind qa" in printed and "5 jobs into runs/faq" in printed
    assert "[3/5] train  (done: build, mine; to come: embed, evaluate)" in said
    assert re.search(r"gain +nDCG@10 .* \(tuned, 1 of 6 layers\) against .* \(base, 6 layers\) on \d+ queries", said)
    assert "next: tripletail search" in said
    assert "my parcel has not come" in printed and "end my subscription\n   1  " in printed and "(1, 384)" in printed
    assert not (folder / "runs" / "faq" / "training" / "ray").exists()


@pytest.mark.ray
def test_a_shops_search(run_page):
    folder, printed, said = run_page("shop.md")
    assert "catalogue.jsonl: jsonl of kind product" in printed and "judgments.csv: csv of kind rated" in printed
    assert "rows auto: mined" in said and "'tuned-mix': 0." in printed and "'bm25': 0." in printed
    assert (folder / "runs" / "shop" / "report" / "queries.csv").is_file()


@pytest.mark.ray
def test_from_sentence_transformers(run_page):
    pytest.importorskip("sentence_transformers", reason="the extra [dev] is not installed")
    _, printed, _ = run_page("from_sentence_transformers.md")
    assert "loss of the batch: " in printed and "nDCG@3: " in printed and printed.splitlines()[-1] == "(1, 384)"


@pytest.mark.parametrize("page", sorted(path.name for path in PAGES.glob("*.md")))
def test_every_page_is_run(page: str):
    assert page in Path(__file__).read_text(encoding="utf-8") and commands(page).count("\n") > 10
