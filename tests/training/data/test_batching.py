"""Global batches: the same for any number of ranks, every row once, no known positive as a negative."""

import numpy as np
import pyarrow as pa
import pytest

from tests.support.rows import siblings, table
from training.data.batching import Ragged, RowKeys, assign_slots, compose_batches, epoch_order, select_negatives
from training.data.rows import rows_from


def keys_of(rows, index) -> RowKeys:
    documents = [np.array([rows.positive_id[row], *rows.negative_id[row]]) for row in index]
    return RowKeys(Ragged.from_lists(documents), Ragged.from_lists([rows.relevant_id[row] for row in index]))


def composed(rows, size, seed, epoch):
    """Batches of row numbers, and those without one."""
    index = epoch_order(np.arange(len(rows)), rows.share, seed, epoch)
    found = compose_batches(keys_of(rows, index), size)
    return [index[batch] for batch in found.batches], index[found.left_out]


def one_by_one(rows, index, size):
    """The same batches by the plain rule: each row in turn, the waiting ones first, if it is no false negative."""
    batches, waiting, fresh = [], [], list(index)
    while True:
        batch, documents, relevant, still = [], set(), set(), []
        while len(batch) < size and (waiting or fresh):
            row = (waiting or fresh).pop(0)
            mine = {int(rows.positive_id[row]), *rows.negative_id[row].tolist()}
            known = set(rows.relevant_id[row].tolist()) - {-1}
            if mine & relevant or known & documents:
                still.append(row)
            else:
                batch.append(row)
                documents |= mine
                relevant |= known
        waiting = still + waiting
        if len(batch) < size:
            return batches + ([batch] if len(batch) >= max(2, size // 4) else [])
        batches.append(batch)


@pytest.mark.parametrize("size", [4, 16, 50])
def test_whole_runs_are_taken_as_if_row_by_row(size):
    pairs = siblings() + [(f"lone{i}", f"alone{i}") for i in range(300)]
    negatives = [[f"d{(i * 7) % 60}-0", f"n{i % 40}"] if i % 9 == 0 else [] for i in range(len(pairs))]
    rows = rows_from(table(pairs, negatives), {"q3": ["d4-1"], "lone7": ["alone8", "n3"]})
    for epoch in range(3):
        index = epoch_order(np.arange(len(rows)), None, 1, epoch)
        assert not keys_of(rows, index).conflicting().all() and keys_of(rows, index).conflicting().any()
        found, _ = composed(rows, size, 1, epoch)
        assert [batch.tolist() for batch in found] == one_by_one(rows, index, size)


def test_every_row_is_placed_once_or_reported():
    rows = rows_from(table(siblings()), {})
    batches, left = composed(rows, 16, 1, 0)
    assert sorted(np.concatenate([*batches, left]).tolist()) == list(range(len(rows)))
    assert all(len(batch) == 16 for batch in batches[:-1])


@pytest.mark.parametrize("epoch_number", [0, 1, 7])
def test_no_known_positive_is_a_negative_in_its_batch(epoch_number):
    pairs = siblings()
    negatives = [[f"d{(i + 7) % 60}-0", "other"] for i in range(len(pairs))]
    rows = rows_from(table(pairs, negatives), {"q3": ["d4-1"]})
    for batch in composed(rows, 16, 3, epoch_number)[0]:
        for row in batch:
            known = set(rows.relevant_id[row][rows.relevant_id[row] >= 0].tolist())
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
    assert set(rows.relevant_id[1]) == {rows.positive_id[0], rows.positive_id[1]}
    assert rows.positive_id[1] not in rows.relevant_id[0]
    assert composed(rows, 2, 0, 0)[0] == []


def test_order_is_a_fresh_permutation_each_epoch_and_seed():
    rows = np.arange(190)
    orders = [tuple(epoch_order(rows, None, seed, epoch)) for seed in (1, 2) for epoch in (0, 1)]
    assert len(set(orders)) == 4
    assert all(sorted(found) == list(range(len(rows))) for found in orders)
    assert orders[0] == tuple(epoch_order(rows, None, 1, 0))


@pytest.mark.parametrize("slots", [12, 24, 5])
def test_slots_partition_the_batch_and_balance_its_cost_for_any_ranks(slots):
    rng = np.random.default_rng(0)
    cost = np.exp(rng.normal(4, 0.7, (40, 64))).clip(4, 256).astype(np.int64)
    slot = assign_slots(cost, slots)
    assert slot.shape == cost.shape and set(np.unique(slot)) == set(range(slots))
    for ranks in (one for one in (1, 2, 3, 4, 5) if slots % one == 0):
        sums = np.stack([np.where(slot % ranks == rank, cost, 0).sum(axis=1) for rank in range(ranks)])
        assert (sums.max(axis=0) <= 1.05 * sums.mean(axis=0)).all()


def test_too_few_rows_give_no_batch():
    batches, left = composed(rows_from(table([("q", "a"), ("q", "b")]), {}), 8, 0, 0)
    assert batches == []
    assert sorted(left.tolist()) == [0, 1]


def of_sources(counts, mix):
    pairs = [(f"q{s}{i}", f"d{s}{i}") for s, count in counts.items() for i in range(count)]
    sources = [s for s, count in counts.items() for _ in range(count)]
    return rows_from(table(pairs).append_column("source", [sources]), {}, mix=mix), np.array(sources)


def test_sources_are_taken_as_often_as_asked():
    rows, sources = of_sources({"a": 400, "b": 400, "c": 400, "d": 50}, {"a": 0.25, "b": 1.5, "d": 0})
    seen = np.zeros(len(rows), dtype=int)
    for epoch_number in range(4):
        batches, left = composed(rows, 32, 5, epoch_number)
        placed = np.concatenate([*batches, left])
        assert np.array_equal(np.sort(placed), np.sort(epoch_order(np.arange(len(rows)), rows.share, 5, epoch_number)))
        assert all(len(set(batch.tolist())) == len(batch) for batch in batches)
        found = {name: int((sources[placed] == name).sum()) for name in "abcd"}
        assert abs(found["a"] - 100) < 40 and abs(found["b"] - 600) < 50 and (found["c"], found["d"]) == (400, 0)
        np.add.at(seen, placed, 1)
    assert {name: set(seen[sources == name].tolist()) for name in "abcd"} == {"a": {1}, "b": {6}, "c": {4}, "d": {0}}
    again = [batch.tolist() for batch in composed(rows, 32, 5, 3)[0]]
    assert again == [batch.tolist() for batch in batches]


def test_a_mix_of_ones_is_no_mix():
    mixed, _ = of_sources({"a": 70, "b": 30}, {"a": 1.0})
    plain, _ = of_sources({"a": 70, "b": 30}, None)
    assert plain.share is None
    for epoch_number in range(3):
        one, other = (epoch_order(np.arange(100), rows.share, 1, epoch_number) for rows in (mixed, plain))
        assert np.array_equal(one, other)


def test_negatives_are_fresh_each_epoch_and_all_have_their_turn():
    counts = np.array([0, 5, 2, 1, 9])
    rows = np.array([3, 14, 15, 92, 65])
    seen = np.zeros(17, dtype=int)
    for epoch in range(40):
        mask = select_negatives(rows, counts, 2, 7, epoch)
        assert np.array_equal(mask, select_negatives(rows, counts, 2, 7, epoch))
        assert [int(part.sum()) for part in np.split(mask, np.cumsum(counts)[:-1])] == [0, 2, 2, 1, 2]
        alone = select_negatives(rows[4:], counts[4:], 2, 7, epoch)
        assert np.array_equal(alone, mask[8:]), "a row's draw depends on its neighbours"
        seen += mask
    assert seen.min() > 0 and len(set(map(int, seen[8:]))) > 1


def test_rows_without_a_weight_count_one():
    pairs = table([("q", "d"), ("r", "e")])
    assert rows_from(pairs.append_column("weight", pa.array([0.3, None])), {}).weight.tolist() == [0.3, 1.0]
    assert rows_from(pairs.append_column("weight", pa.nulls(2, pa.float32())), {}).weight is None
