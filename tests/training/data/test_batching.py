"""Global batches: the same for any number of ranks, every row once, rows that know each other apart."""

import numpy as np
import pyarrow as pa
import pytest

from tests.support.rows import siblings, table
from training.data.batching import Ragged, RowKeys, assign_slots, compose_batches, epoch_order, select_negatives
from training.data.rows import rows_from


def keys_of(rows, index) -> RowKeys:
    documents = [np.array([rows.positive_id[row], *rows.negative_id[row]]) for row in index]
    _, first, query = np.unique(rows.query_id[index], return_index=True, return_inverse=True)
    relevant = [rows.relevant_id[index[row]] for row in first]
    return RowKeys(Ragged.from_lists(documents), query, Ragged.from_lists(relevant))


def composed(rows, size, seed, epoch):
    """Batches of row numbers, and those without one."""
    index = epoch_order(np.arange(len(rows)), rows.share, seed, epoch)
    found = compose_batches(keys_of(rows, index), size)
    return [index[batch] for batch in found.batches], index[found.left_out]


def one_by_one(rows, index, size):
    """Batches by the plain rule: each row in turn, the deferred first, if it is no false negative; while rows last."""
    batches, deferred, fresh = [], [], list(index)
    while fresh:
        batch, documents, relevant, still = [], set(), set(), []
        while len(batch) < size and (deferred or fresh):
            row = (deferred or fresh).pop(0)
            own = {int(rows.positive_id[row]), *rows.negative_id[row].tolist()}
            known = set(rows.relevant_id[row].tolist())
            if own & relevant or known & documents:
                still.append(row)
            else:
                batch.append(row)
                documents |= own
                relevant |= known
        deferred = still + deferred
        batches.append(batch)
    return batches[:-1]


def sparse_rows():
    """Rows of which some know each other: siblings, shared documents, judgments, negatives of others."""
    pairs = siblings() + [(f"lone{i}", f"alone{i}") for i in range(300)]
    negatives = [[f"d{(i * 7) % 60}-0", f"n{i % 40}"] if i % 9 == 0 else [] for i in range(len(pairs))]
    return rows_from(table(pairs, negatives), {"q3": ["d4-1"], "lone7": ["alone8", "n3"]})


@pytest.mark.parametrize("size", [4, 16, 50])
def test_batches_follow_the_plain_rule_while_rows_last(size):
    rows = sparse_rows()
    for epoch in range(3):
        index = epoch_order(np.arange(len(rows)), None, 1, epoch)
        batches, _ = composed(rows, size, 1, epoch)
        plain = one_by_one(rows, index, size)
        assert len(plain) >= len(index) // size - 3
        assert [batch.tolist() for batch in batches[: len(plain)]] == plain


@pytest.mark.parametrize("size", [4, 16, 50])
def test_whole_runs_are_taken_as_if_row_by_row(size, monkeypatch):
    rows = sparse_rows()
    index = [epoch_order(np.arange(len(rows)), None, 1, epoch) for epoch in range(3)]
    conflicting = keys_of(rows, index[0]).shared().conflicting()
    assert conflicting.any() and not conflicting.all()
    runs = [[batch.tolist() for batch in composed(rows, size, 1, epoch)[0]] for epoch in range(3)]
    monkeypatch.setattr(RowKeys, "conflicting", lambda keys: np.ones(len(keys), dtype=bool))
    assert runs == [[batch.tolist() for batch in composed(rows, size, 1, epoch)[0]] for epoch in range(3)]


def test_every_row_is_placed_once_or_reported():
    rows = rows_from(table(siblings()), {})
    batches, left = composed(rows, 16, 1, 0)
    assert sorted(np.concatenate([*batches, left]).tolist()) == list(range(len(rows)))
    assert all(len(batch) == 16 for batch in batches[:-1])


def pairs_in_conflict(rows, batches) -> int:
    """Pairs of rows of one batch of which one brings a document that is relevant to the other's query."""
    count = 0
    for batch in batches:
        brought = [{int(rows.positive_id[row]), *rows.negative_id[row].tolist()} for row in batch]
        known = [set(rows.relevant_id[row].tolist()) for row in batch]
        count += sum(bool(known[i] & brought[j] or known[j] & brought[i]) for i in range(len(batch)) for j in range(i))
    return count


@pytest.mark.parametrize("epoch_number", [0, 1, 7])
def test_rows_that_know_each_other_are_spread(epoch_number):
    pairs = siblings()
    negatives = [[f"d{(i + 7) % 60}-0", "other"] for i in range(len(pairs))]
    rows = rows_from(table(pairs, negatives), {"q3": ["d4-1"]})
    batches, left = composed(rows, 16, 3, epoch_number)
    order = epoch_order(np.arange(len(rows)), None, 3, epoch_number)
    in_order = pairs_in_conflict(rows, np.split(order[: 16 * (len(order) // 16)], len(order) // 16))
    assert len(left) < 4 and in_order > 20
    assert pairs_in_conflict(rows, batches[:6]) == 0
    assert pairs_in_conflict(rows, batches) < 0.7 * in_order


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
    batches, left = composed(rows_from(table([("q", "a")]), {}), 8, 0, 0)
    assert batches == []
    assert left.tolist() == [0]


@pytest.mark.parametrize(("rows", "last", "out"), [(19, 16, 3), (20, 4, 0), (31, 15, 0), (32, 16, 0), (33, 16, 1)])
def test_a_short_batch_ends_an_epoch_from_a_quarter_on(rows, last, out):
    batches, left = composed(rows_from(table([(f"q{n}", f"a{n}") for n in range(rows)]), {}), 16, 0, 0)
    assert len(batches[-1]) == last and len(left) == out


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
