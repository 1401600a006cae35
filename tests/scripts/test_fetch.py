"""The command that fetches corpora: lists them, writes a folder as a whole, and leaves alone what is there."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.core.errors import UserError
from scripts.tripletail.commands import fetch
from scripts.tripletail.corpora.corpus import PAIR, Corpus, Download, Outputs
from scripts.tripletail.corpora.registry import CORPORA
from scripts.tripletail.recipe import RECIPES

TEXT = "a question\tan answer\n"


def prepare(folder: Path) -> Outputs:
    anchor, positive = (folder / "faq.tsv").read_text(encoding="utf-8").strip().split("\t")
    table = pa.Table.from_pylist([{"anchor": anchor, "positive": positive}], schema=PAIR)
    return {"pairs.train.parquet": table, "raw/faq.tsv": folder / "faq.tsv"}


@pytest.fixture
def faq(monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """A corpus of one file, known to the command."""
    item = Download("faq.tsv", "https://example.org/faq.tsv", hashlib.sha256(TEXT.encode()).hexdigest(), size=len(TEXT))
    corpus = Corpus("faq", "qa/faq", "question to answer", "https://example.org", "CC0", (item,), prepare)
    monkeypatch.setitem(CORPORA, "faq", corpus)
    return corpus


@pytest.fixture
def copy(tmp_path: Path) -> str:
    """A copy of what is published, by files instead of a server."""
    folder = tmp_path / "copy" / "example.org"
    folder.mkdir(parents=True)
    (folder / "faq.tsv").write_text(TEXT, encoding="utf-8")
    return (tmp_path / "copy").as_uri()


def command(*arguments: str) -> int:
    """Run the command in this process and return its exit code."""
    try:
        fetch.main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_a_corpus_is_fetched_and_prepared(faq: Corpus, copy: str, tmp_path: Path):
    root = tmp_path / "data"
    assert command("faq", "--root", str(root), "--mirror", copy) == 0
    folder = root / "qa" / "faq"
    assert sorted(path.name for path in folder.iterdir()) == ["pairs.train.parquet", "raw", "source.json"]
    assert pq.read_table(folder / "pairs.train.parquet").to_pylist() == [
        {"anchor": "a question", "positive": "an answer"}
    ]
    assert (folder / "raw" / "faq.tsv").read_text(encoding="utf-8") == TEXT
    record = json.loads((folder / "source.json").read_text(encoding="utf-8"))
    assert record["licence"] == "CC0" and record["files"][0]["sha256"] == faq.downloads[0].sha256
    assert not list((root / ".downloads").iterdir())


def test_what_is_there_is_left_alone(faq: Corpus, copy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    fetch.fetch(faq, tmp_path, copy)
    before = (tmp_path / "qa/faq/pairs.train.parquet").stat().st_mtime_ns
    fetch.fetch(faq, tmp_path, mirror="http://127.0.0.1:1")
    assert (tmp_path / "qa/faq/pairs.train.parquet").stat().st_mtime_ns == before
    assert "faq is there" in capsys.readouterr().err


def test_a_folder_of_other_origin_is_refused(faq: Corpus, copy: str, tmp_path: Path):
    (tmp_path / "qa/faq").mkdir(parents=True)
    (tmp_path / "qa/faq/mine.txt").touch()
    with pytest.raises(UserError, match="was not made by"):
        fetch.fetch(faq, tmp_path, copy)
    fetch.fetch(faq, tmp_path, copy, overwrite=True)
    assert not (tmp_path / "qa/faq/mine.txt").exists()


def test_preparation_that_fails_leaves_no_folder(faq: Corpus, copy: str, tmp_path: Path):
    def broken(folder: Path) -> Outputs:
        return {"a.tsv": folder / "faq.tsv", "b.tsv": folder / "missing.tsv"}

    with pytest.raises(FileNotFoundError):
        fetch.fetch(replace(faq, prepare=broken), tmp_path, copy)
    assert not (tmp_path / "qa/faq").exists()
    fetch.fetch(faq, tmp_path, mirror="http://127.0.0.1:1")
    assert (tmp_path / "qa/faq/pairs.train.parquet").exists()


def test_out_of_reach_is_one_line_and_exit_code_2(faq: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert command("faq", "--root", str(tmp_path), "--mirror", "http://127.0.0.1:1") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("fetch: error: cannot fetch faq.tsv: http://127.0.0.1:1/example.org")


def test_an_unknown_name_is_refused_with_the_choices(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert command("medqua", "--root", str(tmp_path)) == 2
    assert "no corpus medqua: choose from medquad, covidqa" in capsys.readouterr().err


def test_without_a_name_the_corpora_are_listed(
    faq: Corpus, copy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    fetch.fetch(faq, tmp_path, copy)
    assert command("--root", str(tmp_path)) == 0
    listing = capsys.readouterr().out
    assert all(name in listing for name in CORPORA) and "CC BY 4.0" in listing


@pytest.mark.parametrize(
    "path", sorted(set(RECIPES.glob("*.yaml")) - {RECIPES / "quickstart.yaml"}), ids=lambda path: path.stem
)
def test_recipes_read_what_the_command_writes(path: Path):
    text = path.read_text(encoding="utf-8")
    build = yaml.safe_load(text)["build"]
    folders = {corpus.folder: corpus.name for corpus in CORPORA.values()}
    names = [
        next(folders[folder] for folder in folders if source["path"].startswith(folder)) for source in build["sources"]
    ]
    assert build["root"] == "data"
    assert all(f"scripts.fetch {name}" in text for name in names)
