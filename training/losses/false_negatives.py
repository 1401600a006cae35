"""False-negative control after the gather: which documents of the global batch may not be a row's negatives.

Masks by id need nothing but what the data knows. Masks by score doubt negatives that look too right: to the model
itself (Zhang et al. 2025, Qwen3 Embedding, arXiv 2506.05176), to a teacher whose scores of a row's own negatives came
with the rows, or to a guide whose vectors came with them, which scores any place of the global batch (Solatorio 2024,
GISTEmbed, arXiv 2402.16829); none of them takes a second forward pass.
"""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from pipeline.core.config import Config
from training.losses.objective import Batch, need

EVERY = slice(None)
SLACK = 1e-6  # a tie is no doubt, however its two products were rounded


class MaskConfig(Config):
    """Which documents are kept out of the denominator; a row's own positive never is."""

    same_document: bool = True  # the document is the row's own positive, elsewhere in the batch
    known_positives: bool = True  # the document is another known positive of the row's query
    same_query: bool = True  # the document is the positive of another row with the same query
    same_cluster: bool = True  # the document is a near duplicate of a known positive
    margin: float | None = Field(None, description="leave out what is more similar than the positive by this")
    teacher_margin: float | None = Field(
        None, description="leave out a row's own negatives whose teacher score is above the positive's minus this"
    )
    guide_margin: float | None = Field(
        None, description="leave out what the guide finds more similar than the positive minus this, in all directions"
    )
    guide_relative: bool = Field(False, description="guide_margin is a share of the guide's score of the positive")


def document_mask(batch: Batch, config: MaskConfig, rows: slice = EVERY, columns: slice = EVERY) -> Tensor:
    """Documents [N + M] that ids tell to be no negatives of this rank's rows, as a boolean [n, N + M].

    `rows` of [n] and `columns` of [N + M] ask for a tile of it, at the cost of that tile.
    """
    own, width = batch.own[rows], batch.size + len(batch.negative)
    place = torch.arange(width, device=own.device)[columns]
    masked = own[:, None].new_zeros(len(own), len(place), dtype=torch.bool)
    if batch.positive_id is not None:
        documents = _of_documents(batch.positive_id, batch.negative_id, batch, columns)
        if config.same_document:
            masked |= batch.positive_id[own][:, None] == documents
        if config.known_positives and batch.known is not None:
            masked |= _among(batch.known[own], documents)
    if config.known_positives and batch.negative_score is not None:
        masked |= _own_negatives(batch, batch.negative_score > 0, own, columns)
    if config.same_cluster and batch.positive_cluster is not None:
        clusters = _of_documents(batch.positive_cluster, batch.negative_cluster, batch, columns)
        masked |= _among(_known_clusters(batch, batch.positive_cluster)[own], clusters)
    if config.same_query and batch.query_id is not None:
        queries = batch.query_id[place[place < batch.size]]  # the columns are positives first, negatives after
        masked[:, : len(queries)] |= batch.query_id[own][:, None] == queries
    return masked & (own[:, None] != place)


def query_mask(batch: Batch, config: MaskConfig, rows: slice = EVERY, columns: slice = EVERY) -> Tensor:
    """Queries [N] that are no negatives of this rank's own documents, as a boolean [n, N], or a tile of it."""
    own = batch.own[rows]
    place = torch.arange(batch.size, device=own.device)[columns]
    masked = own[:, None].new_zeros(len(own), len(place), dtype=torch.bool)
    if config.same_document and batch.positive_id is not None:
        masked |= batch.positive_id[own][:, None] == batch.positive_id[columns]
    if config.known_positives and batch.known is not None and batch.positive_id is not None:
        masked |= _among(batch.known[columns], batch.positive_id[own]).T
    if config.same_cluster and batch.positive_cluster is not None:
        masked |= _among(_known_clusters(batch, batch.positive_cluster)[columns], batch.positive_cluster[own]).T
    if config.same_query and batch.query_id is not None:
        masked |= batch.query_id[own][:, None] == batch.query_id[columns]
    return masked & (own[:, None] != place)


def doubted_negatives(batch: Batch, config: MaskConfig) -> Tensor | None:
    """Given negatives [M] that the teacher holds for right; None where `teacher_margin` is not set."""
    if config.teacher_margin is None:
        return None
    fix = "train on rows: [mined] or leave mask.teacher_margin out"
    positive = need(batch.teacher, "teacher scores", "mask.teacher_margin", fix)
    negative = need(batch.negative_teacher, "teacher scores of negatives", "mask.teacher_margin", fix)
    return negative > positive[batch.negative_row] - config.teacher_margin


class Limit:
    """Masks by score, asked tile by tile: what the model or the teacher holds for right."""

    def __init__(self, batch: Batch, config: MaskConfig) -> None:
        self.batch, self.doubted = batch, doubted_negatives(batch, config)
        self.highest: Tensor | None = None
        if config.margin is not None:
            with torch.no_grad():
                right = F.cosine_similarity(batch.query[batch.rows], batch.positive[batch.rows], dim=1)
            self.highest = right[:, None] + config.margin
        self.guide = None if config.guide_margin is None else Guided(batch, config.guide_margin, config.guide_relative)
        self.sets = not (self.highest is None and self.doubted is None and self.guide is None)

    def __call__(
        self, rows: slice, columns: slice, cosine: Tensor, *, documents: bool, of_query: bool = True
    ) -> Tensor:
        """What to leave out [r, c] of a tile of cosines, beside what ids tell.

        Its rows are queries (`of_query`) or their right documents, its columns documents or queries.
        """
        out = torch.zeros_like(cosine, dtype=torch.bool)
        own = self.batch.own[rows]
        if self.highest is not None:
            out |= cosine > self.highest[rows].to(cosine.dtype)
        if documents and self.doubted is not None:
            out |= _own_negatives(self.batch, self.doubted, own, columns)
        if self.guide is not None:
            out |= self.guide(rows, columns, documents=documents, of_query=of_query)
        return out & (own[:, None] != torch.arange(columns.start, columns.stop, device=own.device))


class Guided:
    """Places that a guide finds more similar than the row's right pair: s > s_i - m, or s > s_i - |s_i| * m.

    A place without a vector of the guide, and a row whose right pair has none, is never doubted.
    """

    def __init__(self, batch: Batch, margin: float, relative: bool) -> None:
        fix = "give train.guide: {queries: ..., documents: ...}, vectors of the embed job"
        self.query = unit(need(batch.query_guide, "guide vectors", "mask.guide_margin", fix))
        positive = unit(need(batch.positive_guide, "guide vectors", "mask.guide_margin", fix))
        negative = [] if batch.negative_guide is None else [unit(batch.negative_guide)]
        self.documents, self.rows = torch.cat([positive, *negative]), batch.rows
        right = (self.query[batch.rows] * positive[batch.rows]).sum(dim=1)
        self.highest = right - margin * (right.abs() if relative else 1.0) + SLACK

    def __call__(self, rows: slice, columns: slice, *, documents: bool, of_query: bool) -> Tensor:
        """Doubted places [r, c] of a tile."""
        left = (self.query if of_query else self.documents)[self.rows][rows]
        right = (self.documents if documents else self.query)[columns]
        return left @ right.T > self.highest[rows, None]


def unit(vectors: Tensor) -> Tensor:
    """Vectors [V, G] at length 1, in float32 at least."""
    return F.normalize(vectors.float() if vectors.dtype == torch.float16 else vectors, dim=1)


def _own_negatives(batch: Batch, chosen: Tensor, own: Tensor, columns: slice) -> Tensor:
    """Where a document [C] is one of the `chosen` [M] negatives of the row [R] itself, as a boolean [R, C]."""
    owner = torch.where(chosen, batch.negative_row, -1)
    none = torch.full((batch.size,), -1, dtype=owner.dtype, device=owner.device)
    return own[:, None] == torch.cat([none, owner])[columns]


def _known_clusters(batch: Batch, positive_cluster: Tensor) -> Tensor:
    """Clusters of each row's known documents [N, K], of its own positive at least."""
    return positive_cluster[:, None] if batch.known_cluster is None else batch.known_cluster


def _of_documents(positive: Tensor, negative: Tensor | None, batch: Batch, columns: slice) -> Tensor:
    """Ids of a range of the documents: positives, then negatives; -1 where negatives have none."""
    start, stop, _ = columns.indices(batch.size + len(batch.negative))
    first, last = max(0, start - batch.size), max(0, stop - batch.size)
    unknown = positive.new_full((last - first,), -1)
    return torch.cat([positive[start:stop], unknown if negative is None else negative[first:last]])


def _among(known: Tensor, documents: Tensor) -> Tensor:
    """Which of the documents [C] are among each row's known ids [R, K] (-1: none): [R, C].

    Few documents of a batch are known to any of its rows, so only their columns are compared.
    """
    found = torch.zeros(len(known), len(documents), dtype=torch.bool, device=documents.device)
    hit = (torch.isin(documents, known) & (documents >= 0)).nonzero().squeeze(1)
    for ids in known.unbind(dim=1):
        found[:, hit] |= ids[:, None] == documents[hit]
    return found
