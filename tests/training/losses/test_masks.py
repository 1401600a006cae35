"""Which documents and queries of the global batch are no negatives of a row, each setting by itself, by hand."""

import pytest
import torch

from training.losses.false_negatives import MaskConfig, document_mask, query_mask
from training.losses.loss import local_batch

NOTHING = dict.fromkeys(("same_document", "known_positives", "same_query", "same_cluster"), False)
# Four rows with one given negative each. Rows 0 and 3 have the same query, rows 0 and 2 the same document; the query
# of row 1 is known to have the documents 11 and 12 right; the documents of rows 1 and 3 are near duplicates, and so is
# the negative of row 0; the negative of row 2 is judged right, and that of row 3 is the document of row 1.
COLUMNS = {
    "query_id": torch.tensor([1, 2, 3, 1]),
    "positive_id": torch.tensor([10, 11, 10, 13]),
    "negative_id": torch.tensor([20, 12, 22, 11]),
    "relevant_id": torch.tensor([[10, -1], [11, 12], [10, -1], [13, -1]]),
    "positive_cluster": torch.tensor([-1, 7, -1, 7]),
    "negative_cluster": torch.tensor([7, -1, -1, 7]),
    "negative_score": torch.tensor([0.0, 0.0, 2.0, 0.0]),
}
# Columns: the documents of rows 0 to 3, then the negatives of rows 0 to 3.
DOCUMENTS = {
    "same_document": {(0, 2), (2, 0), (1, 7)},
    "known_positives": {(0, 2), (2, 0), (1, 5), (1, 7), (2, 6)},
    "same_query": {(0, 3), (3, 0)},
    "same_cluster": {(1, 3), (3, 1), (1, 4), (3, 4), (1, 7), (3, 7)},
}
QUERIES = {
    "same_document": {(0, 2), (2, 0)},
    "known_positives": {(0, 2), (2, 0)},
    "same_query": {(0, 3), (3, 0)},
    "same_cluster": {(1, 3), (3, 1)},
}


def batch(**more):
    vectors = torch.zeros(4, 2)
    return local_batch(vectors, vectors, torch.zeros(4, 1, 2), **(COLUMNS | more))


def places(mask):
    return {(row, column) for row, column in mask.nonzero().tolist()}


@pytest.mark.parametrize("setting", NOTHING)
def test_each_setting_masks_what_it_names_and_nothing_else(setting):
    config = MaskConfig(**(NOTHING | {setting: True}))
    assert places(document_mask(batch(), config)) == DOCUMENTS[setting]
    assert places(query_mask(batch(), config)) == QUERIES[setting]


def test_together_they_mask_what_one_of_them_does():
    assert places(document_mask(batch(), MaskConfig())) == set.union(*DOCUMENTS.values())
    assert places(query_mask(batch(), MaskConfig())) == set.union(*QUERIES.values())
    assert not document_mask(batch(), MaskConfig(**NOTHING)).any()


def test_a_tile_is_a_part_of_the_whole():
    whole = document_mask(batch(), MaskConfig())
    for rows in (slice(0, 2), slice(1, 4)):
        for columns in (slice(0, 3), slice(2, 6), slice(5, 8)):
            assert torch.equal(document_mask(batch(), MaskConfig(), rows, columns), whole[rows, columns])


def test_clusters_of_all_relevant_documents_count():
    """The query of row 0 has a second right document of cluster 7, which stands in no row of the batch."""
    clusters = torch.tensor([[-1, 7], [7, -1], [-1, -1], [7, -1]])
    config = MaskConfig(**(NOTHING | {"same_cluster": True}))
    found = places(document_mask(batch(relevant_cluster=clusters), config))
    assert found == DOCUMENTS["same_cluster"] | {(0, 1), (0, 3), (0, 4), (0, 7)}
    assert places(query_mask(batch(relevant_cluster=clusters), config)) == {(1, 3), (3, 1), (1, 0), (3, 0)}


def test_a_document_without_an_id_or_a_cluster_is_nobodys():
    """-1 stands for none, and so does a column that is not there: what has no id or cluster equals nothing."""
    none = torch.full((4,), -1)
    config = MaskConfig(**(NOTHING | {"known_positives": True, "same_cluster": True}))
    unknown = batch(negative_id=none, negative_cluster=none, positive_cluster=none)
    assert places(document_mask(unknown, config)) == {(0, 2), (2, 0), (2, 6)}
    without = batch(negative_id=None, negative_cluster=None)
    assert places(document_mask(without, config)) == {(0, 2), (2, 0), (2, 6), (1, 3), (3, 1)}
