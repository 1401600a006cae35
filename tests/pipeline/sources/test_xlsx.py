"""Workbooks of Excel, row by row."""

import datetime
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.core.errors import UserError
from pipeline.sources.xlsx import Xlsx
from tests.support.corpora import records

openpyxl = pytest.importorskip("openpyxl")


def write(path: Path, *sheets: list[list[Any]]) -> None:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for number, rows in enumerate(sheets, 1):
        sheet = book.create_sheet(f"Sheet {number}")
        for row in rows:
            sheet.append(row)
    book.save(path)


def read(root: Path, **settings: Any) -> Any:
    return records(Xlsx.model_validate({"path": "f.xlsx", **settings}), root)


def test_rows_are_those_of_the_first_sheet(tmp_path: Path):
    rows: list[list[Any]] = [[], ["Question", "Answer", "id", None], ["How far?", "Two miles", 7.0, "note"]]
    rows += [[None, None, None], ["How tall?", 12, 8], ["Who?", None, 9], ["When?", datetime.date(2024, 5, 31), 10]]
    write(tmp_path / "f.xlsx", rows, [["question"], ["other"]])
    kinds, tally = read(tmp_path, kind="qa")
    assert [(row["id"], row["text"]) for row in kinds["queries"]] == [
        ("7", "How far?"),
        ("8", "How tall?"),
        ("10", "When?"),
    ]
    assert [row["text"] for row in kinds["documents"]] == ["Two miles", "12", "2024-05-31"]
    assert tally.counts["rows"] == 4 and tally.unused == {"empty_text": 1}
    assert tally.examples["empty_text"][0].endswith("answer is empty")


def test_a_named_sheet_and_fields(tmp_path: Path):
    write(tmp_path / "f.xlsx", [["x"], [1]], [["Titel", "Nr"], ["Red mug", 4]])
    kinds, _ = read(tmp_path, kind="product", sheet="Sheet 2", fields={"title": "Titel", "id": "Nr"})
    assert [(row["id"], row["text"]) for row in kinds["documents"]] == [("4", "Red mug")]
    with pytest.raises(UserError, match=r"f\.xlsx: has no sheet 'Prices'; it has Sheet 1, Sheet 2"):
        read(tmp_path, sheet="Prices")
    with pytest.raises(UserError, match=r"has no column 'Name' for title; it has x"):
        read(tmp_path, kind="product", fields={"title": "Name"})


@pytest.mark.parametrize("content", [b"question,answer\n", b"PK\x03\x04 and no more", b""])
def test_what_is_no_workbook_is_refused_in_one_line(tmp_path: Path, content: bytes):
    (tmp_path / "f.xlsx").write_bytes(content)
    with pytest.raises(
        UserError, match=r"f\.xlsx: is (no workbook of Excel|a zip archive by its first bytes)"
    ) as error:
        read(tmp_path)
    assert "\n" not in str(error.value)


HOSTILE = [b"", b"<", b"&a;", b"\xff", b"\x00", b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"9" * 400, b't="s"', b'r="ZZZZ9"']


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(part=st.integers(0, 20), place=st.floats(0, 1), length=st.integers(0, 30), piece=st.sampled_from(HOSTILE))
def test_broken_members_are_refused_in_one_line_or_read(
    part: int, place: float, length: int, piece: bytes, tmp_path: Path
):
    write(tmp_path / "good.xlsx", [["question", "answer"], ["How far?", "Two miles"], ["How tall?", 2.5]])
    with zipfile.ZipFile(tmp_path / "good.xlsx") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = sorted(members)[part % len(members)]
    at = int(place * len(members[name]))
    members[name] = members[name][:at] + piece + members[name][at + length :]
    with zipfile.ZipFile(tmp_path / "f.xlsx", "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    try:
        kinds, tally = read(tmp_path, kind="qa")
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert tally.counts["rows"] or not kinds
