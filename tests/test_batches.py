"""Global batches: the same for any number of ranks, every row once, no known positive as a negative."""

import numpy as np
import pyarrow as pa
import pytest

from training.batches import compose, deal, order, rows_from


def table(pairs, negatives=None):
    columns = {
        "anchor_id": [a for a, _ in pairs],
        "anchor": [f"question {a}" for a, _ in pairs],
        "positive_id": [p for _, p in pairs],
        "positive": [f"document {p}" for _, p in pairs],
    }
    if negatives is not None:
        columns["negatives"] = [[{"doc_id": n, "text": f"document {n}"} for n in row] for row in negatives]
    return pa.table(columns)


def siblings():
    """60 queries with three positives each, and a document that answers ten queries."""
    pairs = [(f"q{i}", f"d{i}-{j}") for i in range(60) for j in range(3)]
    return pairs + [(f"s{i}", "shared") for i in range(10)]


def test_every_row_is_placed_once_or_reported():
    rows = rows_from(table(siblings()), {})
    epoch = compose(rows, 16, seed=1, epoch=0)
    placed = np.concatenate([*epoch.batches, epoch.left_out])
    assert sorted(placed.tolist()) == list(range(len(rows)))
    assert all(len(batch) == 16 for batch in epoch.batches[:-1])


@pytest.mark.parametrize("epoch_number", [0, 1, 7])
def test_no_known_positive_is_a_negative_in_its_batch(epoch_number):
    pairs = siblings()
    negatives = [[f"d{(i + 7) % 60}-0", "other"] for i in range(len(pairs))]
    rows = rows_from(table(pairs, negatives), {"q3": ["d4-1"]})
    for batch in compose(rows, 16, seed=3, epoch=epoch_number).batches:
        for row in batch:
            known = set(rows.known[row][rows.known[row] >= 0].tolist())
            others = {int(rows.positive_id[other]) for other in batch if other != row}
            others |= {int(doc) for other in batch if other != row for doc in rows.negative_id[other]}
            assert not known & others


def test_a_document_with_the_anchors_own_text_is_no_negative_of_it():
    rows = rows_from(
        pa.table(
            {
                "anchor_id": ["title", "body"],
                "anchor": ["short", "long and clear"],
                "positive_id": ["its-body", "answer"],
                "positive": ["long and clear", "because"],
            }
        ),
        {},
    )
    assert set(rows.known[1]) == {rows.positive_id[0], rows.positive_id[1]}
    assert rows.positive_id[1] not in rows.known[0]
    assert [sorted(batch) for batch in compose(rows, 2, seed=0, epoch=0).batches] == []


def test_order_is_a_fresh_permutation_each_epoch_and_seed():
    rows = rows_from(table(siblings()), {})
    orders = [tuple(order(rows, seed, epoch)) for seed in (1, 2) for epoch in (0, 1)]
    assert len(set(orders)) == 4
    assert all(sorted(found) == list(range(len(rows))) for found in orders)
    assert orders[0] == tuple(order(rows, 1, 0))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_ranks_partition_the_batch_and_balance_its_cost(size):
    rng = np.random.default_rng(0)
    batch = rng.permutation(200)[:64]
    cost = rng.integers(10, 500, 200)
    parts = [deal(batch, cost, rank, size) for rank in range(size)]
    assert sorted(np.concatenate(parts).tolist()) == sorted(batch.tolist())
    sums = [int(cost[part].sum()) for part in parts]
    assert max(sums) <= 1.05 * np.mean(sums)


def test_too_few_rows_give_no_batch():
    rows = rows_from(table([("q", "a"), ("q", "b")]), {})
    epoch = compose(rows, 8, seed=0, epoch=0)
    assert epoch.batches == []
    assert sorted(epoch.left_out.tolist()) == [0, 1]


def of_sources(counts, mix):
    pairs = [(f"q{s}{i}", f"d{s}{i}") for s, count in counts.items() for i in range(count)]
    sources = [s for s, count in counts.items() for _ in range(count)]
    return rows_from(table(pairs).append_column("source", [sources]), {}, mix=mix), np.array(sources)


def test_sources_are_taken_as_often_as_asked():
    rows, sources = of_sources({"a": 400, "b": 400, "c": 400, "d": 50}, {"a": 0.25, "b": 1.5, "d": 0})
    seen = np.zeros(len(rows), dtype=int)
    for epoch_number in range(4):
        epoch = compose(rows, 32, seed=5, epoch=epoch_number)
        placed = np.concatenate([*epoch.batches, epoch.left_out])
        assert np.array_equal(np.sort(placed), np.sort(order(rows, 5, epoch_number)))
        assert all(len(set(batch.tolist())) == len(batch) for batch in epoch.batches)
        found = {name: int((sources[placed] == name).sum()) for name in "abcd"}
        assert abs(found["a"] - 100) < 40 and abs(found["b"] - 600) < 50 and (found["c"], found["d"]) == (400, 0)
        np.add.at(seen, placed, 1)
    assert {name: set(seen[sources == name].tolist()) for name in "abcd"} == {"a": {1}, "b": {6}, "c": {4}, "d": {0}}
    again = [batch.tolist() for batch in compose(rows, 32, seed=5, epoch=3).batches]
    assert again == [batch.tolist() for batch in epoch.batches]


def test_a_mix_of_ones_is_no_mix():
    mixed, _ = of_sources({"a": 70, "b": 30}, {"a": 1.0})
    plain, _ = of_sources({"a": 70, "b": 30}, None)
    assert plain.share is None
    for epoch_number in range(3):
        assert np.array_equal(order(mixed, 1, epoch_number), order(plain, 1, epoch_number))


def test_rows_without_a_weight_count_one():
    pairs = table([("q", "d"), ("r", "e")])
    assert rows_from(pairs.append_column("weight", pa.array([0.3, None])), {}).weight.tolist() == [0.3, 1.0]
    assert rows_from(pairs.append_column("weight", pa.nulls(2, pa.float32())), {}).weight is None
