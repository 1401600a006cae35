"""The end of an embedding job on two texts, before the first shard: what cannot be written is found in seconds."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pipeline.core.errors import UserError
from pipeline.embedding.worker import EmbedTask
from pipeline.encoder.encoder import Encoder
from pipeline.storage import shards
from pipeline.storage.disk_space import require_space
from pipeline.storage.files import join, read_parquet, remove_folder
from pipeline.storage.vectors import Ranges, VectorFormat, formatted_table

FOLDER = "rehearsal"  # below the output, removed again
TEXTS = ["a", "a text that is longer than the other one, so that the first is padded where texts are " * 8]
BYTES = {"float32": 4.0, "float16": 2.0, "int8": 1.0, "binary": 0.125}
LEAST = 0.5  # share of the plain size that packing may leave


def rehearse(task: EmbedTask, encoder: Encoder, ranges: Ranges, missing: int, out: str) -> None:
    """Embed two texts, write a shard of them and an empty one, and read both back, where so many vectors are `missing`.

    Raises UserError where vectors are not finite, where what is read is not what was written, and where the disk has
    no room for the vectors that are still missing.
    """
    if not missing:
        return
    require_space(out, LEAST * missing * row_bytes(task.formats, encoder.dim), f"{missing:,} vectors")
    vectors = encoder.encode(TEXTS, task.role)
    if not np.isfinite(vectors).all():
        raise UserError(f"model {task.encoder.model}: gives vectors that are not finite; try encoder.dtype float32")
    place = join(out, FOLDER)
    remove_folder(place)
    for name, rows in (("two", vectors), ("none", vectors[:0])):
        ids = pa.chunked_array([[f"row {number}" for number in range(len(rows))]], pa.string())
        table = formatted_table(ids, rows, task.formats, ranges, scaled=encoder.normalize)
        shards.commit(place, name, table, {"left_out": 0})
        path = join(place, f"{name}.parquet")
        if shards.committed(place, name) is None or not read_parquet(path).equals(table):
            raise UserError(f"{path}: what was written there is not what is read; look at the disk or the store")
    remove_folder(place)


def row_bytes(formats: Sequence[VectorFormat], dim: int) -> float:
    """Bytes of the vectors of one text, unpacked."""
    return sum(BYTES[form.dtype] * (form.dim or dim) for form in formats)
