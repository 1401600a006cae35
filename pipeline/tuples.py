"""Triplets as Sentence Transformers and its trainer read them: columns anchor, positive, negative, in that order."""

import pyarrow as pa
import pyarrow.compute as pc

COLUMNS = ("anchor", "positive", "negative")


def tuples(triplets: pa.Table) -> pa.Table:
    """Table `triplets` [N] into one row for each negative, in order; rows without a negative give none."""
    texts = pc.struct_field(pc.list_flatten(triplets["negatives"]), "text")
    owners = pc.list_parent_indices(triplets["negatives"])
    if isinstance(owners, pa.ChunkedArray):
        owners = owners.combine_chunks()
    rows = triplets.select(["anchor", "positive"]).take(owners)
    return rows.append_column("negative", texts)
