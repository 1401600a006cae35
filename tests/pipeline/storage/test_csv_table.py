"""Delimited tables: what their beginning says, and rows known by the byte where they begin."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.storage.csv_table import CsvTable, named_row

ROWS = [["1", "a"], ["2", 'two\nlines; and a "quote"'], ["3", "caf\u00e9"], ["4", "\u4e2d\r\n"]]


def text(rows: list[list[str]]) -> str:
    return "".join(";".join('"' + cell.replace('"', '""') + '"' for cell in row) + "\r\n" for row in rows)


@pytest.mark.parametrize(
    ("encoding", "given_encoding"),
    [("utf-8", None), ("utf-8-sig", None), ("utf-16", None), ("utf-16-le", "utf-16-le"), ("gb18030", "gb18030")],
)
def test_every_row_is_read_again_from_its_byte(tmp_path: Path, encoding: str, given_encoding: str | None):
    path = tmp_path / "a.csv"
    path.write_bytes(text([["id", "text"], *ROWS]).encode(encoding))
    table = CsvTable.open(str(path), encoding=given_encoding)
    assert (table.delimiter, table.names) == (";", ["id", "text"])
    rows = list(table.rows())
    assert [row.cells for row in rows] == ROWS
    for number, row in enumerate(rows):
        assert [again.cells for again in table.rows(row.offset)] == ROWS[number:]


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8)


@given(st.lists(st.lists(CELLS, min_size=2, max_size=2), max_size=8))
def test_offsets_are_those_of_the_file_for_any_text(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_bytes(text([["id", "text"], *rows]).encode())
    read = list(CsvTable.open(str(path), delimiter=";").rows())
    assert [row.cells for row in read] == rows
    data = path.read_bytes()
    assert [data[row.offset :].startswith(text([row.cells]).encode()) for row in read] == [True] * len(rows)


def test_line_ends_of_old_macs_are_row_ends(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"id,text\r1,a\r2,b\r")
    assert [(row.line, row.offset, row.cells) for row in CsvTable.open(str(path)).rows()] == [
        (2, 8, ["1", "a"]),
        (3, 12, ["2", "b"]),
    ]


def test_a_broken_row_says_what_is_wrong_and_the_next_is_read(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'id,text\n1,"a" b\n2,c\n')
    broken, sound = CsvTable.open(str(path)).rows()
    assert str(broken.cells).startswith("not CSV: ")
    assert (sound.line, sound.cells) == (3, ["2", "c"])


def test_without_quotes_a_range_yields_the_lines_that_start_in_it(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'id,text\n1,"a\n2,b"\n\n3,c')
    table = CsvTable.open(str(path))
    assert table.splits_by_bytes
    whole = [(row.offset, row.cells) for row in table.unquoted_rows()]
    assert whole == [(8, ["1", '"a']), (13, ["2", 'b"']), (19, ["3", "c"])]
    parts = [row for start, end in ((0, 9), (9, 14), (14, 22)) for row in table.unquoted_rows(start, end)]
    assert [(row.offset, row.cells) for row in parts] == whole


def test_columns_given_mean_that_there_is_no_header(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbf1,a\n2,b\n")
    table = CsvTable.open(str(path), columns=["id", "text"])
    assert [(row.offset, row.cells) for row in table.rows()] == [(3, ["1", "a"]), (7, ["2", "b"])]


def test_a_row_has_a_cell_for_each_name():
    assert named_row(["a", "b"], ["1", "2", ""]) == {"a": "1", "b": "2"}
    assert named_row(["a", "b"], ["1", "2", "3"]) == "3 columns, the header has 2"
    assert named_row(["a", "b"], ["1"]) == "1 columns, the header has 2"
    assert named_row(["a", "a"], ["1", "2"]) == {"a": "1"}
    assert "encoding" in str(named_row(["a"], ["\udcff"]))
