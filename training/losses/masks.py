"""False-negative control after the gather: which documents of the global batch may not be a row's negatives."""

import torch
from torch import Tensor

from pipeline.config import Config
from training.losses.objective import Batch

EVERY = slice(None)


class MaskConfig(Config):
    """Which known positives are kept out of the denominator; a row's own positive never is."""

    same_document: bool = True  # the document is the row's own positive, elsewhere in the batch
    known_positives: bool = True  # the document is another known positive of the row's query
    same_query: bool = True  # the document is the positive of another row with the same query


def document_mask(batch: Batch, config: MaskConfig, rows: slice = EVERY, columns: slice = EVERY) -> Tensor:
    """Documents [N + M] that are no negatives of this rank's rows, as a boolean [n, N + M].

    `rows` of [n] and `columns` of [N + M] ask for a tile of it, at the cost of that tile.
    """
    own, width = batch.own[rows], batch.size + len(batch.negative)
    place = torch.arange(width, device=own.device)[columns]
    masked = own[:, None].new_zeros(len(own), len(place), dtype=torch.bool)
    if batch.positive_id is not None:
        documents = _document_ids(batch, batch.positive_id, columns)
        if config.same_document:
            masked |= batch.positive_id[own][:, None] == documents
        if config.known_positives and batch.known is not None:
            masked |= _among(batch.known[own], documents)
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
    if config.same_query and batch.query_id is not None:
        masked |= batch.query_id[own][:, None] == batch.query_id[columns]
    return masked & (own[:, None] != place)


def _document_ids(batch: Batch, positive_id: Tensor, columns: slice) -> Tensor:
    """Ids of a range of the documents: positives, then negatives; -1 where negatives have none."""
    start, stop, _ = columns.indices(batch.size + len(batch.negative))
    first, last = max(0, start - batch.size), max(0, stop - batch.size)
    unknown = positive_id.new_full((last - first,), -1)
    negative_id = unknown if batch.negative_id is None else batch.negative_id[first:last]
    return torch.cat([positive_id[start:stop], negative_id])


def _among(known: Tensor, documents: Tensor) -> Tensor:
    """Which of the documents [C] are among each row's known ids [R, K] (-1: none): [R, C].

    Few documents of a batch are known to any of its rows, so only their columns are compared.
    """
    found = torch.zeros(len(known), len(documents), dtype=torch.bool, device=documents.device)
    hit = (torch.isin(documents, known) & (documents >= 0)).nonzero().squeeze(1)
    for ids in known.unbind(dim=1):
        found[:, hit] |= ids[:, None] == documents[hit]
    return found
