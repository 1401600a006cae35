"""Lists and objects that a cell or a string holds as text: named, and read where the recipe says so."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import UserError
from tests.pipeline.sources.test_cases import pairs, read
from tests.support.corpora import inline, table, write_jsonl

__all__ = ["inline"]
SQUAD = "{'text': ['300 km', '300 km long'], 'answer_start': [12, 12]}"
LIST = '["At nine.", "At ten on Sundays."]'


def source(tmp_path: Path, form: str, rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A source of kind qa with the same rows in a format."""
    import csv

    more = {"kind": "qa", **more}
    if form == "jsonl":
        write_jsonl(tmp_path / "a.jsonl", rows)
    elif form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
        return {"type": "parquet", "files": [{"path": "a.parquet", **more}]}
    else:
        with (tmp_path / "a.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return {"type": form, "path": f"a.{form}", **more}


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_list_written_as_text_is_no_text_until_the_recipe_says_what_it_is(inline: None, tmp_path: Path, form: str):
    rows = [
        {"question": "When open?", "answer": LIST},
        {"question": "Which page?", "answer": "[1, 2]"},
        {"question": "How to close?", "answer": "[see] the door"},
        {"question": "What is left?", "answer": "[]"},
    ]
    with pytest.raises(UserError, match=r"holds a list of texts, written as one text; `decode: \[answer\]` reads it"):
        read(tmp_path, source(tmp_path, form, rows[:1]))
    plain = [("How to close?", "[see] the door"), ("Which page?", "[1, 2]")]
    artifact = read(tmp_path, source(tmp_path, form, rows), max_bad_share=1.0)
    assert pairs(artifact) == plain
    assert artifact.manifest.dropped == {"unreadable_row": 1, "empty_text": 1}
    artifact = read(tmp_path, source(tmp_path, form, rows, decode=[]), max_bad_share=1.0, overwrite=True)
    assert pairs(artifact) == sorted([*plain, ("When open?", LIST)])
    artifact = read(tmp_path, source(tmp_path, form, rows[:1], decode=["answer"]), overwrite=True)
    assert pairs(artifact) == [("When open?", "At nine."), ("When open?", "At ten on Sundays.")]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_an_object_written_as_text_is_read_by_the_field_inside_it(inline: None, tmp_path: Path, form: str):
    rows = [{"question": "How long?", "answers": SQUAD}, {"question": "Who?", "answers": '{"text": ["Bob"]}'}]
    with pytest.raises(UserError, match=r"an object with text, .*as `fields: \{positive: answers.text\}`"):
        read(tmp_path, source(tmp_path, form, rows))
    artifact = read(tmp_path, source(tmp_path, form, rows, fields={"positive": "answers.text"}))
    assert pairs(artifact) == [("How long?", "300 km"), ("How long?", "300 km long"), ("Who?", "Bob")]


def test_an_object_as_numpy_prints_it_is_named(inline: None, tmp_path: Path):
    rows = [{"question": "How wide?", "answers": "{'text': array(['3 km'], dtype=object)}"}]
    for fields in ({}, {"positive": "answers.text"}):
        with pytest.raises(UserError, match=r"as NumPy prints it"):
            read(tmp_path, source(tmp_path, "csv", rows, fields=fields))


def test_negatives_and_documents_written_as_lists(inline: None, tmp_path: Path):
    rows = [{"query": "tea", "positive": "a drink", "negative": '["mud", "sand"]'}]
    with pytest.raises(UserError, match=r"`decode: \[negative\]` reads it"):
        read(tmp_path, source(tmp_path, "csv", rows, kind="pair"))
    artifact = read(tmp_path, source(tmp_path, "csv", rows, kind="pair", decode=["negative"]))
    (given,) = [[item["text"] for item in row["negatives"]] for row in table(artifact, "triplets")]
    assert given == ["mud", "sand"]
    with pytest.raises(UserError, match=r"text holds a list of texts"):
        read(tmp_path, source(tmp_path, "jsonl", [{"id": "1", "text": LIST}], kind="document"), overwrite=True)
