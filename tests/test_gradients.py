"""The gradient of W ranks is the gradient of one process: invariant 1."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tests.ranks import run_ranks
from training.gather import gather, world
from training.losses.infonce import InfoNCE
from training.losses.masks import MaskConfig
from training.losses.objective import Batch, local
from training.losses.triplet import TripletMargin

ROWS, DIM, NEGATIVES = 12, 8, 2
SPLITS = {
    "equal": {1: [12], 2: [6, 6], 3: [4, 4, 4], 4: [3, 3, 3, 3]},
    "unequal": {1: [12], 2: [9, 3], 3: [1, 7, 4], 4: [2, 5, 1, 4]},
}
LOSSES = {
    "infonce": InfoNCE(),
    "infonce-symmetric-learned": InfoNCE(
        directions=["query_to_document", "document_to_query"], partition="per_direction", learn_temperature=True
    ),
    "infonce-unmasked": InfoNCE(mask=MaskConfig(same_document=False, known_positives=False, same_query=False)),
    "triplet-cosine": TripletMargin(margin=0.5),
    "triplet-euclidean": TripletMargin(margin=0.5, distance="euclidean"),
    "triplet-manhattan": TripletMargin(margin=2.0, distance="manhattan"),
}


class Tiny(nn.Module):
    """Inputs of all columns into embeddings, with the loss's learned scalars beside, as training.loop.Embed."""

    def __init__(self, learned: dict[str, float]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.weight = nn.Parameter(torch.randn(DIM, DIM, generator=generator, dtype=torch.float64))
        self.learned = nn.ParameterDict(
            {name: nn.Parameter(torch.tensor(value, dtype=torch.float64)) for name, value in learned.items()}
        )

    def forward(self, inputs):
        return torch.tanh(inputs @ self.weight)


def data():
    """Inputs [N, D] of queries and positives, [N, n, D] of negatives, and ids with planted duplicates and siblings."""
    generator = torch.Generator().manual_seed(11)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    positive_id = torch.arange(100, 100 + ROWS)
    positive_id[7] = positive_id[2]
    negative_id = torch.arange(500, 500 + ROWS * NEGATIVES).reshape(ROWS, NEGATIVES)
    negative_id[4, 1] = positive_id[9]
    query_id = torch.arange(ROWS)
    query_id[10] = query_id[1]
    known = torch.stack([positive_id, torch.full((ROWS,), -1)], dim=1)
    known[5, 1] = positive_id[0]
    return draw(ROWS, DIM), draw(ROWS, DIM), draw(ROWS, NEGATIVES, DIM), positive_id, negative_id, query_id, known


def gradient(loss_name: str, sizes: list[int]):
    """This rank's part of a step under DDP: loss share and the gradient after the all-reduce."""
    loss = LOSSES[loss_name]
    query, positive, negative, positive_id, negative_id, query_id, known = data()
    rank, size = world()
    start = sum(sizes[:rank])
    mine = slice(start, start + sizes[rank])
    module = Tiny(loss.learned())
    model = DistributedDataParallel(module) if size > 1 else module
    rows = [query[mine], positive[mine], negative[mine].reshape(-1, DIM)]
    counts = [len(part) for part in rows]
    parts = dict(zip(("query", "positive", "negative"), model(torch.cat(rows)).split(counts), strict=True))
    ids = {
        "query.id": query_id[mine],
        "query.known": known[mine],
        "positive.id": positive_id[mine],
        "negative.id": negative_id[mine].reshape(-1),
        "negative.row": torch.arange(sizes[rank]).repeat_interleave(NEGATIVES),
    }
    every = gather(parts, ids)
    owners = torch.tensor(every.sizes["negative"])
    batch = Batch(
        **every.columns,
        negative_row=every.ids["negative.row"] + every.starts("query").repeat_interleave(owners),
        rows=every.own["query"],
        negative_rows=every.own["negative"],
        positive_id=every.ids["positive.id"],
        negative_id=every.ids["negative.id"],
        query_id=every.ids["query.id"],
        known=every.ids["query.known"],
    )
    share = loss(batch, dict(module.learned.items()))
    (share.loss * size).backward()
    flat = torch.cat([parameter.grad.reshape(-1) for parameter in module.parameters()])
    return {"loss": share.loss.detach(), "grad": flat, "report": {k: v.detach() for k, v in share.report.items()}}


def truth(loss_name: str):
    """The same step in one process, without any gather."""
    loss = LOSSES[loss_name]
    query, positive, negative, positive_id, negative_id, query_id, known = data()
    module = Tiny(loss.learned())
    batch = local(
        module(query),
        module(positive),
        module(negative),
        positive_id=positive_id,
        negative_id=negative_id.reshape(-1),
        query_id=query_id,
        known=known,
    )
    share = loss(batch, dict(module.learned.items()))
    share.loss.backward()
    return share, torch.cat([parameter.grad.reshape(-1) for parameter in module.parameters()])


def every_gradient(sizes: list[int]):
    return {name: gradient(name, sizes) for name in LOSSES}


@pytest.mark.parametrize("split", ["equal", "unequal"])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_ranks_give_the_one_process_gradient(size, split):
    found = run_ranks(size, every_gradient, SPLITS[split][size])
    for name in LOSSES:
        share, expected = truth(name)
        torch.testing.assert_close(sum(rank[name]["loss"] for rank in found), share.loss.detach(), rtol=1e-12, atol=0)
        for key, value in share.report.items():
            torch.testing.assert_close(sum(rank[name]["report"][key] for rank in found), value, rtol=1e-6, atol=1e-7)
        for rank in found:
            grad = rank[name]["grad"]
            assert grad.norm() / expected.norm() == pytest.approx(1.0, abs=1e-6), name
            assert torch.cosine_similarity(grad, expected, dim=0) >= 1 - 1e-10, name


def out_of_step():
    rank = world()[0]
    columns = {"query": torch.zeros(2, 4)} | ({"positive": torch.zeros(2, 4)} if rank == 1 else {})
    try:
        gather(columns)
    except RuntimeError as error:
        return str(error)
    return "no error"


def test_ranks_out_of_step_are_named_not_hung():
    assert set(run_ranks(2, out_of_step)) == {"gather: rank 1 has columns 2, rank 0 has 1: ranks are out of step"}


def wider():
    rank = world()[0]
    try:
        gather({"query": torch.zeros(2, 4 + rank)})
    except RuntimeError as error:
        return str(error)
    return "no error"


def test_other_width_is_named():
    assert set(run_ranks(2, wider)) == {"gather: rank 1 has dim 5, rank 0 has 4: ranks are out of step"}
