"""The gather by itself, on real ranks with different numbers of rows: order, ids, places, and where gradients go."""

import torch

from tests.support.ranks import run_ranks
from training.losses.gather import gather, world
from training.losses.loss import Batch

SIZES = {"query": [2, 0, 3], "positive": [2, 0, 3], "negative": [1, 4, 2]}
ROWS = {"query": 5, "positive": 5, "negative": 7}
WIDTH = 4


def whole(column: str) -> torch.Tensor:
    """All rows of a column; each number says which column, row and dimension it is."""
    base = 100 * (1 + list(ROWS).index(column))
    return base + torch.arange(ROWS[column] * WIDTH, dtype=torch.float64).reshape(-1, WIDTH)


def local(column: str) -> slice:
    start = sum(SIZES[column][: world()[0]])
    return slice(start, start + SIZES[column][world()[0]])


def on_a_rank():
    mine = {name: whole(name)[local(name)].clone().requires_grad_() for name in ROWS}
    ids = {
        "query.id": torch.arange(5)[local("query")],
        "query.relevant": torch.arange(10).reshape(5, 2)[local("query")],
        "negative.id": 70 + torch.arange(7)[local("negative")],
    }
    found = gather(mine, ids, step=3)
    assert all(torch.equal(found.columns[name].detach(), whole(name)) for name in ROWS)
    assert found.local == {name: local(name) for name in ROWS} and found.sizes == SIZES
    assert found.starts("negative").tolist() == [0, 1, 5]
    weights = {name: torch.arange(rows, dtype=torch.float64)[:, None] + 1 for name, rows in ROWS.items()}
    # Each rank weighs all rows by its own factor: a row's gradient is its weight times the sum of the factors.
    share = (world()[0] + 1) * sum((found.columns[name] * weights[name]).sum() for name in ROWS)
    share.backward()
    grads = {name: torch.equal(mine[name].grad, 6 * weights[name][local(name)].expand(-1, WIDTH)) for name in ROWS}
    return {"ids": {name: value.tolist() for name, value in found.ids.items()}, "grads": grads}


def test_rows_ids_and_gradients_are_where_they_belong():
    for rank in run_ranks(3, on_a_rank):
        assert rank["ids"]["query.id"] == [0, 1, 2, 3, 4]
        assert rank["ids"]["query.relevant"] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
        assert rank["ids"]["negative.id"] == list(range(70, 77))
        assert all(rank["grads"].values()), rank["grads"]


def owners():
    """Rows of all negatives: two of the first rank's rows, none of the second's, one of the third's."""
    rank = world()[0]
    rows, own = [2, 1, 1][rank], [[0, 1], [], [0]][rank]
    vectors = torch.zeros(rows, WIDTH)
    columns = {"query": vectors, "positive": vectors, "negative": torch.zeros(len(own), WIDTH)}
    score = torch.tensor([0.25, -1.5, 3.0, 0.1][:rows], dtype=torch.float64)
    ids = {"negative.row": torch.tensor(own, dtype=torch.int64), "query.score": score.view(torch.int64)}
    batch = Batch.from_gathered(gather(columns, ids))
    return {"owner": batch.negative_row.tolist(), "score": batch.score.tolist(), "rows": batch.row_numbers.tolist()}


def test_negatives_know_their_rows_in_the_global_batch():
    found = run_ranks(3, owners)
    assert [one["owner"] for one in found] == [[0, 1, 3]] * 3
    assert [one["score"] for one in found] == [[0.25, -1.5, 0.25, 0.25]] * 3
    assert [one["rows"] for one in found] == [[0, 1], [2], [3]]
