"""One model over the whole corpus on Ray: each actor embeds its piece and returns only its best rows.

No vector of a document leaves its actor and no queries x corpus matrix exists; the driver merges partial rankings,
whose order does not matter.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import engine
from pipeline.console import Progress
from pipeline.encoder import Encoder, EncoderConfig
from pipeline.evaluate.corpus import Piece
from pipeline.evaluate.probes import Probes
from pipeline.pool import Pool, limit_threads
from pipeline.search import Best, dots, top_k, unit

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Asked:
    """The question side of one model: vectors [T, D] in the object store, of loose documents too, and its identity."""

    vectors: Any
    loose: Any
    identity: dict[str, str]


@dataclass(frozen=True)
class Answer:
    """What one model made of the corpus: best rows of each query, similarities of the probes, and its pace."""

    best: Best
    similarities: Floats
    seconds: float


def ask(config: EncoderConfig, texts: Sequence[str], loose: Sequence[str]) -> Asked:
    """Encode query-side texts and loose documents once, in a Ray task, and leave the vectors in the object store."""
    import ray

    task = ray.remote(num_cpus=1, num_gpus=min(1, engine.gpus()), num_returns=3)(encode_texts)
    vectors, other, identity = task.remote(config, list(texts), list(loose), engine.cpus())
    return Asked(vectors, other, ray.get(identity))


def encode_texts(
    config: EncoderConfig, texts: list[str], loose: list[str], threads: int
) -> tuple[Floats, Floats, dict[str, str]]:
    """Encode queries [T, D] and documents [L, D], both of length 1; with them the encoder's identity."""
    encoder = _load(config, threads)
    return unit(encoder.encode(texts, "query")), unit(encoder.encode(loose, "document")), encoder.identity


def answer(
    config: EncoderConfig,
    asked: Asked,
    pieces: Sequence[Piece],
    queries: int,
    k: int,
    probes: Probes,
    actors: int | None,
) -> Answer:
    """Rank every piece for the first `queries` texts and take the probes' similarities along.

    Same numbers for any number of actors: pieces are cut by the corpus alone, and partial rankings merge by
    (falling score, rising row).
    """
    import ray

    started = time.monotonic()
    text, row = probes.arrays()
    best, found = Best.empty(queries, k), np.full(len(row), np.nan, np.float32)
    progress = Progress("evaluate", sum(piece.rows for piece in pieces), "documents")
    if pieces:
        for part in _parts(config, asked, list(pieces), queries, k, (text, row), actors):
            best.merge(Best(_matrix(part, "scores", queries), _matrix(part, "rows", queries)))
            found[_array(part, "probe")] = _array(part, "similarity")
            progress.add(part["documents"][0].as_py())
    loose = row < 0
    if loose.any():
        found[loose] = dots(ray.get(asked.vectors), ray.get(asked.loose), text[loose], -1 - row[loose])
    return Answer(best, found, time.monotonic() - started)


def _parts(
    config: EncoderConfig, asked: Asked, pieces: list[Piece], queries: int, k: int, pairs: Any, actors: int | None
) -> Iterator[pa.Table]:
    """Run the pieces through a pool of rankers; one row a piece comes back."""
    import ray

    pool = Pool.plan(actors, len(pieces))
    rows = [piece.packed() for piece in pieces]
    settings = {"config": config, "vectors": asked.vectors, "pairs": ray.put(pairs), "queries": queries, "k": k}
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        Ranker,
        fn_constructor_kwargs={**settings, "threads": pool.threads},
        compute=ray.data.ActorPoolStrategy(size=pool.size),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=pool.num_cpus,
        num_gpus=pool.num_gpus or None,
    )
    yield from dataset.iter_batches(batch_size=1, batch_format="pyarrow")


class Ranker:
    """An actor that holds one encoder and the query vectors."""

    def __init__(self, config: EncoderConfig, vectors: Any, pairs: Any, queries: int, k: int, threads: int) -> None:
        import ray

        self.config, self.threads, self.k = config, threads, k
        self.vectors, (self.text, self.row) = ray.get(vectors), ray.get(pairs)
        self.queries = self.vectors[:queries]
        self._encoder: Encoder | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Turn one row, a piece, into one row: its best rows of each query and its probes' similarities."""
        piece = Piece.unpack(batch.to_pylist()[0])
        documents = unit(self._vectors(piece))
        scores, rows = top_k(self.queries, [documents], min(self.k, piece.rows), first_row=piece.first_row)
        probe = np.flatnonzero((self.row >= piece.first_row) & (self.row < piece.first_row + piece.rows))
        similarity = dots(self.vectors, documents, self.text[probe], self.row[probe] - piece.first_row)
        arrays: dict[str, npt.NDArray[Any]] = {"scores": scores, "rows": rows, "probe": probe, "similarity": similarity}
        packed = {name: pa.array([value.tobytes()], pa.large_binary()) for name, value in arrays.items()}
        return pa.table({"documents": [piece.rows], **packed})

    def _vectors(self, piece: Piece) -> Floats:
        column = piece.read()
        if piece.column == "vector":
            flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
            return np.asarray(flat, np.float32).reshape(piece.rows, -1)
        if self._encoder is None:
            self._encoder = _load(self.config, self.threads)
        return self._encoder.encode(column.to_pylist(), "document")


_TYPES = {"scores": np.float32, "similarity": np.float32, "rows": np.int64, "probe": np.int64}


def _array(part: pa.Table, name: str) -> npt.NDArray[Any]:
    return np.frombuffer(part[name][0].as_buffer(), _TYPES[name])


def _matrix(part: pa.Table, name: str, queries: int) -> npt.NDArray[Any]:
    return _array(part, name).reshape(queries, -1) if queries else np.empty((0, 0), _TYPES[name])


def _load(config: EncoderConfig, threads: int) -> Encoder:
    limit_threads(threads)
    return Encoder.load(config)
