"""Qdrant: a collection of points, at an address or in a folder."""

import os
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.core.errors import UserError
from pipeline.stores.points import as_json
from pipeline.stores.store import DIGEST, KEY, Point, Shape, Store, Target

_NAMESPACE = uuid.UUID("6f0e3f0a-33b1-5d8e-9c0e-5a1b7a0c2d41")  # of our keys: the same key is the same point for ever


class Qdrant(Store):
    """A collection of Qdrant; a point's id is a UUID made of its key, which its payload holds beside `id`."""

    type: Literal["qdrant"] = "qdrant"
    url: str | None = Field(None, description="address of a server, such as http://127.0.0.1:6333")
    path: str | None = Field(None, description="folder of Qdrant's local mode, instead of an address")
    collection: str = Field("documents", description="its name")
    api_key_env: str = Field("QDRANT_API_KEY", description="variable with the key; the key is written nowhere")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if bool(self.url) == bool(self.path):
            raise ValueError("give store.url or store.path")
        return self

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"qdrant {self.collection}"

    def check_installed(self) -> None:
        """Raise UserError that names the extra where the client is missing."""
        try:
            import qdrant_client  # noqa: F401
        except ImportError as error:
            raise UserError(
                "publish: needs Qdrant's client; install it with `pip install 'tripletail[qdrant]'`"
            ) from error

    def open(self, shape: Shape) -> Target:
        """Connect, and make the collection where it is not there."""
        from qdrant_client import QdrantClient

        key = os.environ.get(self.api_key_env) or None
        try:
            client = QdrantClient(path=self.path) if self.path else QdrantClient(url=self.url, api_key=key)
            return _Collection(self, client, shape)
        except UserError:
            raise
        except Exception as error:  # the client raises what its transports do
            raise UserError(f"publish: {self.label}: {' '.join(str(error).split())[:300]}") from error


class _Collection(Target):
    """The collection."""

    def __init__(self, settings: Qdrant, client: Any, shape: Shape) -> None:
        from qdrant_client import models

        self.client, self.name = client, settings.collection
        distance = {"cosine": models.Distance.COSINE, "dot": models.Distance.DOT}[shape.similarity]
        if not client.collection_exists(self.name):
            client.create_collection(self.name, models.VectorParams(size=shape.dim, distance=distance))
        there = client.get_collection(self.name).config.params.vectors
        actual = (getattr(there, "size", None), getattr(there, "distance", None))
        if actual != (shape.dim, distance):
            client.close()
            raise UserError(
                f"publish: {settings.label}: holds vectors of {actual[0]} numbers by {actual[1]}, these {shape.dim} "
                f"by {distance}; choose another --store.collection"
            )

    def digests(self, keys: Sequence[str]) -> dict[str, str]:
        """Digests of the points of these keys."""
        points = self.client.retrieve(self.name, [point_id(key) for key in keys], with_payload=[KEY, DIGEST])
        return {point.payload[KEY]: point.payload.get(DIGEST, "") for point in points}

    def upsert(self, points: Sequence[Point]) -> None:
        """Insert or replace points."""
        import json

        from qdrant_client import models

        self.client.upsert(
            self.name,
            models.Batch(
                ids=[point_id(point.key) for point in points],
                vectors=[point.vector.tolist() for point in points],
                payloads=[
                    {KEY: point.key, "id": point.id, DIGEST: point.digest} | json.loads(as_json(point.payload))
                    for point in points
                ],
            ),
        )

    def all_keys(self) -> Iterator[list[str]]:
        """Yield all keys, a page at a time."""
        offset = None
        while True:
            points, offset = self.client.scroll(self.name, limit=10_000, offset=offset, with_payload=[KEY])
            yield [point.payload.get(KEY, "") for point in points]
            if offset is None:
                return

    def delete(self, keys: Sequence[str]) -> None:
        """Remove points."""
        from qdrant_client import models

        self.client.delete(self.name, models.PointIdsList(points=[point_id(key) for key in keys]))

    def count(self) -> int:
        """Points of the collection."""
        return int(self.client.count(self.name, exact=True).count)

    def close(self) -> None:
        """Close the client."""
        self.client.close()


def point_id(key: str) -> str:
    """Id of the point of a key: Qdrant takes numbers and UUIDs alone."""
    return str(uuid.uuid5(_NAMESPACE, key))
