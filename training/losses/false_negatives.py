"""False-negative masks after the gather: which documents of the global batch may not be negatives of a row.

Masks by id follow from the judgments of the data. Masks by score leave out negatives that look relevant: to the model
itself (Zhang et al. 2025, Qwen3 Embedding, arXiv 2506.05176), to a teacher whose scores of a row's own negatives came
with the rows, or to a guide whose vectors came with them, which scores any pair of the global batch (Solatorio 2024,
GISTEmbed, arXiv 2402.16829); none of them takes a second forward pass.
"""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from pipeline.core.config import Config
from training.losses.distance import Similarity, paired_similarity
from training.losses.loss import Batch, need

FULL = slice(None)
TOLERANCE = 1e-6  # a tie is not masked, however its two products were rounded


class MaskConfig(Config):
    """Which documents are left out of the denominator; the positive of the row never is."""

    same_document: bool = True  # the document is the positive of the row itself, found in another row
    known_positives: bool = True  # the document is another known positive of the row's query
    same_query: bool = True  # the document is the positive of another row with the same query
    same_cluster: bool = True  # the document is a near duplicate of a known positive
    margin: float | None = Field(None, description="leave out documents more similar than the positive by this")
    teacher_margin: float | None = Field(
        None, description="leave out given negatives whose teacher score is above the positive's minus this"
    )
    guide_margin: float | None = Field(
        None,
        description="leave out pairs that the guide finds more similar than the positive minus this",
    )
    guide_relative: bool = Field(False, description="guide_margin is a share of the guide's score of the positive")


def document_mask(batch: Batch, config: MaskConfig, rows: slice = FULL, columns: slice = FULL) -> Tensor:
    """Boolean [n, N + M]: documents that by their ids may not be negatives of this rank's rows.

    With `rows` of [n] and `columns` of [N + M] only that tile is computed.
    """
    row, width = batch.row_numbers[rows], batch.size + len(batch.negative)
    column = torch.arange(width, device=row.device)[columns]
    masked = row[:, None].new_zeros(len(row), len(column), dtype=torch.bool)
    if batch.positive_id is not None:
        documents = _document_column(batch.positive_id, batch.negative_id, batch, columns)
        if config.same_document:
            masked |= batch.positive_id[row][:, None] == documents
        if config.known_positives and batch.relevant_id is not None:
            masked |= _contained(batch.relevant_id[row], documents)
    if config.known_positives and batch.negative_score is not None:
        masked |= _given_negatives(batch, batch.negative_score > 0, row, columns)
    if config.same_cluster and batch.positive_cluster is not None:
        clusters = _document_column(batch.positive_cluster, batch.negative_cluster, batch, columns)
        masked |= _contained(_relevant_clusters(batch, batch.positive_cluster)[row], clusters)
    if config.same_query and batch.query_id is not None:
        queries = batch.query_id[column[column < batch.size]]  # the columns are positives first, negatives after
        masked[:, : len(queries)] |= batch.query_id[row][:, None] == queries
    return masked & (row[:, None] != column)


def query_mask(batch: Batch, config: MaskConfig, rows: slice = FULL, columns: slice = FULL) -> Tensor:
    """Boolean [n, N]: queries that may not be negatives of the positives of this rank's rows; or a tile of it."""
    row = batch.row_numbers[rows]
    column = torch.arange(batch.size, device=row.device)[columns]
    masked = row[:, None].new_zeros(len(row), len(column), dtype=torch.bool)
    if config.same_document and batch.positive_id is not None:
        masked |= batch.positive_id[row][:, None] == batch.positive_id[columns]
    if config.known_positives and batch.relevant_id is not None and batch.positive_id is not None:
        masked |= _contained(batch.relevant_id[columns], batch.positive_id[row]).T
    if config.same_cluster and batch.positive_cluster is not None:
        masked |= _contained(_relevant_clusters(batch, batch.positive_cluster)[columns], batch.positive_cluster[row]).T
    if config.same_query and batch.query_id is not None:
        masked |= batch.query_id[row][:, None] == batch.query_id[columns]
    return masked & (row[:, None] != column)


def teacher_mask(batch: Batch, config: MaskConfig) -> Tensor | None:
    """Boolean [M]: given negatives that the teacher finds relevant; None where `teacher_margin` is not set."""
    if config.teacher_margin is None:
        return None
    fix = "train on rows: [mined] or leave mask.teacher_margin out"
    positive = need(batch.teacher, "teacher scores", "mask.teacher_margin", fix)
    negative = need(batch.negative_teacher, "teacher scores of negatives", "mask.teacher_margin", fix)
    return negative > positive[batch.negative_row] - config.teacher_margin


class ScoreFilter:
    """Masks by score, tile by tile: pairs that the model, the teacher or the guide finds relevant."""

    def __init__(self, batch: Batch, config: MaskConfig, similarity: Similarity = "cosine") -> None:
        self.batch, self.teacher = batch, teacher_mask(batch, config)
        self.threshold: Tensor | None = None
        if config.margin is not None:
            with torch.no_grad():
                right = paired_similarity(batch.query[batch.rows], batch.positive[batch.rows], similarity)
            self.threshold = right[:, None] + config.margin
        self.guide = (
            None if config.guide_margin is None else GuideFilter(batch, config.guide_margin, config.guide_relative)
        )
        self.active = not (self.threshold is None and self.teacher is None and self.guide is None)

    def __call__(
        self, rows: slice, columns: slice, cosine: Tensor, *, documents: bool, of_query: bool = True
    ) -> Tensor:
        """Boolean [r, c]: entries of a tile of cosines to leave out, besides those of the masks by id.

        Its rows are queries (`of_query`) or their right documents, its columns documents or queries.
        """
        masked = torch.zeros_like(cosine, dtype=torch.bool)
        row = self.batch.row_numbers[rows]
        if self.threshold is not None:
            masked |= cosine > self.threshold[rows].to(cosine.dtype)
        if documents and self.teacher is not None:
            masked |= _given_negatives(self.batch, self.teacher, row, columns)
        if self.guide is not None:
            masked |= self.guide(rows, columns, documents=documents, of_query=of_query)
        return masked & (row[:, None] != torch.arange(columns.start, columns.stop, device=row.device))


class GuideFilter:
    """Masks pairs that a guide finds more similar than the right pair of the row: s > s_i - m, or s > s_i - |s_i| * m.

    A pair without vectors of the guide, and a row whose right pair has none, is never masked.
    """

    def __init__(self, batch: Batch, margin: float, relative: bool) -> None:
        fix = "give train.guide: {queries: ..., documents: ...}, vectors of the embed job"
        self.query = unit(need(batch.query_guide, "guide vectors", "mask.guide_margin", fix))
        positive = unit(need(batch.positive_guide, "guide vectors", "mask.guide_margin", fix))
        negative = [] if batch.negative_guide is None else [unit(batch.negative_guide)]
        self.documents, self.rows = torch.cat([positive, *negative]), batch.rows
        right = (self.query[batch.rows] * positive[batch.rows]).sum(dim=1)
        self.threshold = right - margin * (right.abs() if relative else 1.0) + TOLERANCE

    def __call__(self, rows: slice, columns: slice, *, documents: bool, of_query: bool) -> Tensor:
        """Boolean [r, c]: masked entries of a tile."""
        row_vectors = (self.query if of_query else self.documents)[self.rows][rows]
        column_vectors = (self.documents if documents else self.query)[columns]
        return row_vectors @ column_vectors.T > self.threshold[rows, None]


def unit(vectors: Tensor) -> Tensor:
    """Vectors [V, G] at length 1, in float32 at least."""
    return F.normalize(vectors.float() if vectors.dtype == torch.float16 else vectors, dim=1)


def _given_negatives(batch: Batch, selected: Tensor, row: Tensor, columns: slice) -> Tensor:
    """Boolean [R, C]: where a document [C] is one of the `selected` [M] negatives that came with the row [R]."""
    owner = torch.where(selected, batch.negative_row, -1)
    none = torch.full((batch.size,), -1, dtype=owner.dtype, device=owner.device)
    return row[:, None] == torch.cat([none, owner])[columns]


def _relevant_clusters(batch: Batch, positive_cluster: Tensor) -> Tensor:
    """Clusters [N, K] of each row's relevant documents, of its positive at least."""
    return positive_cluster[:, None] if batch.relevant_cluster is None else batch.relevant_cluster


def _document_column(positive: Tensor, negative: Tensor | None, batch: Batch, columns: slice) -> Tensor:
    """Ids of a range of the documents: positives, then negatives; -1 where negatives have none."""
    start, stop, _ = columns.indices(batch.size + len(batch.negative))
    first, last = max(0, start - batch.size), max(0, stop - batch.size)
    unknown = positive.new_full((last - first,), -1)
    return torch.cat([positive[start:stop], unknown if negative is None else negative[first:last]])


def _contained(relevant: Tensor, documents: Tensor) -> Tensor:
    """Boolean [R, C]: which of the documents [C] are among the relevant ids [R, K] of each row (-1: none)."""
    if not len(documents):
        return torch.zeros(len(relevant), 0, dtype=torch.bool, device=documents.device)
    distinct, column = torch.unique(documents, return_inverse=True)
    place = torch.searchsorted(distinct, relevant).clamp(max=len(distinct) - 1)
    known = (distinct[place] == relevant) & (relevant >= 0)
    hits = torch.zeros(len(relevant), len(distinct) + 1, dtype=torch.bool, device=documents.device)
    hits.scatter_(1, torch.where(known, place, len(distinct)), True)  # the last column takes what is not there
    return hits[:, column]
