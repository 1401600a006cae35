"""Files of rows that are text: found again from their middle, and what cannot be read is None."""

import gzip
import json
from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.storage import shards, text_files

CSV = '\ufeffid;title;text\n1;a;"two\nlines; and a ""quote"""\n2;b\n\n3;c;plain\n4;d;caf\u00e9\n'


def every(path: Path) -> list[text_files.Row]:
    return list(text_files.rows(str(path), next(text_files.offsets(str(path)), 0), 0))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("size", [1, 2, 100])
def test_a_table_is_read_from_any_row(tmp_path: Path, size: int, packed: bool):
    path = tmp_path / ("a.csv.gz" if packed else "a.csv")
    path.write_bytes(gzip.compress(CSV.encode()) if packed else CSV.encode())
    plan = shards.plan([str(path)], size, "")
    assert sum(shard.rows for shard in plan) == 4
    rows = [row for shard in plan for row in shards.read(shard, ["id", "text"]).to_pylist()]
    assert rows == [
        {"id": "1", "text": 'two\nlines; and a "quote"'},
        {"id": "3", "text": "plain"},
        {"id": "4", "text": "caf\u00e9"},
    ]


def test_rows_that_cannot_be_read_are_none_and_the_next_are_read(tmp_path: Path):
    lines = tmp_path / "a.jsonl"
    lines.write_bytes(b'{"id": 1}\nno json\n[1]\n\n{"text": "\\ud800"}\n{"text": "\xff"}\n{"id": 2}\n')
    assert every(lines) == [{"id": 1}, None, None, None, None, {"id": 2}]
    table = tmp_path / "a.tsv"
    table.write_bytes(b"id\ttext\n1\tx\n2\t\xff\n3\ty\tz\n4\tw\n")
    assert every(table) == [{"id": "1", "text": "x"}, None, None, {"id": "4", "text": "w"}]


def test_plain_lines_are_named_by_their_number(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("one\n\n  two \nthree\n")
    plan = shards.plan(shards.find_files(str(path)), 2, "")
    rows = [row for shard in plan for row in shards.read(shard, ["id", "text"]).to_pylist()]
    assert rows == [{"id": f"a.txt:{n}", "text": t} for n, t in ((1, "one"), (2, "two"), (3, "three"))]


def test_an_empty_table_and_a_missing_column_are_named(tmp_path: Path):
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(UserError, match=r"a\.csv: is empty"):
        list(text_files.offsets(str(tmp_path / "a.csv")))
    (tmp_path / "b.csv").write_text("key,text\n1,x\n")
    with pytest.raises(UserError, match="has no column 'id'; it has key, text"):
        shards.head(shards.plan([str(tmp_path / "b.csv")], 5, "")[0], ["id"])


def test_outputs_are_known_by_their_content_whatever_their_number(tmp_path: Path):
    for name in ("b", "c"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"id": f"{name}{n}"}) for n in range(4)))
    folder, files = str(tmp_path / "out"), [str(tmp_path / f"{name}.jsonl") for name in ("b", "c")]
    first = shards.plan(files, 2, "s", ["m1", "m2"])
    for shard in first:
        shards.commit(folder, shard.name, shards.read(shard, ["id"]), {})
    (tmp_path / "a.jsonl").write_text('{"id": "a"}')
    second = shards.plan([str(tmp_path / "a.jsonl"), *files], 2, "s", ["m0", "m1", "changed"])
    stale = shards.reuse_outputs(folder, second)
    assert [shards.committed(folder, one.name) is not None for one in second] == [False, True, True, False, False]
    assert [Path(path).stem for path in stale] == [one.name for one in first[2:]]


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_lines_in_utf_16_are_refused(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes('{"id": 1, "text": "tea"}\n'.encode("utf-16"))
    with pytest.raises(UserError, match="is UTF-16 or UTF-32 by its first bytes; save it as UTF-8"):
        shards.plan([str(tmp_path / name)], 10, "")


def test_a_list_among_texts_is_refused_in_one_line(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1, "text": "tea"}\n{"id": 2, "text": ["a", "b"]}\n')
    (shard,) = shards.plan([str(path)], 10, "")
    with pytest.raises(UserError, match="column 'text' mixes types"):
        shards.read(shard, ["id", "text"])
