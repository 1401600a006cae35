"""Questions that share an answer share a split, whatever the buckets; other questions keep the split that they had."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipeline.building.answer_groups import merge
from pipeline.storage.artifact import Artifact
from tests.support.corpora import build, inline, table, write_jsonl

__all__ = ["inline"]
HALVES = {"train": 0.4, "dev": 0.3, "test": 0.3}
TABLES = ("corpus", "queries", "qrels", "pairs", "triplets")
Row = dict[str, Any]


def faq(tmp_path: Path, rows: list[Row], run: str = "run", split: Row | None = None, **more: Any) -> Artifact:
    write_jsonl(tmp_path / "faq.jsonl", rows)
    fields = {"group": "topic", "split": "part"}
    source = {"type": "jsonl", "path": "faq.jsonl", "kind": "qa", "fields": fields}
    recipe = {"root": str(tmp_path), "sources": [source], "split": {**HALVES, **(split or {})}, **more}
    return build(recipe, tmp_path / run)


def of_queries(artifact: Artifact, column: str = "split") -> dict[str, str]:
    """Split of each question, or another column."""
    if column == "split":
        return {row["text"]: row["split"] for row in table(artifact, "queries")}
    return {row["anchor"]: row[column] for row in table(artifact, "pairs")}


def components(edges: list[tuple[str, str]]) -> dict[str, set[str]]:
    """The connected component of each node."""
    component: dict[str, set[str]] = {}
    for left, right in edges:
        merged = component.get(left, {left}) | component.get(right, {right})
        component.update(dict.fromkeys(merged, merged))
    return component


questions = st.fixed_dictionaries(
    {
        "question": st.integers(0, 30).map("question {}".format),
        "answers": st.lists(st.integers(0, 20).map("Answer {}".format), min_size=1, max_size=3),
        "topic": st.sampled_from([None, None, None, "t1", "t2"]),
        "part": st.sampled_from([None] * 8 + ["train", "test"]),
    }
)


@settings(
    max_examples=40,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(rows=st.lists(questions, min_size=1, max_size=25, unique_by=lambda row: row["question"]), named=st.booleans())
def test_random_faqs(inline: None, tmp_path_factory: pytest.TempPathFactory, rows: list[Row], named: bool):
    path = tmp_path_factory.mktemp("f")
    if named:  # ids beside the texts: one answer has several of them
        rows = [row | {"id": f"q{n}"} for n, row in enumerate(rows)]
        rows = [
            row | {"answers": row["answers"][0].upper(), "doc_id": str(n)} if n % 2 else row
            for n, row in enumerate(rows)
        ]
    one, three = faq(path, rows, "one"), faq(path, rows, "three", buckets=3, block_bytes=200)
    apart = faq(path, rows, "apart", {"by_answer": False})
    for name in TABLES:
        assert table(one, name) == table(three, name)
        assert len(table(one, name)) == len(table(apart, name))
    assert one.manifest.notes["counts"] == three.manifest.notes["counts"]
    edges, askers = [], defaultdict(set)
    stated = {row["question"] for row in rows if row["topic"]}
    forced = {row["question"]: row["part"] for row in rows if row["part"]}
    for row in rows:
        for answer in [row["answers"]] if isinstance(row["answers"], str) else row["answers"]:
            askers[answer.upper()].add(row["question"])
            edges += [(row["question"], answer.upper())] if row["question"] not in stated else []
    component, split, before = components(edges), of_queries(one), of_queries(apart)
    group, group_before = of_queries(one, "group_id"), of_queries(apart, "group_id")
    for question in split:
        same = component.get(question, {question}) & set(split)
        assert len({group[other] for other in same}) == 1
        assert len({split[other] for other in same - set(forced)}) <= 1
        if len(same) == 1:
            assert (split[question], group[question]) == (before[question], group_before[question])
        assert split[question] == forced.get(question, split[question])
    shared = [asking for asking in askers.values() if len(asking) > 1]
    counts = one.manifest.notes["counts"]
    if shared:
        assert counts["shared_answers"] == len(shared)
        several = [sum(len({found[q] for q in asking}) > 1 for asking in shared) for found in (before, split)]
        assert counts.get("shared_answers_in_several_splits_by_question", 0) == several[0]
        assert counts.get("shared_answers_in_several_splits", 0) == several[1]
    else:
        assert "shared_answers" not in counts and table(one, "pairs") == table(apart, "pairs")


def wordings(count: int) -> list[Row]:
    return [{"question": f"{word} question {n}", "answer": f"reply {n}"} for n in range(count) for word in ("a", "the")]


def test_the_output_says_how_many_answers_would_stand_in_two_splits(
    inline: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    counts = faq(tmp_path, wordings(30)).manifest.notes["counts"]
    apart = counts["shared_answers_in_several_splits_by_question"]
    assert counts["shared_answers"] == 30 and 5 < apart < 30 and "shared_answers_in_several_splits" not in counts
    said = capsys.readouterr().err
    assert f"30 answers have several questions, which share a split; {apart} of them would stand in two splits" in said
    assert "`split.by_answer: false`" in said and "one group of" not in said
    counts = faq(tmp_path, wordings(30), "apart", {"by_answer": False}).manifest.notes["counts"]
    assert counts["shared_answers_in_several_splits"] == apart
    assert f"{apart} of them stand in two splits or more (`split.by_answer: true`" in capsys.readouterr().err


def test_questions_of_a_named_group_follow_it_alone(inline: None, tmp_path: Path):
    """Questions about products: many have "Yes." for an answer, and each belongs to its product."""
    rows = [{"question": f"does {n} fit", "answer": "Yes.", "topic": f"p{n}"} for n in range(30)]
    artifact = faq(tmp_path, rows)
    assert set(of_queries(artifact).values()) == {"train", "dev", "test"}
    assert {row["group_id"] for row in table(artifact, "pairs")} == {f"p{n}" for n in range(30)}
    assert artifact.manifest.notes["counts"]["shared_answers_in_several_splits"] == 1


def test_splits_that_a_source_states_stay_and_are_said(
    inline: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = [row | {"part": ("train", "test")[n % 2]} for n, row in enumerate(wordings(4))]
    artifact = faq(tmp_path, rows)
    assert of_queries(artifact) == {row["question"]: row["part"] for row in rows}
    assert "4 still do, by splits or groups that the sources state" in capsys.readouterr().err


@pytest.mark.parametrize("buckets", [1, 3])
def test_one_answer_for_nearly_all_is_said_with_the_mend(
    inline: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], buckets: int
):
    rows = [{"question": f"question {n}", "answer": "See our site." if n < 40 else f"reply {n}"} for n in range(60)]
    artifact = faq(tmp_path, rows, buckets=buckets)
    assert artifact.manifest.notes["counts"]["questions_of_largest_answer_group"] == 40
    said = capsys.readouterr().err
    forced = faq(tmp_path, [row | {"part": "train"} for row in rows], "forced", buckets=buckets)
    assert "questions_of_largest_answer_group" not in forced.manifest.notes["counts"]  # they are where the source says
    assert "one group of" not in capsys.readouterr().err
    assert "one group of 40 of 60 queries shares answers and therefore a split; 40 have 'See our site.'" in said
    assert "`null_values`" in said and "`split.by_answer: false`" in said


def test_a_product_that_is_right_for_many_queries_links_none(inline: None, tmp_path: Path):
    """Judgments of a catalogue say nothing of wordings: a popular product would join all queries."""
    write_jsonl(tmp_path / "p.jsonl", [{"id": "p", "title": "mug", "description": "of clay"}])
    write_jsonl(tmp_path / "j.jsonl", [{"query": f"mug {n}", "doc_id": "p", "relevance": 1} for n in range(30)])
    sources = [
        {"type": "jsonl", "path": "p.jsonl", "kind": "product"},
        {"type": "jsonl", "path": "j.jsonl", "kind": "rated"},
    ]
    artifact = build({"root": str(tmp_path), "sources": sources, "split": HALVES}, tmp_path / "run")
    assert set(of_queries(artifact).values()) == {"train", "dev", "test"}
    assert "shared_answers" not in artifact.manifest.notes["counts"]


@pytest.mark.parametrize("file", ["rows.jsonl", "rows.parquet"])
def test_pairs_link_queries_and_graded_pairs_do_not(inline: None, tmp_path: Path, file: str):
    """A pair with a grade is a judgment: a product that is right for a query to some degree is so for many."""
    rows = [{"anchor": f"mug {n}", "positive": "a mug of clay"} for n in range(30)]
    for grade, splits in ((None, 1), (2, 3)):
        graded = [row | ({"relevance": grade} if grade else {}) for row in rows]
        if file.endswith("parquet"):
            pq.write_table(pa.Table.from_pylist(graded), tmp_path / file)
            source: Row = {"type": "parquet", "files": [{"path": file, "kind": "pair"}]}
        else:
            write_jsonl(tmp_path / file, graded)
            source = {"type": "jsonl", "path": file, "kind": "pair"}
        artifact = build({"root": str(tmp_path), "sources": [source], "split": HALVES}, tmp_path / f"run-{grade}")
        assert len(set(of_queries(artifact).values())) == splits


@pytest.mark.parametrize("buckets", [1, 3])
def test_answers_and_near_duplicates_link_together(inline: None, tmp_path: Path, buckets: int):
    """Questions are near duplicates of one another, and each shares an answer with a question of other words."""
    filler = "what is the way to change the address of an order that was paid for and"
    rows = [
        {"question": f"{filler} number{n} {word}", "answer": f"reply {n} {word}"} for n in range(6) for word in "xy"
    ]
    rows += [{"question": f"other words {n}", "answer": f"reply {n} x"} for n in range(6)]
    artifact = faq(tmp_path, rows, split={"by": "cluster"}, near_duplicates={"threshold": 0.5}, buckets=buckets)
    split = of_queries(artifact)
    by_filler = {text: found for text, found in split.items() if text.startswith(filler)}
    assert len(set(split.values())) == len(set(by_filler.values())) == 1


def test_groups_merge_transitively_and_are_named_after_the_smallest():
    answers, groups = np.array([11, 11, 12, 12, 13], np.uint64), np.array([9, 5, 5, 7, 2], np.uint64)
    merged = merge(answers, groups).to_pylist()
    assert {row["group"]: row["merged_group"] for row in merged} == {5: 5, 7: 5, 9: 5}  # 2 is linked to no other
