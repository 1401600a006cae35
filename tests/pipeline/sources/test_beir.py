"""BEIR folders with compressed files and with qrels as tables, JSON lines or Parquet."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.sources.beir import Beir
from tests.support.corpora import records

QRELS = [{"query-id": "q1", "corpus-id": "d1", "score": 2}, {"query-id": "q1", "corpus-id": "d2", "score": 0}]


def write_qrels(folder: Path, form: str) -> None:
    folder.mkdir()
    text = "\n".join(map(json.dumps, QRELS))
    table = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\n"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(QRELS), folder / "test.parquet")
    elif form == "jsonl":
        (folder / "test.jsonl").write_text(text)
    else:
        (folder / "test.tsv.gz").write_bytes(gzip.compress(table.encode()))


@pytest.mark.parametrize("form", ["tsv", "jsonl", "parquet"])
def test_forms(form: str, tmp_path: Path):
    documents = [{"_id": "d1", "title": "Reef", "text": "Long"}, {"_id": "d2", "title": "", "text": "Short"}]
    packed = gzip.compress("\n".join(map(json.dumps, documents)).encode())
    (tmp_path / "corpus.jsonl.gz").write_bytes(packed)
    (tmp_path / "queries.jsonl.gz").write_bytes(gzip.compress(b'{"_id": "q1", "text": "How long?"}\n'))
    write_qrels(tmp_path / "qrels", form)
    kinds, tally = records(Beir(path="."), tmp_path)
    assert [(row["id"], row["text"]) for row in kinds["documents"]] == [("d1", "Reef. Long"), ("d2", "Short")]
    assert [(row["id"], row["text"]) for row in kinds["queries"]] == [("q1", "How long?")]
    assert [(r["query_id"], r["doc_id"], r["relevance"], r["split"]) for r in kinds["judgments"]] == [
        ("q1", "d1", 2, "test"),
        ("q1", "d2", 0, "test"),
    ]
    assert tally.counts["rows"] == 5 and not tally.dropped
