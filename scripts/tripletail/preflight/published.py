"""The check of vectors that go into a store."""

from typing import Any

from pipeline.storage.artifact import Artifact
from pipeline.storage.files import join
from pipeline.stores.job import payload_columns

from .ahead import Ahead


def check_publish(config: Any, ahead: Ahead) -> str:
    """Check the vectors, their columns and the library of a store; the store itself is not asked."""
    config.store.check_installed()
    path = config.vectors or join(config.run, "vectors")
    if ahead.has(path):
        return f"{path} into {config.store.label}"
    vectors = Artifact.open(path, "embed")
    columns = ", ".join(payload_columns(vectors, config.columns)) or "no column"
    return f"{vectors.rows('vectors'):,} vectors of {vectors.path} with {columns} into {config.store.label}"
