"""An id that stands for two texts never joins a question with the answer of another row."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import UserError
from pipeline.storage.artifact import Artifact
from tests.support.corpora import build, inline, table, write_jsonl

__all__ = ["inline"]
TRAIN = {"train": 1, "dev": 0, "test": 0}
BILLING = [("bill", "How do I pay?", "By card."), ("bill", "Where is my invoice?", "In your account.")]
BILLING += [("parcel", "How long?", "Two days."), ("parcel", "Abroad?", "Only inside the EU.")]
RIGHT = sorted(row[1:] for row in BILLING)


def read(tmp_path: Path, *sources: dict[str, Any], **more: Any) -> Artifact:
    return build({"root": str(tmp_path), "sources": list(sources), "split": TRAIN, **more}, tmp_path / "run")


def pairs(artifact: Artifact) -> list[tuple[str, str]]:
    return sorted((row["anchor"], row["positive"]) for row in table(artifact, "pairs"))


def named(rows: list[tuple[str, str, str]], *names: str) -> list[dict[str, Any]]:
    return [dict(zip(names, row, strict=True)) for row in rows]


@pytest.mark.parametrize("buckets", [1, 3])
@pytest.mark.parametrize("kind", ["qa", "pair"])
def test_ids_of_pairs_that_repeat_are_made_from_the_texts(inline: None, tmp_path: Path, kind: str, buckets: int):
    columns = {"qa": ("id", "question", "answer"), "pair": ("query_id", "anchor", "positive")}[kind]
    write_jsonl(tmp_path / "faq.jsonl", named(BILLING, *columns))
    source = {"type": "jsonl", "path": "faq.jsonl", "kind": kind, "name": "faq"}
    artifact = read(tmp_path, source, buckets=buckets)
    assert pairs(artifact) == RIGHT
    assert artifact.manifest.notes["derived_ids"] == {"queries": ["faq"]} and not artifact.manifest.dropped
    without_ids = read(tmp_path, {**source, "fields": {"id": None}}, overwrite=True, buckets=buckets)
    assert table(without_ids, "qrels") == table(artifact, "qrels")
    with pytest.raises(UserError, match=r"query id 'bill' of source 'faq' has two texts: .*faq.jsonl:1 and .*:2"):
        read(tmp_path, {**source, "repeated_ids": "refuse"}, overwrite=True)


def test_ids_that_start_anew_in_every_file(inline: None, tmp_path: Path):
    expected = []
    for name in ("oil", "tyre"):
        rows = [{"id": n, "question": f"Which {name} {n}?", "answer": f"{name} grade {n}"} for n in range(3)]
        expected += [(row["question"], row["answer"]) for row in rows]
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    assert pairs(read(tmp_path, {"type": "jsonl", "path": "*.jsonl", "kind": "qa"})) == sorted(expected)
    two = [{"type": "jsonl", "path": f"{name}.jsonl", "kind": "qa", "name": name} for name in ("oil", "tyre")]
    artifact = read(tmp_path, *two, overwrite=True)
    assert pairs(artifact) == sorted(expected)
    assert artifact.manifest.notes["derived_ids"] == {"queries": ["oil", "tyre"]}


def test_ids_of_answers_that_repeat(inline: None, tmp_path: Path):
    rows = [{"question": f"Which {n}?", "answer": f"Answer {n}", "doc_id": n % 2} for n in range(4)]
    write_jsonl(tmp_path / "faq.jsonl", rows)
    artifact = read(tmp_path, {"type": "jsonl", "path": "faq.jsonl", "kind": "qa"})
    assert pairs(artifact) == [(f"Which {n}?", f"Answer {n}") for n in range(4)]
    assert artifact.manifest.notes["derived_ids"] == {"documents": ["jsonl"]}


def test_ids_inside_passages_that_repeat(inline: None, tmp_path: Path):
    rows = [
        {
            "query": f"socks {n}",
            "positive_passages": [{"docid": "1", "title": "", "text": f"Wool {n}"}],
            "negative_passages": [{"docid": "2", "title": "", "text": f"Belt {n}"}],
        }
        for n in range(2)
    ]
    write_jsonl(tmp_path / "t.jsonl", rows)
    artifact = read(tmp_path, {"type": "jsonl", "path": "t.jsonl", "kind": "pair"})
    assert pairs(artifact) == [("socks 0", "Wool 0"), ("socks 1", "Wool 1")]
    triplets = [(row["positive"], row["negatives"][0]["text"]) for row in table(artifact, "triplets")]
    assert sorted(triplets) == [("Wool 0", "Belt 0"), ("Wool 1", "Belt 1")]


@pytest.mark.parametrize("kind", ["csv", "parquet", "json", "huggingface"])
def test_every_format_makes_ids_from_the_texts(inline: None, tmp_path: Path, kind: str):
    rows = named(BILLING, "id", "question", "answer")
    if kind == "csv":
        lines = [",".join(row) for row in [("id", "question", "answer"), *BILLING]]
        (tmp_path / "f").write_text("\n".join(lines))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "f")
    elif kind == "json":
        (tmp_path / "f").write_text(pa.Table.from_pylist(rows).to_pandas().to_json(orient="records"))
    else:
        pytest.importorskip("datasets").Dataset.from_list(rows).save_to_disk(str(tmp_path / "f"))
    place = {"parquet": {"files": [{"path": "f", "kind": "qa"}]}, "huggingface": {"dataset": "f", "kind": "qa"}}
    assert pairs(read(tmp_path, {"type": kind, **place.get(kind, {"path": "f", "kind": "qa"})})) == RIGHT


def test_ids_of_rated_queries_that_repeat(inline: None, tmp_path: Path):
    write_jsonl(tmp_path / "goods.jsonl", [{"id": f"p{n}", "title": f"Chair {n}"} for n in range(2)])
    (tmp_path / "rated.csv").write_text("query_id,query,product_id,relevance\n1,oak seat,p0,2\n1,tall stool,p1,1\n")
    sources = [
        {"type": "jsonl", "path": "goods.jsonl", "kind": "product"},
        {"type": "csv", "path": "rated.csv", "kind": "rated"},
    ]
    assert pairs(read(tmp_path, *sources)) == [("oak seat", "Chair 0"), ("tall stool", "Chair 1")]


def test_ids_of_squad_questions_that_start_anew(inline: None, tmp_path: Path):
    import json

    for name in ("reef", "moon"):
        qas = [{"id": "1", "question": f"What is the {name}?", "answers": [{"text": name, "answer_start": 4}]}]
        paragraphs = [{"context": f"The {name} is large.", "qas": qas}]
        (tmp_path / f"{name}.json").write_text(json.dumps({"data": [{"title": name, "paragraphs": paragraphs}]}))
    artifact = read(tmp_path, {"type": "squad", "path": "*.json"})
    assert pairs(artifact) == [(f"What is the {n}?", f"{n}. The {n} is large.") for n in ("moon", "reef")]


def test_ids_that_other_rows_refer_to_are_refused(inline: None, tmp_path: Path):
    write_jsonl(tmp_path / "q.jsonl", [{"id": "1", "text": "oak seat"}, {"id": "1", "text": "tall stool"}])
    write_jsonl(tmp_path / "d.jsonl", [{"id": "p0", "text": "Chair 0"}, {"id": "p0", "text": "Chair 1"}])
    documents = {"type": "jsonl", "path": "d.jsonl", "kind": "document"}
    with pytest.raises(UserError, match=r"document id 'p0' .*d.jsonl:1 and .*d.jsonl:2; "):
        read(tmp_path, documents)
    with pytest.raises(UserError, match=r"query id '1' .*q.jsonl:1 and .*q.jsonl:2; .*`prefix`"):
        read(tmp_path, {"type": "jsonl", "path": "q.jsonl", "kind": "query"}, {**documents, "repeated_ids": "first"})
    write_jsonl(tmp_path / "faq.jsonl", [{"id": "1", "question": "What is it?", "answer": "A mug."}])
    write_jsonl(tmp_path / "q.jsonl", [{"id": "1", "text": "oak seat"}])
    with pytest.raises(UserError, match="one text in source 'faq' and another in 'q'"):
        read(
            tmp_path,
            {"type": "jsonl", "path": "faq.jsonl", "kind": "qa", "name": "faq"},
            {"type": "jsonl", "path": "q.jsonl", "kind": "query", "name": "q"},
        )


@pytest.mark.parametrize("side", ["id", "doc_id"])
def test_a_judgment_does_not_outlive_the_text_that_it_judged(inline: None, tmp_path: Path, side: str):
    rows = [{side: "1", "question": f"Which {n}?", "answer": f"Answer {n}", "negative": f"Wrong {n}"} for n in range(2)]
    write_jsonl(tmp_path / "faq.jsonl", rows)
    artifact = read(tmp_path, {"type": "jsonl", "path": "faq.jsonl", "kind": "qa", "repeated_ids": "first"})
    assert pairs(artifact) == [("Which 0?", "Answer 0")]
    triplets = [(row["anchor"], row["negatives"][0]["text"]) for row in table(artifact, "triplets")]
    assert triplets == [("Which 0?", "Wrong 0")]


def test_one_split_a_query_whose_id_was_a_topic(inline: None, tmp_path: Path):
    write_jsonl(tmp_path / "faq.jsonl", named(BILLING, "id", "question", "answer"))
    source = {"type": "jsonl", "path": "faq.jsonl", "kind": "qa", "fields": {"group": "id"}}
    artifact = read(tmp_path, source, split={"train": 0.5, "dev": 0, "test": 0.5})
    groups = {row["group_id"] for row in table(artifact, "pairs")}
    assert groups == {"bill", "parcel"} and len(pairs(artifact)) == 4
