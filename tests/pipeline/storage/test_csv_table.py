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


def cells_of(tmp_path: Path, content: str, **settings: str) -> list[list[str] | str]:
    (tmp_path / "a.csv").write_bytes(content.encode())
    table = CsvTable.open(str(tmp_path / "a.csv"), **settings)
    return [table.names, *(row.cells for row in table.rows())]


@pytest.mark.parametrize(
    "first", ["sep=;\n", 'sep=";"\n'.replace('"', ""), '"sep=;"\r\n', "SEP=;\r\n", "\ufeffsep=;\n"]
)
def test_a_first_line_that_names_the_delimiter(tmp_path: Path, first: str):
    content = first + "a, b;c\n1, 2;3, 4, 5\n"
    assert cells_of(tmp_path, content) == [["a, b", "c"], ["1, 2", "3, 4, 5"]]
    table = CsvTable.open(str(tmp_path / "a.csv"))
    (row,) = table.rows()
    assert row.line == 3 and (tmp_path / "a.csv").read_bytes()[row.offset :].startswith(b"1, 2")
    assert [(line.offset, line.cells) for line in table.unquoted_rows()] == [(row.offset, row.cells)]


@pytest.mark.parametrize(
    ("content", "delimiter"),
    [
        ("Question (short, plain);Answer (long, plain)\nHow much, roughly?;Ten, or eleven\nWhen?;Now\n", ";"),
        ("Question, asked;Answer\nHow much, roughly?;Ten\nWhen, please?;Now\n", ";"),
        ("a|b;c\tquestion, answer\n1\t2\n3\t4\n", "\t"),
        ("a,b\n1,2\n", ","),
        ("a, b\n1, 2\n", ","),
        ("text\nOne, two, three.\nFour; five.\n", ","),
        ('"a;b",c\n"1;2",3\n', ","),
        ("a;b\n1,5;2,5\n3,5;4,5\n", ";"),
    ],
)
def test_the_delimiter_is_told_by_the_lines(tmp_path: Path, content: str, delimiter: str):
    (tmp_path / "a.csv").write_text(content)
    assert CsvTable.open(str(tmp_path / "a.csv")).delimiter == delimiter


def test_a_quote_that_opens_no_cell_costs_its_own_line(tmp_path: Path):
    content = (
        'q\ta\n"Fits 24 inch racks?\tYes\nHow tall?\tTwo metres\nWhich?\tRed "wine"\nHeavy?\tNo\n"Open\tend\nx\ty\n'
    )
    names, first, *rows, last, end = cells_of(tmp_path, content)
    assert names == ["q", "a"] and str(first).startswith("not CSV") and str(last).startswith("not CSV")
    assert rows == [["How tall?", "Two metres"], ["Which?", 'Red "wine"'], ["Heavy?", "No"]] and end == ["x", "y"]


def test_a_quote_in_a_file_with_tabs_joins_no_rows_that_look_sound(tmp_path: Path):
    content = 'q\ta\n"Fits 24\tYes\nHow tall?\tAbout 12"\n'
    _, first, second = cells_of(tmp_path, content)
    assert str(first).startswith("not CSV") and second == ["How tall?", 'About 12"']
    sound = 'q\ta\n"one\nline"\t"two\nlines"\n'
    assert cells_of(tmp_path, sound)[1:] == [["one\nline", "two\nlines"]]


def test_cells_over_lines_stay_whole_and_broken_ones_name_their_lines(tmp_path: Path):
    content = 'q,a\n"Hello, my\nquestion, this","yes, it\nis"\n"a" b,"c\nd, e, f\ng",1\nlast,row\n'
    _, whole, *rest = cells_of(tmp_path, content)
    assert whole == ["Hello, my\nquestion, this", "yes, it\nis"] and rest[-1] == ["last", "row"]
    content = 'q,a\n"one\ntwo and three\nfour" five,x\nlast,row\n'
    (tmp_path / "a.csv").write_text(content)
    broken, last = CsvTable.open(str(tmp_path / "a.csv")).rows()
    assert (broken.line, broken.lines, str(broken.cells)[:7]) == (2, 3, "not CSV") and last.cells == ["last", "row"]


def test_quotes_escaped_by_a_backslash(tmp_path: Path):
    content = '"id","text"\n"1","What does \\"hub\\" mean?"\n"2",\\N\n\\N,"a\\\nb"\n'
    assert cells_of(tmp_path, content, escape="\\")[1:] == [
        ["1", 'What does "hub" mean?'],
        ["2", "\\N"],
        ["\\N", "a\nb"],
    ]
    assert "say `escape:" in str(cells_of(tmp_path, content)[1])


def test_a_long_cell_is_read_and_one_beyond_the_limit_is_a_row_by_itself(tmp_path: Path):
    long = "x" * 300_000
    content = f'a,b\n1,"{long}"\n2,y\n'
    assert cells_of(tmp_path, content)[1:] == [["1", long], ["2", "y"]]
    (first, _) = CsvTable.open(str(tmp_path / "a.csv")).rows(longest_cell=100_000)
    assert "field larger than field limit (100000)" in str(first.cells)
    first, second = CsvTable.open(str(tmp_path / "a.csv")).rows(longest_cell=1000)
    assert "a line of more than 4,002 characters; see `longest_cell`" in str(first.cells) and second.cells == ["2", "y"]
