"""Files as they come: zip archives, hidden ones, empty ones, other formats under a name that says text."""

import gzip
import io
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import UserError
from pipeline.storage.artifact import Artifact
from tests.support.corpora import build, inline, table

__all__ = ["inline"]
CSV, JSONL = "question,answer\nHow far?,Two miles\n", b'{"question": "How high?", "answer": "A metre"}\n'


def read(tmp_path: Path, **source: Any) -> Artifact:
    sources = [source if source["type"] == "parquet" else {"kind": "qa", **source}]
    recipe = {"root": str(tmp_path), "sources": sources, "split": {"train": 1, "dev": 0, "test": 0}}
    return build({**recipe, "overwrite": True}, tmp_path / "run")


def pairs(artifact: Artifact) -> list[tuple[str, str]]:
    return sorted((row["anchor"], row["positive"]) for row in table(artifact, "pairs"))


def write_zip(path: Path, members: dict[str, str | bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def test_members_of_a_zip_archive_are_files(inline: None, tmp_path: Path):
    second = b'{"question": "How low?", "answer": "A foot"}\n'
    members = {"a.jsonl": JSONL, "deep er/b.jsonl.gz": gzip.compress(second), "__MACOSX/._a.jsonl": b"\x00Mac"}
    write_zip(tmp_path / "faq.zip", {**members, ".DS_Store": b"\x00"})
    (tmp_path / "c.jsonl").write_bytes(b'{"question": "How wide?", "answer": "An inch"}\n')
    artifact = read(tmp_path, type="jsonl", path=["faq.zip", "c.jsonl"])
    assert pairs(artifact) == [("How high?", "A metre"), ("How low?", "A foot"), ("How wide?", "An inch")]
    files = [(row["file"], row["read"]) for row in artifact.manifest.notes["input_rows"]]
    assert files == [("faq.zip#a.jsonl", 1), ("faq.zip#deep er/b.jsonl.gz", 1), ("c.jsonl", 1)]
    assert artifact.manifest.notes["left_out_files"] == {"jsonl": ["faq.zip#.DS_Store", "faq.zip#__MACOSX/._a.jsonl"]}


def test_every_format_is_read_out_of_a_zip_archive_whatever_its_name(inline: None, tmp_path: Path):
    written = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{"question": "How high?", "answer": "A metre"}]), written)
    write_zip(tmp_path / "rows.dat", {"f": written.getvalue()})
    assert pairs(read(tmp_path, type="parquet", files=[{"path": "rows.dat", "kind": "qa"}])) == [
        ("How high?", "A metre")
    ]
    write_zip(tmp_path / "rows.dat", {"a.csv": CSV, "b.csv": CSV.replace("far", "long")})
    assert pairs(read(tmp_path, type="csv", path="*.dat")) == [("How far?", "Two miles"), ("How long?", "Two miles")]
    write_zip(tmp_path / "rows.dat", {"a.json": b"[" + JSONL + b"]"})
    assert pairs(read(tmp_path, type="json", path="rows.dat")) == [("How high?", "A metre")]


def test_two_archives_with_members_of_one_name(inline: None, tmp_path: Path):
    write_zip(tmp_path / "1.zip", {"a.csv": CSV})
    write_zip(tmp_path / "2.zip", {"a.csv": CSV.replace("far", "long").replace("Two", "Ten")})
    artifact = read(tmp_path, type="csv", path="*.zip")
    assert pairs(artifact) == [("How far?", "Two miles"), ("How long?", "Ten miles")]


def test_an_archive_that_unpacks_without_end_is_refused_unread(inline: None, tmp_path: Path):
    write_zip(tmp_path / "bomb.zip", {"a.csv": b"a," * (40 << 20)})
    with pytest.raises(UserError, match=r"a\.csv unpacks to [\d,]+ times its size; it is not read"):
        read(tmp_path, type="csv", path="bomb.zip")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04not a table", "a zip archive by its first bytes, and not readable"),
        (b"7z\xbc\xaf\x27\x1c\x00", "is no text but a 7z archive; unpack it"),
        (b"Rar!\x1a\x07\x00", "is no text but a RAR archive"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "old Office; save it as .xlsx or CSV"),
        (b"%PDF-1.7\n", "is no text but a PDF"),
        (b"a.csv" + b"\x00" * 252 + b"ustar\x0000", "is no text but a tar archive"),
        (b"PAR1\x15\x04", "is no text but a Parquet file; use `type: parquet`"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_what_is_no_text_is_told_by_its_first_bytes(
    inline: None, tmp_path: Path, content: bytes, message: str, kind: str
):
    (tmp_path / "faq.xlsx").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(tmp_path, type=kind, path="faq.xlsx")


def test_an_archive_inside_an_archive_and_a_workbook_are_refused(inline: None, tmp_path: Path):
    write_zip(tmp_path / "in.zip", {"a.csv": CSV})
    write_zip(tmp_path / "out.zip", {"in.zip": (tmp_path / "in.zip").read_bytes()})
    with pytest.raises(UserError, match=r"is no text but a zip archive inside another"):
        read(tmp_path, type="csv", path="out.zip")
    write_zip(tmp_path / "book.xlsx", {"[Content_Types].xml": "<a/>", "xl/workbook.xml": "<a/>"})
    with pytest.raises(UserError, match=r"is a workbook of Excel; use `type: xlsx`"):
        read(tmp_path, type="csv", path="book.xlsx")


def test_hidden_files_are_said_and_empty_ones_named(inline: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "mac").mkdir()
    (tmp_path / "mac" / "faq.jsonl").write_bytes(JSONL)
    (tmp_path / "mac" / "zero.jsonl").write_bytes(b"")
    (tmp_path / "mac" / "._faq.jsonl").write_bytes(b"\x00\x05\x16\x07Mac OS X")
    artifact = read(tmp_path, type="jsonl", path="mac/*.jsonl")
    assert pairs(artifact) == [("How high?", "A metre")]
    printed = "".join(capsys.readouterr())
    assert "hidden files left out: mac/*.jsonl#._faq.jsonl" in printed
    assert "files without rows: mac/*.jsonl#zero.jsonl" in printed
    (tmp_path / "mac" / "faq.jsonl").unlink()
    (tmp_path / "mac" / "zero.jsonl").unlink()
    with pytest.raises(UserError, match="no file matches but hidden ones"):
        read(tmp_path, type="jsonl", path="mac/*.jsonl")
    (tmp_path / "mac" / "._faq.jsonl").write_bytes(JSONL)
    assert pairs(read(tmp_path, type="jsonl", path="mac/.*.jsonl")) == [("How high?", "A metre")]


def test_brackets_in_folders_that_exist(inline: None, tmp_path: Path):
    (tmp_path / "data [v2]" / "in (1)").mkdir(parents=True)
    (tmp_path / "data [v2]" / "in (1)" / "a[1].jsonl").write_bytes(JSONL)
    for path in ("data [v2]/in (1)/a[1].jsonl", "data [v2]/*/*.jsonl", "data [v2]/in (1)/*.jsonl"):
        assert pairs(read(tmp_path, type="jsonl", path=path)) == [("How high?", "A metre")]


def test_packed_files_under_any_name(inline: None, tmp_path: Path):
    (tmp_path / "x.JSONL.GZ").write_bytes(gzip.compress(JSONL))
    assert pairs(read(tmp_path, type="jsonl", path="x.JSONL.GZ")) == [("How high?", "A metre")]
