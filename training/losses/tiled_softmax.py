"""Softmax over a matrix of cosines (or inner products), dense or in tiles that never hold all logits of a global batch.

InfoNCE needs two numbers a row: the log-sum-exp of its logits and the cosine of its right document. Both are summed
over tiles of rows x documents, and backward computes each tile again: memory O(rows * D + tile^2) in place of O(rows *
documents), for four matrix products where the dense loss has three. Normalising inside the tiles saves the normalised
copies too. Source: Cheng et al. 2024 (Inf-CL, arXiv 2410.17243).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from training.losses.distance import Similarity

TileFunction = Callable[[slice, slice, Tensor], Tensor]
_TINY = 1e-12  # of torch.nn.functional.normalize


@dataclass(frozen=True)
class RowScores:
    """Sums [n] over the M documents of each row; `log_sum` and `right` carry gradients, the others are for reports."""

    log_sum: Tensor  # [n] log of the sum of exp(scale * cosine) over the documents left in
    right: Tensor  # [n] cosine of the right document, 0 where there is none
    hardest: Tensor  # [n] greatest cosine left in, the right document aside; -inf where there is none
    masked: Tensor  # [n] documents left out


def row_scores(
    query: Tensor,
    documents: Tensor,
    scale: Tensor | float,
    right: Tensor,
    *,
    tile: int | None = None,
    masked: TileFunction | None = None,
    added: TileFunction | None = None,
    similarity: Similarity = "cosine",
) -> RowScores:
    """Compare n queries [n, D] with M documents [M, D] by cosine, `tile` x `tile` at a time, or (None) all at once.

    By `similarity` dot inner products take the place of cosines everywhere, in the scores that come back too.

    `scale` multiplies the cosines; its gradient comes back too. `right` [n] is each row's right document, -1 for none.
    `masked(rows, columns, cosine)` marks entries [r, c] of a tile to leave out, `added(rows, columns, cosine)`
    gives constants [r, c] to add to its logits; both are called again in backward and must return the same.
    Half precision is multiplied and summed in float32.
    """
    dtype = _sum_dtype(query)
    factor = scale if isinstance(scale, Tensor) else torch.tensor(scale, dtype=dtype, device=query.device)
    if tile is None:
        return _dense(query, documents, factor, right, masked, added, similarity)
    options = tile, masked, added, similarity
    return RowScores(*_Tiled.apply(query, documents, factor, right, *options))  # type: ignore[no-untyped-call]


def _dense(
    query: Tensor,
    documents: Tensor,
    scale: Tensor,
    right: Tensor,
    masked: TileFunction | None,
    added: TileFunction | None,
    similarity: Similarity,
) -> RowScores:
    """Row scores from one matrix of logits: one product fewer, for batches whose logits fit in memory."""
    unit, others = (x.to(_sum_dtype(x)) for x in (query, documents))
    if similarity == "cosine":
        unit, others = F.normalize(unit, dim=1), F.normalize(others, dim=1)
    cosine = unit @ others.T
    tiles = _Tiles(query, documents, scale, right, max(1, *cosine.shape), masked, added, similarity)
    full = slice(0, len(query)), slice(0, len(documents))
    logits, left_out = tiles.logits(cosine, *full)
    column, inside = tiles.right_in(*full)
    hardest, count = (cosine.new_full((len(query),), start) for start in (float("-inf"), 0.0))
    with torch.no_grad():
        tiles.update(cosine.detach().clone(), left_out, *full, torch.zeros_like(count), hardest, count)
    return RowScores(logits.logsumexp(dim=1), cosine.gather(1, column)[:, 0] * inside, hardest, count)


class _Tiled(torch.autograd.Function):
    """Row scores in tiles: forward saves the inputs and one log-sum-exp a row; backward computes the tiles again."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, documents: Tensor, scale: Tensor, right: Tensor, *options: Any
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        with torch.autocast(query.device.type, enabled=False):
            log_sum, cosine, hardest, count = _Tiles(query, documents, scale, right, *options).sums()
        ctx.options = options
        ctx.save_for_backward(query, documents, scale, right, log_sum)
        ctx.mark_non_differentiable(hardest, count)
        return log_sum, cosine, hardest, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, into_sum: Tensor, into_right: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        query, documents, scale, right, log_sum = ctx.saved_tensors
        with torch.autocast(query.device.type, enabled=False):
            tiles = _Tiles(query, documents, scale, right, *ctx.options)
            return *tiles.gradients(log_sum, into_sum, into_right), None, None, None, None, None


@dataclass(frozen=True)
class _Tiles:
    """The matrix of logits [n, M], computed one tile at a time."""

    query: Tensor
    documents: Tensor
    scale: Tensor
    right: Tensor
    tile: int
    masked: TileFunction | None
    added: TileFunction | None
    similarity: Similarity

    def sums(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log-sum-exp, right cosine, hardest cosine and count of masked documents, [n] each."""
        norms = self._norms()
        log_sum, right, hardest, count = (
            torch.full((len(self.query),), start, dtype=_sum_dtype(self.query), device=self.query.device)
            for start in (float("-inf"), 0.0, float("-inf"), 0.0)
        )
        for rows in _slices(len(self.query), self.tile):
            unit = _unit(self.query, norms[0], rows)
            top, total = log_sum[rows].clone(), torch.zeros_like(log_sum[rows])
            for columns in _slices(len(self.documents), self.tile):
                cosine = unit @ _unit(self.documents, norms[1], columns).T
                logits, left_out = self.logits(cosine, rows, columns)
                higher = torch.maximum(top, logits.amax(dim=1))
                shift = higher.masked_fill(higher.isinf(), 0.0)
                total = total * (top - shift).exp_() + logits.sub_(shift[:, None]).exp_().sum(dim=1)
                top = higher
                self.update(cosine, left_out, rows, columns, right[rows], hardest[rows], count[rows])
            log_sum[rows] = top + total.log()
        return log_sum, right, hardest, count

    def gradients(self, log_sum: Tensor, into_sum: Tensor, into_right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of queries [n, D], documents [M, D] and scale from those of `log_sum` and `right` [n]."""
        norms, factor = self._norms(), self.scale.to(into_sum.dtype)
        log_sum = log_sum.masked_fill(log_sum == float("-inf"), float("inf"))  # all masked: no gradient
        to_query, to_documents = (torch.zeros_like(x, dtype=_sum_dtype(x)) for x in (self.query, self.documents))
        to_scale = torch.zeros_like(factor)
        for rows in _slices(len(self.query), self.tile):
            unit = _unit(self.query, norms[0], rows)
            for columns in _slices(len(self.documents), self.tile):
                other = _unit(self.documents, norms[1], columns)
                cosine = unit @ other.T
                share = self.logits(cosine, rows, columns)[0].sub_(log_sum[rows, None]).exp_()
                share.mul_(into_sum[rows, None])
                to_scale += cosine.mul_(share).sum()
                column, inside = self.right_in(rows, columns)
                share.mul_(factor).scatter_add_(1, column, (into_right[rows] * inside)[:, None])
                to_query[rows].addmm_(share, other)
                to_documents[columns].addmm_(share.T, unit)
            if self.similarity == "cosine":
                _through_norm(to_query[rows], unit, norms[0][rows])
        for columns in _slices(len(self.documents), self.tile) if self.similarity == "cosine" else ():
            _through_norm(to_documents[columns], _unit(self.documents, norms[1], columns), norms[1][columns])
        return to_query.to(self.query), to_documents.to(self.documents), to_scale.to(self.scale)

    def _norms(self) -> tuple[Tensor, Tensor]:
        """What queries [n] and documents [M] are divided by: their lengths, or 1."""
        if self.similarity == "dot":
            sides = self.query, self.documents
            query, documents = (torch.ones(len(x), dtype=_sum_dtype(x), device=x.device) for x in sides)
            return query, documents
        query, documents = (
            torch.linalg.vector_norm(x, dim=1, dtype=_sum_dtype(x)) for x in (self.query, self.documents)
        )
        return query, documents

    def logits(self, cosine: Tensor, rows: slice, columns: slice) -> tuple[Tensor, Tensor | None]:
        """Logits [r, c] of a tile, -inf where left out, and what is left out."""
        logits = cosine * self.scale.to(cosine.dtype)
        if self.added is not None:
            logits += self.added(rows, columns, cosine.detach())
        left_out = self.masked(rows, columns, cosine.detach()) if self.masked is not None else None
        return logits if left_out is None else logits.masked_fill_(left_out, float("-inf")), left_out

    def right_in(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """Column [r, 1] of each row's right document in a tile, and whether the tile holds it [r]; 0 where not."""
        column = self.right[rows] - columns.start
        inside = (column >= 0) & (self.right[rows] < columns.stop) & (self.right[rows] >= 0)
        return column.where(inside, 0)[:, None], inside

    def update(
        self,
        cosine: Tensor,
        left_out: Tensor | None,
        rows: slice,
        columns: slice,
        right: Tensor,
        hardest: Tensor,
        count: Tensor,
    ) -> None:
        """Update `right`, `hardest` and `count` [r] by a tile; overwrites the tile's cosines."""
        column, inside = self.right_in(rows, columns)
        right.copy_(torch.where(inside, cosine.gather(1, column)[:, 0], right))
        if left_out is not None:
            cosine.masked_fill_(left_out, float("-inf"))
            count += left_out.sum(dim=1)
        cosine.scatter_(1, column, torch.where(inside[:, None], float("-inf"), cosine.gather(1, column)))
        torch.maximum(hardest, cosine.amax(dim=1), out=hardest)


def _slices(size: int, tile: int) -> Iterator[slice]:
    return (slice(start, min(start + tile, size)) for start in range(0, size, tile))


def _unit(rows: Tensor, norms: Tensor, part: slice) -> Tensor:
    """Rows of a part at length 1, in the precision of sums."""
    return rows[part].to(norms.dtype) / norms[part, None].clamp(min=_TINY)


def _through_norm(grad: Tensor, unit: Tensor, norms: Tensor) -> None:
    """Turn the gradient of unit rows into that of the rows, in place: (g - (g.u) u) / |x|."""
    along = (grad * unit).sum(dim=1) * (norms > _TINY)
    grad.sub_(along[:, None] * unit).div_(norms[:, None].clamp(min=_TINY))


def _sum_dtype(rows: Tensor) -> torch.dtype:
    return torch.float32 if rows.dtype in (torch.bfloat16, torch.float16) else rows.dtype
