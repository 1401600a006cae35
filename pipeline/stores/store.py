"""What every store is: settings in a recipe that open it, and a target that takes points by their key."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.core.config import Plugin

KEY, DIGEST = "key", "content_hash"  # what a store holds beside id, vector and payload


class Point(NamedTuple):
    """A row of vectors as a store holds it.

    `key` is its id; of a passage, its document's id with the character where it starts. `digest` is a hash of vector
    and payload: a row whose digest the store holds already is not sent again.
    """

    key: str
    id: str
    digest: str
    vector: npt.NDArray[np.float32]
    payload: dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """What all points have in common: the width of the vectors, what compares them, and the columns of the payload."""

    dim: int
    similarity: Literal["cosine", "dot"]
    payload: pa.Schema


class Target(ABC):
    """A store that is open. What `upsert` or `delete` was called with is in it whole, or in part after a kill."""

    @abstractmethod
    def digests(self, keys: Sequence[str]) -> dict[str, str]:
        """Digests of the points that it holds, of these keys."""

    @abstractmethod
    def upsert(self, points: Sequence[Point]) -> None:
        """Insert points, in place of those of the same keys. Of one point all parts change at once."""

    @abstractmethod
    def all_keys(self) -> Iterator[list[str]]:
        """Yield all keys, many at a time. Nothing is written meanwhile."""

    @abstractmethod
    def delete(self, keys: Sequence[str]) -> None:
        """Remove the points of these keys."""

    @abstractmethod
    def count(self) -> int:
        """Number of points."""

    def finish(self) -> None:
        """Do what follows when all points are there, such as an index."""
        return None

    def close(self) -> None:
        """Let go of the store; what was not finished stays for the next run."""
        return None


class Store(Plugin, ABC):
    """Settings of a store; a new one is a file with a subclass and one line in `pipeline/stores/registry.py`."""

    @abstractmethod
    def check_installed(self) -> None:
        """Raise UserError that names the extra where a library is missing; called before any work."""

    @property
    @abstractmethod
    def label(self) -> str:
        """What messages call it; holds no secret."""

    @abstractmethod
    def open(self, shape: Shape) -> Target:
        """Open it, and make the table or collection where it is not there.

        Raises UserError where it cannot be reached, and for a table of another shape or of somebody else.
        """
