"""Every row trains, and what is known to be relevant to a query is never its negative, however much of it there is."""

from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.core.errors import UserError
from tests.support.rows import table, token_table, use_small_buckets
from training.data import relevance, rows_artifact
from training.data.batching import Ragged
from training.data.epoch import EpochSettings
from training.data.epoch_composer import compose_epoch
from training.data.epoch_reader import EpochFeed, InMemoryEpochs
from training.data.relevance import add_relevant, query_index, relevant_table
from training.data.rows import Rows, rows_from
from training.losses.false_negatives import MaskConfig, document_mask, query_mask
from training.losses.loss import GATHERED, Batch

TOKENS = lambda texts, role: [[1]] * len(texts)  # noqa: E731
SIZE = 64


def planted(per_query: int, rows: int = 1200) -> tuple[Rows, dict[str, set[str]]]:
    """Rows of queries with so many relevant documents each, some of them shared, and what is relevant to each query.

    Every document is the positive of one row; a third of the relevant documents of a query are those of the next one
    too; negatives are documents of other queries, so that some of them are relevant to yet other rows.
    """
    rng = np.random.default_rng(per_query)
    count = max(rows, per_query + rows // 2)
    pairs = [(f"q{n // per_query}", f"d{n}") for n in range(count)]
    relevant: dict[str, set[str]] = {}
    for query, doc in pairs:
        relevant.setdefault(query, set()).add(doc)
    for query, after in pairwise(relevant):
        relevant[query] |= set(sorted(relevant[after])[: -(-per_query // 3)])
    chosen = [[f"d{n}" for n in rng.integers(0, count, 2)] for _ in pairs]
    negatives = [
        [doc for doc in docs if doc not in relevant[query]] for (query, _), docs in zip(pairs, chosen, strict=True)
    ]
    judged = {query: sorted(docs) for query, docs in relevant.items()}
    return rows_from(table(pairs, negatives), judged), relevant


def batches_of(rows: Rows, size: int) -> list[tuple[list[int], Batch]]:
    """Rows and gathered batch of every step of an epoch, with vectors of nothing."""
    feed = EpochFeed(InMemoryEpochs(rows, TOKENS, EpochSettings(size, 1)))
    batches = []
    for _, ref in feed.plan(0, feed.steps):
        ranked = feed.rank_rows(ref, 0, 1)
        ids = {name: torch.from_numpy(values) for name, values in ranked.columns.items()}
        count, negatives = len(ranked.rows), len(ids["negative.row"])
        batch = Batch(
            torch.zeros(count, 1), torch.zeros(count, 1), torch.zeros(negatives, 1), ids["negative.row"],
            slice(0, count), slice(0, negatives), **{GATHERED[name]: ids[name] for name in ids if name in GATHERED},
        )  # fmt: skip
        batches.append((ranked.rows.tolist(), batch))
    return batches


def expected_masks(rows: Rows, relevant: dict[str, set[str]], numbers: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Documents that may be no negatives of each row, and queries that may be none of its positive, by brute force."""
    query = [rows.anchors[row].removeprefix("question ") for row in numbers]
    positive = [rows.positives[row].removeprefix("document ") for row in numbers]
    negative = [text.removeprefix("document ") for row in numbers for text in rows.negatives[row]]
    documents = np.array([[doc in relevant[q] for doc in positive + negative] for q in query])
    queries = np.array([[doc in relevant[q] for q in query] for doc in positive])
    for mask in (documents, queries):
        np.fill_diagonal(mask, False)
    return documents, queries


@pytest.mark.parametrize("per_query", [1, 64, 100, 5000])
def test_every_known_positive_is_masked_and_nothing_else(per_query):
    rows, relevant = planted(per_query)
    batches, seen = batches_of(rows, SIZE), []
    for numbers, batch in batches:
        documents, queries = expected_masks(rows, relevant, numbers)
        assert np.array_equal(document_mask(batch, MaskConfig()).numpy(), documents)
        assert np.array_equal(query_mask(batch, MaskConfig()).numpy(), queries)
        seen += numbers
    assert sorted(seen) == list(range(len(rows))), "every row trains once"


@pytest.fixture
def many_buckets(monkeypatch):
    use_small_buckets(monkeypatch)
    monkeypatch.setattr(relevance, "AT_ONCE", 50)


@pytest.mark.usefixtures("many_buckets")
def test_what_is_relevant_reaches_every_bucket_of_every_level():
    rows, relevant = planted(20, 1500)
    rows_of_batches = batches_of(rows, 16)
    for numbers, batch in rows_of_batches:
        documents, queries = expected_masks(rows, relevant, numbers)
        assert np.array_equal(document_mask(batch, MaskConfig()).numpy(), documents)
        assert np.array_equal(query_mask(batch, MaskConfig()).numpy(), queries)
    assert sum(len(numbers) for numbers, _ in rows_of_batches) >= 0.99 * len(rows)


def faq(questions: int, answers: int) -> Rows:
    """Questions of a FAQ with few answers, each answer as often as any."""
    return rows_from(table([(f"q{n}", f"a{n % answers}") for n in range(questions)]), {})


def zipf(questions: int, answers: int) -> Rows:
    """Questions whose answers are as frequent as words are."""
    drawn = np.random.default_rng(0).zipf(1.3, 5 * questions) - 1
    return rows_from(table([(f"q{n}", f"a{a}") for n, a in enumerate(drawn[drawn < answers][:questions])]), {})


def judged(queries: int, products: int) -> Rows:
    """Queries with many right products each, a row a product."""
    return rows_from(table([(f"q{q}", f"d{q}-{p}") for q, p in product(range(queries), range(products))]), {})


@pytest.mark.parametrize("size", [64, 256, 512])
@pytest.mark.parametrize(
    "rows", [faq(400, 20), zipf(10_000, 500), judged(480, 32)], ids=["faq", "zipf", "judged products"]
)
def test_every_row_trains_where_answers_repeat(rows, size):
    seen = [row for numbers, _ in batches_of(rows, size) for row in numbers]
    assert len(seen) == len(set(seen)) >= len(rows) - max(2, size // 4)
    if len(rows) > size:
        assert len(seen) >= 0.98 * len(rows)


def test_rows_that_know_each_other_are_kept_apart_where_others_are_enough():
    rows = judged(480, 32)
    together = [torch.triu(query_mask(batch, MaskConfig()), 1).sum().item() for _, batch in batches_of(rows, 64)]
    assert sum(together[:-8]) == 0


def test_an_answer_of_a_third_of_all_questions_is_spread_evenly():
    pairs = [(f"q{n}", "common" if n % 3 == 0 else f"a{n}") for n in range(3000)]
    rows = rows_from(table(pairs), {})
    shares = [
        np.mean([rows.positives[row] == "document common" for row in numbers]) for numbers, _ in batches_of(rows, 64)
    ]
    assert max(shares[:-1]) < 0.45


def test_rows_without_a_batch_are_told_and_too_many_refused(tmp_path, capsys):
    with pytest.raises(UserError, match=r"training rows: 3 are too few for a batch of 16"):
        compose_epoch(_written(faq(3, 3), tmp_path / "few"), EpochSettings(16, 1), 0, str(tmp_path / "a"))
    compose_epoch(_written(faq(67, 67), tmp_path / "some"), EpochSettings(64, 1), 0, str(tmp_path / "b"))
    assert "in no batch" not in capsys.readouterr().err, "three of 67 rows"
    compose_epoch(_written(faq(79, 79), tmp_path / "more"), EpochSettings(64, 1), 0, str(tmp_path / "c"))
    message = (
        "train: warning: 15 of 79 training rows (19%) are in no batch of 64 (short_batch 15); lower loop.batch_size"
    )
    output = capsys.readouterr()
    assert message in output.err + output.out


def test_most_rows_without_a_batch_are_refused(tmp_path):
    alone = [(f"q{n}", f"a{n}") for n in range(64)]
    sources = ["big"] * 16 + [f"s{n // 3}" for n in range(48)]
    rows = rows_from(table(alone).append_column("source", [sources]), {})
    split = replace(rows, stream=rows.source)
    message = r"48 of 64 training rows \(75%\) are in no batch of 16 \(short_batch 48\); lower loop\.batch_size"
    with pytest.raises(UserError, match=message):
        compose_epoch(_written(split, tmp_path / "rows"), EpochSettings(16, 1), 0, str(tmp_path / "epoch"))


def _written(rows: Rows, path):
    return rows_artifact.write_rows(str(path), {}, {}, rows_artifact.tokenise_in_pieces(rows, TOKENS))


def test_a_document_with_the_anchors_own_text_is_no_negative_of_it():
    texts = pa.table(
        {
            "anchor_id": ["title", "body"],
            "anchor": ["short", "long and clear"],
            "positive_id": ["its-body", "answer"],
            "positive": ["long and clear", "because"],
        }
    )
    ((numbers, batch),) = batches_of(rows_from(texts, {}), 2)
    body = numbers.index(1)
    expected = torch.zeros(2, 2, dtype=torch.bool)
    expected[body, 1 - body] = True
    assert torch.equal(document_mask(batch, MaskConfig()), expected)


def test_rows_of_a_query_share_one_list_and_a_batch_holds_its_own_documents_alone():
    rows, _ = planted(100, 400)
    assert len({id(documents) for documents in rows.relevant_id}) == len(set(rows.query_id.tolist())) == 4
    relevant = relevant_table(rows)
    assert len(relevant) == 4 and all(len(documents) >= 100 for documents in relevant["relevant_id"].to_pylist())
    batch = token_table(rows).take([0, 1, 100, 399])
    query = query_index(relevant, batch["query_id"].to_numpy())
    lists = add_relevant(batch, np.zeros(4, np.int64), relevant, query)["relevant_id"].to_pylist()
    present = {*batch["positive_id"].to_pylist(), *(one["id"] for row in batch["negatives"].to_pylist() for one in row)}
    for row, documents in zip([0, 1, 100, 399], lists, strict=True):
        assert documents == sorted(present & set(rows.relevant_id[row].tolist()))


def test_ragged_lists_are_taken_in_any_order():
    lists = Ragged.from_lists([np.array([1, 2]), np.array([], np.int64), np.array([3])])
    taken = lists.take(np.array([2, 0, 1, 0]))
    assert taken.values.tolist() == [3, 1, 2, 1, 2] and taken.counts.tolist() == [1, 2, 0, 2]
