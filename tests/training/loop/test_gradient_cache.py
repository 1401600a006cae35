"""A cached step: dropout replayed, one reduction whatever the chunks, one chunk in memory.

That its gradient is the plain one's for every loss and split of the rows is held by tests/test_gradients.py.
"""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.encoder.token_batches import padded_batches
from tests.support.ranks import run_ranks
from training.loop.embed_module import zero_with_gradients
from training.loop.gradient_cache import GradientCache, PlainPass
from training.losses.gather import gather, world
from training.losses.infonce import InfoNCE
from training.losses.loss import Batch

ROWS, DIM, NEGATIVES, BUDGET = 12, 8, 2, 20
LOSS = InfoNCE(directions=["query_to_document", "document_to_query"], learn_temperature=True)


class Tiny(nn.Module):
    """Mean of token embeddings, a layer and dropout, in length-sorted chunks as the encoder's."""

    def __init__(self, learned, dropout=0.0, budget=BUDGET):
        super().__init__()
        torch.manual_seed(5)
        self.embedding = nn.Embedding(50, DIM).double()
        self.layer = nn.Linear(DIM, DIM).double()
        self.dropout, self.budget = nn.Dropout(dropout), budget
        self.scalars = nn.ParameterDict({name: torch.tensor(value).double() for name, value in learned.items()})

    def forward(self, tokens, skip):
        chunks = padded_batches([len(row) for row in tokens], self.budget)
        if not chunks:
            return torch.zeros(0, DIM) + zero_with_gradients(self)
        vectors = torch.cat([self.encode([tokens[i] for i in chunk], [skip[i] for i in chunk]) for chunk in chunks])
        return vectors[torch.cat([torch.from_numpy(chunk) for chunk in chunks]).argsort()]

    def encode(self, tokens, skip):
        means = [self.embedding(torch.tensor(row[left:])).mean(dim=0) for row, left in zip(tokens, skip, strict=True)]
        return torch.tanh(self.layer(self.dropout(torch.stack(means))))


def texts(rows: slice):
    """Tokens of the queries, positives and negatives of some rows (3 to 9 tokens each), and what to skip of each."""
    generator = torch.Generator().manual_seed(11)
    lengths = torch.randint(3, 10, (ROWS, 2 + NEGATIVES), generator=generator)
    tokens = [[torch.randint(0, 50, (int(n),), generator=generator).tolist() for n in row] for row in lengths]
    columns = [[row[0] for row in tokens[rows]], [row[1] for row in tokens[rows]]]
    columns.append([text for row in tokens[rows] for text in row[2:]])
    return columns, [1] * len(columns[0]) + [0] * (len(columns[1]) + len(columns[2]))


def embed(passes, rows: slice) -> Batch:
    columns, skip = texts(rows)
    vectors = passes([text for column in columns for text in column], skip)
    parts = vectors.split([len(column) for column in columns])
    owners = torch.arange(len(columns[0])).repeat_interleave(NEGATIVES)
    return Batch.from_gathered(
        gather(dict(zip(("query", "positive", "negative"), parts, strict=True)), {"negative.row": owners})
    )


def take(sizes, cached=False, dropout=0.0, hook=None, steps=1):
    """This rank's part of a step under DDP: the loss share, the gradient after the all-reduce, a random number."""
    rank, size = world()
    module = Tiny(LOSS.learnable(), dropout)
    model = DistributedDataParallel(module, gradient_as_bucket_view=True) if size > 1 else module
    if hook is not None:
        model.register_comm_hook(None, hook)
    learned = dict(module.scalars.items())
    passes = GradientCache(model, model, learned, BUDGET) if cached else PlainPass(model, learned)
    start = sum(sizes[:rank])
    for _ in range(steps):
        torch.manual_seed(rank)
        module.zero_grad(set_to_none=True)
        share = LOSS(embed(passes, slice(start, start + sizes[rank])), passes.scalars)
        passes.backward(share.loss * size)
    flat = torch.cat([parameter.grad.reshape(-1) for parameter in module.parameters()])
    return {"loss": share.loss.detach(), "grad": flat, "next": torch.rand(1)}


def agree(grad, expected, what):
    assert grad.norm() / expected.norm() == pytest.approx(1.0, abs=1e-6), what
    assert torch.cosine_similarity(grad, expected, dim=0) >= 1 - 1e-10, what


def with_dropout(sizes):
    return {cached: take(sizes, cached, dropout=0.3) for cached in (True, False)}


@pytest.mark.parametrize("sizes", [[12], [9, 3]])
def test_dropout_is_replayed(sizes):
    for rank in run_ranks(len(sizes), with_dropout, sizes):
        agree(rank[True]["grad"], rank[False]["grad"], "cached against plain")
        assert torch.equal(rank[True]["next"], rank[False]["next"]), "random numbers after the step"
    without = take([12])["grad"]
    assert (without - rank[True]["grad"]).norm() > 0.1 * without.norm(), "the dropout of this test does something"


def reductions(sizes):
    """Buckets that DDP reduced, and all-reduces of any kind, in three steps; and how many chunks this rank had."""
    buckets, calls, reduce = [], [], dist.all_reduce

    def hook(state, bucket):
        buckets.append(bucket.index())
        total = reduce(bucket.buffer().div_(world()[1]), async_op=True).get_future()
        return total.then(lambda future: future.value()[0])

    def counted(*args, **kwargs):
        calls.append(args)
        return reduce(*args, **kwargs)

    dist.all_reduce = counted
    take(sizes, True, hook=hook, steps=3)
    dist.all_reduce = reduce
    start = sum(sizes[: world()[0]])
    columns, _ = texts(slice(start, start + sizes[world()[0]]))
    chunks = padded_batches([len(text) for column in columns for text in column], BUDGET)
    return {"buckets": len(buckets), "others": len(calls), "chunks": len(chunks)}


@pytest.mark.parametrize("sizes", [[9, 3], [12, 0]])
def test_gradients_are_reduced_once_a_step(sizes):
    found = run_ranks(2, reductions, sizes)
    assert found[0]["chunks"] > found[1]["chunks"] and found[0]["chunks"] > 5
    for rank in found:
        assert rank["buckets"] == 3, "one bucket a step: its parameters and the learned scalars"
        assert rank["others"] == 3, "the gather's backward"


class Alive:
    """How many chunks have a graph at once, counted by what autograd keeps for backward."""

    def __init__(self):
        self.now, self.most = 0, 0

    def keep(self, tensor):
        self.now += tensor.numel()
        self.most = max(self.most, self.now)
        return Held(self, tensor)


class Held:
    """A saved tensor, counted until autograd lets it go."""

    def __init__(self, count, tensor):
        self.count, self.tensor = count, tensor

    def __del__(self):
        self.count.now -= self.tensor.numel()


@pytest.mark.parametrize("cached", [True, False])
def test_one_chunk_has_a_graph_at_a_time(cached):
    module = Tiny({})
    passes = GradientCache(module, module, {}, BUDGET) if cached else PlainPass(module, {})
    tokens, skip = [[1, 2, 3, 4]] * 200, [0] * 200
    alive = Alive()
    with torch.autograd.graph.saved_tensors_hooks(alive.keep, lambda held: held.tensor):
        vectors = passes(tokens, skip)
        passes.backward(vectors.sum())
    assert alive.now == 0
    chunk = Alive()
    with torch.autograd.graph.saved_tensors_hooks(chunk.keep, lambda held: held.tensor):
        module(tokens[:5], skip[:5])
    assert alive.most <= 1.5 * chunk.most if cached else alive.most >= 30 * chunk.most
