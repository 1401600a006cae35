"""Tiled InfoNCE: equal to a naive dense formula for any tiles, and no matrix of logits anywhere."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from training.losses.infonce import InfoNCE
from training.losses.loss import local_batch
from training.losses.tiled_softmax import row_scores

N, M, D = 13, 29, 8
TILES = [1, 2, 5, 13, 16, 29, 64]


def case(dtype=torch.float64, seed=3):
    """Queries, documents, right documents, what is left out and what is added, with a row that has nothing left in."""
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(N, D, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    documents = torch.randn(M, D, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    right = torch.randperm(M, generator=generator)[:N]
    out = torch.rand(N, M, generator=generator) < 0.3
    out[torch.arange(N), right] = False
    return query, documents, right, out, torch.randn(N, M, generator=generator, dtype=torch.float64)


def naive(query, documents, scale, right, out, added, similarity="cosine"):
    """Log-sum-exp, right similarity, hardest and masked of each row, by the definition."""
    dot = (query[:, None] * documents[None]).sum(dim=2)
    cosine = F.cosine_similarity(query[:, None], documents[None], dim=2) if similarity == "cosine" else dot
    places = torch.arange(len(documents)) == right[:, None]
    return (
        (scale * cosine + added).masked_fill(out, -torch.inf).logsumexp(dim=1),
        cosine[places],
        cosine.detach().masked_fill(out | places, -torch.inf).amax(dim=1),
        out.sum(dim=1),
    )


def gradients(log_sum, right, inputs):
    """Gradients of a mixture whose rows have different weights, so that no mistake cancels."""
    weights = torch.linspace(0.5, 2.0, len(log_sum), dtype=log_sum.dtype)
    return torch.autograd.grad((weights * log_sum - 3.0 * weights.flip(0) * right).sum(), inputs)


@pytest.mark.parametrize("tile", [*TILES, None])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
@pytest.mark.parametrize(("similarity", "factor"), [("cosine", 20.0), ("dot", 1.0)])
def test_scores_are_the_definition(tile, dtype, rtol, similarity, factor):
    query, documents, right, out, added = case(dtype)
    scale = torch.tensor(factor, dtype=dtype, requires_grad=True)
    found = row_scores(
        query,
        documents,
        scale,
        right,
        tile=tile,
        masked=lambda rows, columns, _: out[rows, columns],
        added=lambda rows, columns, _: added[rows, columns].to(dtype),
        similarity=similarity,
    )
    wide = [x.detach().double().requires_grad_() for x in (query, documents, scale)]
    expected = naive(*wide, right, out, added, similarity)
    for mine, theirs in zip((found.log_sum, found.right, found.hardest, found.masked), expected, strict=True):
        torch.testing.assert_close(mine.double(), theirs.double(), rtol=rtol, atol=rtol)
    mine = gradients(found.log_sum, found.right, (query, documents, scale))
    for ours, theirs in zip(mine, gradients(*expected[:2], wide), strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), theirs, rtol=10 * rtol, atol=10 * rtol * float(theirs.abs().max()))


@pytest.mark.parametrize("tile", [4, None])
def test_a_row_with_everything_left_out_gives_no_gradient(tile):
    query, documents, _, out, _ = case()
    out[2] = True
    found = row_scores(
        query, documents, 20.0, torch.full((N,), -1), tile=tile, masked=lambda rows, columns, _: out[rows, columns]
    )
    assert found.log_sum[2] == -torch.inf and found.hardest[2] == -torch.inf and found.right.abs().sum() == 0
    joined = torch.logaddexp(found.log_sum, torch.zeros(N, dtype=torch.float64))
    to_query, to_documents = torch.autograd.grad(joined.sum(), (query, documents))
    assert to_query[2].abs().sum() == 0 and to_query[3].abs().sum() > 0
    assert to_query.isfinite().all() and to_documents.isfinite().all()


@pytest.mark.parametrize("tile", [4, None])
def test_no_rows_of_ones_own(tile):
    query, documents, *_ = case()
    found = row_scores(query[:0], documents, 20.0, torch.zeros(0, dtype=torch.int64), tile=tile)
    assert [len(x) for x in (found.log_sum, found.right, found.hardest, found.masked)] == [0, 0, 0, 0]
    to_query, to_documents = torch.autograd.grad((found.log_sum - found.right).sum(), (query, documents))
    assert to_query.abs().sum() == 0 and to_documents.abs().sum() == 0


def test_half_precision_is_summed_in_float32():
    query, documents, right, *_ = case(torch.bfloat16)
    found = row_scores(query, documents, 20.0, right, tile=5)
    wide = [x.detach().double().requires_grad_() for x in (query, documents)]
    nothing = torch.zeros(N, M)
    expected = naive(*wide, 20.0, right, nothing.bool(), nothing)
    assert found.log_sum.dtype == torch.float32
    torch.testing.assert_close(found.log_sum.double(), expected[0], rtol=2e-6, atol=2e-6)
    mine = gradients(found.log_sum, found.right, (query, documents))
    for ours, theirs in zip(mine, gradients(*expected[:2], wide), strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.double(), theirs, rtol=2**-8, atol=1e-6)


def test_autocast_does_not_reach_inside():
    query, documents, right, *_ = case(torch.float32)
    plain = row_scores(query, documents, 20.0, right, tile=5).log_sum
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(row_scores(query, documents, 20.0, right, tile=5).log_sum, plain)


class Widest(TorchDispatchMode):
    """The most elements that any operation gave out."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = func(*args, **(kwargs or {}))
        found = [x.numel() for x in tree_leaves(given) if isinstance(x, torch.Tensor)]
        self.elements = max([self.elements, *found])
        return given


def step(tile, rows=512, dim=8):
    """Loss, gradients and the greatest tensor of an InfoNCE step with negatives, masks and both directions."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(*shape, generator=generator).double() for shape in [(rows, dim)] * 2 + [(rows, 1, dim)]]
    for x in inputs:
        x.requires_grad_()
    ids = torch.randint(0, rows, (rows,), generator=generator)
    known = torch.stack([ids, ids.roll(1)], dim=1)
    batch = local_batch(*inputs, positive_id=ids, negative_id=ids.flip(0), query_id=ids.roll(7), relevant_id=known)
    learned = {"log_scale": torch.tensor(3.0, dtype=torch.float64, requires_grad=True)}
    with Widest() as widest:
        share = InfoNCE(
            directions=["query_to_document", "document_to_query"],
            partition="per_direction",
            learn_temperature=True,
            tile=tile,
        )(batch, learned)
        found = torch.autograd.grad(share.loss, [*inputs, *learned.values()])
    return share, found, widest.elements


def test_logits_are_never_held():
    dense, expected, most = step(None)
    tiled, found, widest = step(48)
    assert most >= 512 * 1024 and widest <= 1024 * 8
    torch.testing.assert_close(tiled.loss, dense.loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(tiled.report, dense.report, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-14)
