"""False-negative control after the gather: which documents of the global batch may not be a row's negatives."""

import torch
from torch import Tensor

from pipeline.config import Config
from training.losses.objective import Batch


class MaskConfig(Config):
    """Which known positives are kept out of the denominator; a row's own positive never is."""

    same_document: bool = True  # the document is the row's own positive, elsewhere in the batch
    known_positives: bool = True  # the document is another known positive of the row's query
    same_query: bool = True  # the document is the positive of another row with the same query


def document_mask(batch: Batch, config: MaskConfig) -> Tensor:
    """Documents [N + M] that are no negatives of this rank's rows, as a boolean [n, N + M]."""
    own, device = batch.own, batch.query.device
    masked = torch.zeros(len(own), batch.size + len(batch.negative), dtype=torch.bool, device=device)
    if batch.positive_id is not None:
        found = (
            batch.negative_id
            if batch.negative_id is not None
            else batch.positive_id.new_full((len(batch.negative),), -1)
        )
        documents = torch.cat([batch.positive_id, found])
        if config.same_document:
            masked |= batch.positive_id[own][:, None] == documents
        if config.known_positives and batch.known is not None:
            for known in batch.known[own].unbind(dim=1):
                masked |= (known[:, None] == documents) & (known >= 0)[:, None]
    if config.same_query and batch.query_id is not None:
        same = batch.query_id[own][:, None] == batch.query_id
        masked[:, : batch.size] |= same
    masked[torch.arange(len(own), device=device), own] = False
    return masked


def query_mask(batch: Batch, config: MaskConfig) -> Tensor:
    """Queries [N] that are no negatives of this rank's own documents, as a boolean [n, N]."""
    own = batch.own
    masked = torch.zeros(len(own), batch.size, dtype=torch.bool, device=batch.query.device)
    if config.same_document and batch.positive_id is not None:
        masked |= batch.positive_id[own][:, None] == batch.positive_id
    if config.known_positives and batch.known is not None and batch.positive_id is not None:
        for known in batch.known.unbind(dim=1):
            masked |= batch.positive_id[own][:, None] == known
    if config.same_query and batch.query_id is not None:
        masked |= batch.query_id[own][:, None] == batch.query_id
    masked[torch.arange(len(own), device=masked.device), own] = False
    return masked
