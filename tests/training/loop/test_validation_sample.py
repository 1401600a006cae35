"""The validation sample: the same from a stream as from all of the data, and from a file as drawn."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.storage import artifact
from pipeline.storage.artifact import Artifact
from pipeline.text.normalize import stable_id
from tests.pipeline.evaluation.test_job import rows
from training.loop import validation_sample
from training.loop.validation import RetrievalValidation, ValidationConfig, sample_corpus
from training.loop.validation_sample import load_validation, open_validation, save_validation, take_rows


def make(folder, seed: int) -> Artifact:
    """A corpus in three files; some queries without judgments, some documents that are queries or are missing."""
    draw = random.Random(seed)
    docs = [{"doc_id": f"d{n}", "text": f"text {n}"} for n in range(120)]
    queries = [{"query_id": f"q{n}", "text": f"query {n}", "split": draw.choice(["dev", "train"])} for n in range(60)]
    for row in queries[::7]:
        docs.append({"doc_id": row["query_id"], "text": row["text"].upper()})
    share = draw.choice([0.1, 0.5, 0.9])
    qrels = [
        {
            "query_id": row["query_id"],
            "doc_id": doc["doc_id"],
            "relevance": draw.choice([0, 1, 2]),
            "split": row["split"],
        }
        for row in queries
        if draw.random() < share
        for doc in [*draw.sample(docs, draw.randint(1, 4)), {"doc_id": "gone"}]
    ]
    draft = artifact.begin(str(folder), "build", {}, {}, overwrite=False)
    for part in range(3):
        draft.write("corpus", rows("corpus", docs[part::3]), part)
        draft.write("queries", rows("queries", queries[part::3]), part)
    draft.write("qrels", rows("qrels", qrels or [{"query_id": "q0", "doc_id": "gone", "split": "dev", "relevance": 1}]))
    return draft.finish(["corpus", "queries", "qrels"])


def from_all(data: Artifact, config: ValidationConfig) -> RetrievalValidation:
    """The sample of everything, held in memory."""
    queries = [row for row in data.read("queries").to_pylist() if row["split"] == config.split]
    texts = {row["query_id"]: row["text"] for row in queries}
    documents = {row["doc_id"]: row["text"] for row in data.read("corpus").to_pylist()}
    judgments: dict[str, dict[str, int]] = {}
    for row in data.read("qrels").to_pylist():
        if row["split"] == config.split:
            judgments.setdefault(row["query_id"], {})[row["doc_id"]] = row["relevance"] or 0
    order = {name: stable_id(name) for name in (*texts, *documents)}
    bounds = {"max_queries": config.max_queries, "max_documents": config.max_documents}
    return sample_corpus(texts, documents, judgments, **bounds, order=order)


def same(found: RetrievalValidation | None, expected: RetrievalValidation) -> bool:
    if found is None:
        return not expected.queries
    pairs = zip(found.barred, expected.barred, strict=True)
    fields = ("queries", "documents", "judgments", "note")
    equal = all(
        list(getattr(found, name).items() if name != "note" else found.note)
        == list(getattr(expected, name).items() if name != "note" else expected.note)
        for name in fields
    )
    return equal and all(np.array_equal(*pair) for pair in pairs)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 3, 10, 100]), st.sampled_from([10, 30, 500]))
def test_a_stream_gives_the_sample_of_everything(tmp_path_factory, seed: int, max_queries: int, max_documents: int):
    data = make(tmp_path_factory.mktemp("data") / "data", seed)
    config = ValidationConfig(max_queries=max_queries, max_documents=max_documents)
    assert same(load_validation(data, config), from_all(data, config))


def test_the_file_of_a_run_is_the_sample_and_is_drawn_once(tmp_path, monkeypatch: pytest.MonkeyPatch):
    data, config, log = make(tmp_path / "data", 3), ValidationConfig(max_queries=5, max_documents=30), str(tmp_path)
    expected = from_all(data, config)
    save_validation(log, data, config)
    other = ValidationConfig(max_queries=4, max_documents=30)
    assert same(open_validation(log, data, other), from_all(data, other)), "a file of other settings is not used"
    monkeypatch.setattr(validation_sample, "load_validation", None)
    save_validation(log, data, config)
    assert same(open_validation(log, data, config), expected)


def test_row_groups_without_a_row_are_not_read(tmp_path):
    data = make(tmp_path / "data", 3)
    table = take_rows(data.files("corpus"), np.array([0, 50, 120]), ["doc_id"])
    assert table["doc_id"].to_pylist() == [data.read("corpus")["doc_id"][row].as_py() for row in (0, 50, 120)]
