"""A line or an item that does not end is one row that cannot be used, and never held in memory whole."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.building.config import BuildConfig
from pipeline.core.errors import UserError
from pipeline.sources import google_merchant, squad
from pipeline.sources import json as json_source
from pipeline.sources.beir import Beir
from pipeline.sources.csv import Csv
from pipeline.sources.debian import Debian
from pipeline.sources.ditto import Ditto
from pipeline.sources.google_merchant import GoogleMerchant
from pipeline.sources.json import Json
from pipeline.sources.jsonl import JsonLines
from pipeline.sources.msmarco import MsMarco
from pipeline.sources.stackexchange import StackExchange
from pipeline.storage import lines
from pipeline.storage.counts import Counts
from tests.support.corpora import build, inline, table

__all__ = ["inline"]
LIMIT = 300
QA = [json.dumps({"question": f"Which {n}?", "answer": f"Answer {n}"}) for n in range(4)]
POST = '<row Id="{}" PostTypeId="1" Title="How {}?" />'
FORMATS: dict[str, tuple[Any, list[str], str]] = {  # source, good rows, and what makes a long row of it
    "jsonl": (JsonLines(path="f", kind="qa"), QA, '{"question": "%s", "answer": "a"}'),
    "csv": (Csv(path="f", kind="qa", quotes=False, columns=["question", "answer"]), ["q 1,a 1", "q 2,a 2"], "%s,b"),
    "msmarco": (MsMarco(path="f"), ["a b\tc d\te f", "g h\ti j\tk l"], "a\tb\t%s"),
    "ditto": (Ditto(path="f"), ["COL a VAL b\tCOL a VAL c\t1"], "COL a VAL %s\tCOL a VAL c\t1"),
    "debian": (Debian(path="f"), ["Package: a\nDescription: b\n", "Package: c\nDescription: d\n"], "Package: %s\n"),
    "stackexchange": (StackExchange(path="f"), ["<posts>", POST.format(1, 1)], '<row Id="2" Body="%s" />'),
}


def read(source: Any, root: Path, limit: int = LIMIT, block_bytes: int = 1 << 20) -> tuple[int, Counts]:
    from dataclasses import replace

    total, count = Counts(), 0
    for block in source.blocks(str(root), 0, block_bytes):
        for parsed in source.parse(replace(block, max_line_bytes=limit)):
            count += parsed.size
            total.add(parsed.tally)
    return count, total


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_a_long_line_is_one_row_and_the_rest_is_read(tmp_path: Path, name: str, packed: bool):
    source, good, long = FORMATS[name]

    def write(rows: list[str]) -> None:
        raw = "\n".join(rows).encode()
        (tmp_path / "f").write_bytes(gzip.compress(raw) if packed else raw)

    write(good)
    wanted, tally = read(source, tmp_path)
    assert wanted and not tally.dropped
    write([*good[:1], long % ("x" * 5000), *good[1:]])
    found, tally = read(source, tmp_path)
    assert found == wanted and tally.unused.total() == 1
    assert "a line of more than 300 bytes; see `max_line_bytes`" in tally.offenders[0][2]
    write([*good, long % ("x" * 5000)])
    assert read(source, tmp_path)[0] == wanted
    if not packed and name != "debian":
        for size in (7, 100, 4000):
            assert read(source, tmp_path, block_bytes=size)[0] == wanted


def test_a_quoted_table_and_qrels(tmp_path: Path):
    (tmp_path / "f").write_text("question,answer\nq 1,a 1\nq 2," + "x" * 5000 + "\nq 3,a 3\n")
    found, tally = read(Csv(path="f", kind="qa", longest_cell=100), tmp_path)
    assert found == 6 and tally.unused == {"unreadable_row": 1}
    assert "a line of more than 402 characters; see `longest_cell`" in tally.offenders[0][2]
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n1\t" + "2" * 5000 + "\t1\n1\t3\t1\n")
    found, tally = read(Beir(path="."), tmp_path)
    assert found == 1 and tally.unused == {"line_too_long": 1}


def test_lines_in_pieces_are_those_one_by_one(tmp_path: Path):
    written = [b"a" * n for n in (1, 50, 0, 400, 20, 301, 299, 3, 1000)]
    (tmp_path / "f").write_bytes(b"\n".join(written))
    path = str(tmp_path / "f")
    for size in (1, 10, 256, 5000):
        pieces = list(lines.read_pieces(path, 0, -1, size, LIMIT))
        found = [(at, raw) for piece in pieces if piece.too_long is None for _, (at, raw) in piece.rows()]
        found += [(piece.offset, piece.too_long) for piece in pieces if piece.too_long is not None]
        assert sorted(found) == sorted(lines.read_lines(path, max_line_bytes=LIMIT))
    kept = [raw for _, raw in lines.read_lines(path, max_line_bytes=LIMIT) if not isinstance(raw, lines.LongLine)]
    assert kept == [line for line in written if len(line) < LIMIT]


def test_a_packed_line_without_end_is_not_unpacked_into_memory(tmp_path: Path):
    import tracemalloc

    with gzip.open(tmp_path / "f", "wb", compresslevel=1) as file:
        file.write(QA[0].encode() + b'\n{"question": "')
        for _ in range(100):
            file.write(b"x" * (1 << 20))
        file.write(b'"}\n' + QA[1].encode())
    tracemalloc.start()
    found, tally = read(JsonLines(path="f", kind="qa"), tmp_path, limit=1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == 6 and tally.unused == {"line_too_long": 1} and peak < 60 << 20


def test_the_setting_of_a_build(inline: None, tmp_path: Path):
    rows = [QA[0], json.dumps({"question": "Long?", "answer": "x" * 500}), QA[1]]
    (tmp_path / "f.jsonl").write_text("\n".join(rows))
    recipe = {"root": str(tmp_path), "sources": [{"type": "jsonl", "path": "f.jsonl", "kind": "qa"}]}
    artifact = build({**recipe, "max_line_bytes": 200, "split": {"train": 1, "dev": 0, "test": 0}}, tmp_path / "run")
    assert [row["anchor"] for row in table(artifact, "pairs")] == ["Which 0?", "Which 1?"]
    assert artifact.manifest.notes["input_rows"][0]["unused"] == {"line_too_long": 1}
    assert BuildConfig.model_validate({**recipe, "run": "r"}).max_line_bytes == 64 << 20
    with pytest.raises(UserError, match=r"3 of 3 rows cannot be used"):
        build({**recipe, "max_line_bytes": 40}, tmp_path / "other")


ITEM = "<item><id>{n}</id><title>Mug {n}</title><link>l</link><description>Holds tea</description></item>"


def test_an_item_without_end_is_one_row_and_others_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(google_merchant, "MAX_ELEMENTS", 50)
    noise, long = "<a><b>c</b></a>" * 200, "<item>" + "<x>y</x>" * 60 + "</item>"
    (tmp_path / "f").write_text(f"<rss><channel>{noise}{ITEM.format(n=1)}{long}{ITEM.format(n=2)}</channel></rss>")
    source = GoogleMerchant(path="f")
    found, tally = read(source, tmp_path)
    assert found == 2 and tally.unused == {"unreadable_row": 1}
    assert "an item of more than 50 elements" in tally.offenders[0][2]


def test_documents_that_unpack_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(json_source, "MAX_DOCUMENT_BYTES", 1000)
    monkeypatch.setattr(squad, "MAX_ARTICLE_CHARS", 1000)
    (tmp_path / "f").write_bytes(gzip.compress(b'[{"question": "' + b"x" * 5000))
    with pytest.raises(UserError, match="unpacks to more than"):
        read(Json(path="f", kind="qa"), tmp_path)
    (tmp_path / "f").write_bytes(gzip.compress(b'{"data": [{"title": "' + b"x" * 5000))
    with pytest.raises(UserError, match="an article is broken or has over 1,000 characters"):
        read(squad.Squad(path="f"), tmp_path)
