"""Documents of other rows as negatives: nothing known to be right, for any ranks the same, where rows lack some."""

import pyarrow as pa

from tests.support.rerankers import NEGATIVES, load, make_rows, make_step
from training.data.batch_negatives import fill_negatives
from training.data.epoch import EpochSettings
from training.data.epoch_reader import EpochFeed, InMemoryEpochs
from training.data.rows import rows_from
from training.losses.listwise import Listwise

RELEVANT = {"q0": ["p1", "p2"], "q5": ["p6"]}
CLUSTERS = {"p0": "same", "p3": "same", "p7": "other", "p8": "other"}


def batch_of(rows) -> pa.Table:
    """All rows as one composed batch, a token a word."""
    words: dict[str, int] = {}

    def tokenize(texts, role):
        return [[words.setdefault(word, len(words)) for word in text.split()] for text in texts]

    feed = EpochFeed(InMemoryEpochs(rows, tokenize, EpochSettings(len(rows), 13, 12)))
    return feed.reader(0).batch(feed.first)


def small(kind: str = "pairs", count: int = 9) -> pa.Table:
    """Pairs of which some documents are right for other queries, and two are near duplicates of others."""
    columns = {
        "anchor_id": [f"q{i}" for i in range(count)],
        "anchor": [f"question {i}" for i in range(count)],
        "positive_id": [f"p{i}" for i in range(count)],
        "positive": [f"answer {i}" for i in range(count)],
        "table": [kind] * count,
        "table_row": list(range(count)),
        "source": ["test"] * count,
    }
    return batch_of(rows_from(pa.table(columns), RELEVANT, clusters=CLUSTERS))


def names(batch: pa.Table, filled: pa.Table) -> dict[int, list[int]]:
    """Rows of the documents that each row got, by the number of its own row."""
    number = dict(zip(batch["positive_id"].to_pylist(), batch["row"].to_pylist(), strict=True))
    negatives = [[number[entry["id"]] for entry in row] for row in filled["negatives"].to_pylist()]
    return dict(zip(filled["row"].to_pylist(), negatives, strict=True))


def test_nothing_that_is_known_to_be_right_is_among_them():
    batch = small()
    every = names(batch, fill_negatives(batch, 100, "seed"))
    assert {row: sorted(got) for row, got in every.items()} == {
        0: [4, 5, 6, 7, 8],  # not p1 and p2, which are right, nor p3, which is as good as p0
        1: [0, 2, 3, 4, 5, 6, 7, 8],
        2: [0, 1, 3, 4, 5, 6, 7, 8],
        3: [1, 2, 4, 5, 6, 7, 8],
        4: [0, 1, 2, 3, 5, 6, 7, 8],
        5: [0, 1, 2, 3, 4, 7, 8],
        6: [0, 1, 2, 3, 4, 5, 7, 8],
        7: [0, 1, 2, 3, 4, 5, 6],
        8: [0, 1, 2, 3, 4, 5, 6],
    }


def test_they_are_drawn_by_the_seed_alone_and_bring_their_tokens():
    batch = small()
    one, again, other = (fill_negatives(batch, 3, seed) for seed in ("a", "a", "b"))
    assert one.equals(again) and names(batch, one) != names(batch, other)
    assert all(len(set(got)) == 3 for got in names(batch, one).values())
    tokens = dict(zip(batch["positive_id"].to_pylist(), batch["positive"].to_pylist(), strict=True))
    for row in one["negatives"].to_pylist():
        assert all(entry["tokens"] == tokens[entry["id"]] and entry["score"] is None for entry in row)


def test_judged_lists_and_labelled_pairs_stay_as_they_are():
    for kind in ("judged", "labelled"):
        batch = small(kind)
        assert fill_negatives(batch, 3, "seed").equals(batch), kind


def test_rows_keep_their_own_negatives_first_and_get_what_lacks(tmp_path, minilm):
    batch = batch_of(make_rows())
    filled = fill_negatives(batch, 2, "seed")
    before, after = (part["negatives"].to_pylist() for part in (batch, filled))
    assert [len(row) for row in after] == [max(2, len(row)) for row in before]
    assert all(new[: len(old)] == old for old, new in zip(before, after, strict=True))
    assert sorted(len(row) for row in before) == sorted(NEGATIVES)

    step = make_step(load(tmp_path, minilm), Listwise(similarity="dot"))
    ranks = [step.feed.rank_rows(step.feed.first, rank, 3) for rank in range(3)]
    whole = step.feed.rank_rows(step.feed.first, 0, 1)
    split = [(row, ids) for part in ranks for row, ids in zip(part.rows, owned(part), strict=True)]
    assert sorted(split) == sorted(zip(whole.rows, owned(whole), strict=True)), "the same for any number of ranks"


def owned(part) -> list[list[int]]:
    """Ids of the negatives of each row."""
    owner, ids = part.columns["negative.row"], part.columns["negative.id"]
    return [ids[owner == row].tolist() for row in range(len(part.rows))]
