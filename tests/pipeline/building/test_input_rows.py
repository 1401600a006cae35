"""The balance of the input: each row of a file is used, or not used for one reason."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.building.config import BuildConfig
from pipeline.building.input_rows import MAX_FILES, FileRows, rows_by_file, table, unread_columns
from pipeline.building.read import TextLimits, clean
from pipeline.core.errors import UserError
from pipeline.sources.jsonl import JsonLines
from pipeline.sources.reading.record import SCHEMAS
from pipeline.storage.artifact import Artifact
from pipeline.storage.counts import Counts
from tests.support.corpora import SAMPLE, build, inline, sample_recipe, write_jsonl
from tests.support.shared_sets import SHARED_SETS, recipe

__all__ = ["inline"]
TRAIN = {"train": 1, "dev": 0, "test": 0}
SEVERAL_ORDERS = ("shopify", "squad")  # a product of several rows is one record, a paragraph and its questions several


def balance(artifact: Artifact) -> dict[str, tuple[int, int, dict[str, int]]]:
    """Rows read, used and not used of each file; they must add up."""
    files = {}
    for row in artifact.manifest.notes["input_rows"]:
        assert row["read"] == row["used"] + sum(row["unused"].values()) and row["used"] >= 0
        assert all(count > 0 for count in row["unused"].values())
        files[row["file"]] = (row["read"], row["used"], row["unused"])
    return files


def csv_source(tmp_path: Path, text: str, **more: Any) -> dict[str, Any]:
    (tmp_path / "t.csv").write_text(text)
    return {"root": str(tmp_path), "sources": [{"type": "csv", "path": "t.csv", **more}], "split": TRAIN}


def test_a_row_with_an_empty_side_is_one_row_and_leaves_nothing(
    inline: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = "question,answer\nwhat is tea,a drink\nwhat is mud,  \n \u00a0,water and earth\n\u200b,\u200b\n"
    artifact = build(csv_source(tmp_path, rows, kind="qa") | {"max_bad_share": 1}, tmp_path / "run")
    assert artifact.rows("corpus") == artifact.rows("queries") == artifact.rows("pairs") == 1
    ((read, used, unused),) = balance(artifact).values()
    assert (read, used, sum(unused.values())) == (4, 1, 3)
    assert artifact.manifest.notes["records_dropped"] == {}  # nothing but the rows themselves was left out
    lines = [line for line in capsys.readouterr().err.splitlines() if "t.csv" in line]
    assert lines[0].split()[1:6] == ["csv", "t.csv", "4", "1", "3"]


def test_an_empty_answer_among_others_costs_no_row(inline: None, tmp_path: Path):
    write_jsonl(tmp_path / "a.jsonl", [{"question": "what is tea", "answers": ["a drink", "\u200b", "a plant"]}])
    source = {"type": "jsonl", "path": "a.jsonl", "kind": "qa"}
    artifact = build({"root": str(tmp_path), "sources": [source], "split": TRAIN}, tmp_path / "run")
    assert balance(artifact) == {"a.jsonl": (1, 1, {})} and artifact.rows("pairs") == 2
    assert artifact.manifest.dropped == artifact.manifest.notes["records_dropped"] == {"empty_text": 1}


def test_records_stand_apart_from_rows(inline: None, tmp_path: Path):
    """Duplicates and judgments without a document are no rows that were lost."""
    write_jsonl(tmp_path / "d.jsonl", [{"id": "1", "text": "a mug"}, {"id": "2", "text": "A  mug"}, {"id": "3"}])
    write_jsonl(tmp_path / "r.jsonl", [{"query": "mug", "doc_id": name, "relevance": 1} for name in "129"])
    sources = [{"type": "jsonl", "path": "d.jsonl"}, {"type": "jsonl", "path": "r.jsonl", "kind": "rated"}]
    artifact = build({"root": str(tmp_path), "sources": sources, "split": TRAIN}, tmp_path / "run")
    assert balance(artifact) == {"d.jsonl": (3, 2, {"missing_field": 1}), "r.jsonl": (3, 3, {})}
    left_out = {"duplicate_document": 1, "duplicate_judgment": 1, "judgment_without_document": 1}
    assert artifact.manifest.notes["records_dropped"] == left_out
    assert artifact.manifest.dropped == left_out | {"missing_field": 1}


def test_judgments_that_match_nothing_are_refused_with_both_spellings(inline: None, tmp_path: Path):
    write_jsonl(tmp_path / "d.jsonl", [{"id": str(n), "text": f"mug {n}"} for n in range(1, 4)])
    (tmp_path / "r.csv").write_text("query,doc_id,relevance\nred mug,1.0,1\nblue mug,2.0,1\n")
    sources = [{"type": "jsonl", "path": "d.jsonl"}, {"type": "csv", "path": "r.csv", "kind": "rated"}]
    with pytest.raises(UserError, match=r"source csv: none of its 2 judgments finds a document: .*'1.0', .*'1';"):
        build({"root": str(tmp_path), "sources": sources, "split": TRAIN}, tmp_path / "run")


def test_the_sample_balances_whatever_the_cut(inline: None, tmp_path: Path):
    whole = balance(build(sample_recipe(), tmp_path / "a"))
    assert whole == balance(build(sample_recipe(block_bytes=2000, buckets=3), tmp_path / "b"))
    assert whole["Posts.xml"][0] == sum(b"<row" in line for line in (SAMPLE / "Posts.xml").read_bytes().splitlines())


blank = st.sampled_from(["", " ", "\u200b", "x"])
side = st.one_of(blank, st.text(max_size=4), st.none(), st.lists(blank, max_size=3))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.fixed_dictionaries({"question": side, "answer": side}), max_size=12), size=st.integers(9, 99))
def test_used_rows_are_those_of_which_something_is_staged(rows: list[dict[str, Any]], size: int, tmp_path: Path):
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source, total, used = JsonLines(path="q.jsonl", kind="qa"), Counts(), Counter[int]()
    for block in source.blocks(str(tmp_path), 0, size):
        for parsed in source.parse(block):
            tables = clean(parsed, TextLimits(2, 99))
            used.update(order for kind in tables for order in tables[kind]["order"].to_pylist())
            judged = {
                row["order"]: row for row in tables.get("judgments", SCHEMAS["judgments"].empty_table()).to_pylist()
            }
            for kind, column in (("queries", "query_id"), ("documents", "doc_id")):
                stated = {(row["order"], row["id"]) for row in tables[kind].to_pylist()} if kind in tables else set()
                assert all((order, row[column]) in stated for order, row in judged.items())
            total.add(parsed.tally)
    assert total.counts["rows"] == len(rows) == len(used) + total.unused.total()
    assert all(count <= total.dropped[reason] for reason, count in total.unused.items())


def test_many_files_are_one_line_of_the_table():
    files = [FileRows("a", f"part-{number}", f"/a/{number}", 10, Counter(bad=1)) for number in range(MAX_FILES + 1)]
    lines = table([*files, FileRows("b", "one", "/b", 1234)])
    assert [line.split() for line in lines[1:]] == [
        ["a", "11", "files", "110", "99", "11", "bad"],
        ["b", "one", "1,234", "1,234", "-"],
    ]
    assert lines[0].index("used") + len("used") == lines[1].index("99") + len("99")  # numbers end below each other


def test_columns_that_nothing_is_read_from_are_named_once():
    files = [FileRows("a", "x", "x", unread_columns={"b", "c"}), FileRows("a", "y", "y", unread_columns={"c"})]
    assert unread_columns([*files, FileRows("z", "z", "z")]) == {"a": ["b", "c"]}


@pytest.mark.parametrize("name", SHARED_SETS)
def test_shared_sets_balance(name: str, shared_data: Path):
    config = BuildConfig.model_validate({**recipe(name, shared_data), "run": "unused"})
    blocks = [b for n, source in enumerate(config.sources) for b in source.blocks(config.root, n, 1 << 20)]
    tallies, orders = [], defaultdict(set)
    for block in blocks:
        tally = Counts()
        for parsed in config.sources[block.source].parse(block):
            for rows in clean(parsed, TextLimits(2, 20_000)).values():
                orders[block.path].update(rows["order"].to_pylist())
            tally.add(parsed.tally)
        tallies.append(tally)
    files = rows_by_file(config, blocks, tallies)
    assert {file.path for file in files} == {block.path for block in blocks}
    for file in files:
        assert file.read == file.used + file.unused.total() and file.used > 0
        assert "without_record" not in file.unused  # whatever is not used has a reason of its own
        if name not in SEVERAL_ORDERS:
            assert file.used == len(orders[file.path])
