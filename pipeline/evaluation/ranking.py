"""One model over the whole corpus on Ray: each actor embeds its piece and returns only its best rows.

No vector of a document leaves its actor and no queries x corpus matrix exists; the driver merges partial rankings,
whose order does not matter.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.core import ray_session
from pipeline.core.actor_pool import Pool, limit_threads
from pipeline.core.progress import Progress
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.evaluation.corpus import Piece
from pipeline.evaluation.similarity_samples import Probes
from pipeline.evaluation.vector_variants import Ranked, Variant, empty, rank
from pipeline.search.exact import Best, dots, top_k
from pipeline.storage.vectors import Ranges, unit

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Asked:
    """The question side of one model: vectors [T, D] in the object store, of loose and of sampled documents too."""

    vectors: Any
    loose: Any
    sample: Any
    identity: dict[str, str]
    dim: int


@dataclass(frozen=True)
class Answer:
    """What one model made of the corpus: best rows of each query, similarities of the probes, and its pace.

    Beside them the best rows under each of its variants.
    """

    best: Best
    similarities: Floats
    seconds: float
    variants: dict[Variant, Best]


def ask(config: EncoderConfig, texts: Sequence[str], loose: Sequence[str], sample: Sequence[str]) -> Asked:
    """Encode query-side texts and single documents once, in a Ray task, and leave the vectors in the object store."""
    import ray

    task = ray.remote(num_cpus=1, num_gpus=min(1, ray_session.gpus()), num_returns=4)(encode_texts)
    queries, other, drawn, told = task.remote(config, list(texts), list(loose), list(sample), ray_session.cpus())
    identity, dim = ray.get(told)
    return Asked(queries, other, drawn, identity, dim)


def encode_texts(
    config: EncoderConfig, texts: list[str], loose: list[str], sample: list[str], threads: int
) -> tuple[Floats, Floats, Floats, tuple[dict[str, str], int]]:
    """Encode queries [T, D] and documents [L, D], [S, D], all of length 1; with them the encoder's identity and D."""
    encoder = _load(config, threads)
    documents = [unit(encoder.encode(part, "document")) for part in (loose, sample)]
    return unit(encoder.encode(texts, "query")), documents[0], documents[1], (encoder.identity, encoder.dim)


def answer(
    config: EncoderConfig,
    asked: Asked,
    pieces: Sequence[Piece],
    queries: int,
    k: int,
    probes: Probes,
    variants: Sequence[Variant],
    ranges: Ranges,
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
    ranked = {variant: empty(variant, queries, k) for variant in variants}
    progress = Progress("evaluate", sum(piece.rows for piece in pieces), "documents")
    settings = {"config": config, "vectors": asked.vectors, "queries": queries, "k": k}
    beside = ray.put(((text, row), list(variants), ranges))
    for part in _parts(list(pieces), settings | {"beside": beside}, actors) if pieces else ():
        best.merge(part.best)
        for variant, held in zip(variants, part.variants, strict=True):
            ranked[variant].merge(held)
        found[part.probe] = part.similarity
        progress.add(part.documents)
    loose = row < 0
    if loose.any():
        found[loose] = dots(ray.get(asked.vectors), ray.get(asked.loose), text[loose], -1 - row[loose])
    tops = {variant: held.top(k) for variant, held in ranked.items()}
    return Answer(best, found, time.monotonic() - started, tops)


@dataclass(frozen=True)
class Part:
    """What one piece gives: its best rows of each query, under each variant too, and its probes' similarities."""

    documents: int
    best: Best
    variants: list[Ranked]
    probe: npt.NDArray[np.int64]
    similarity: Floats

    def arrays(self) -> list[npt.NDArray[Any]]:
        """List its arrays; those of a variant are scores, rows and, of binary vectors, scores to rank anew by."""
        own: list[npt.NDArray[Any]] = [self.best.scores, self.best.rows, self.probe, self.similarity]
        for held in self.variants:
            own += [held.best.scores, held.best.rows, *([] if held.anew is None else [held.anew])]
        return own

    def packed(self) -> pa.Table:
        """Return it as one row: the arrays as bytes, each with its shape and type."""
        arrays = self.arrays()
        heads = [[str(array.dtype), *array.shape] for array in arrays]
        held = pa.array([[array.tobytes() for array in arrays]], pa.list_(pa.large_binary()))
        about = json.dumps([self.documents, [ranked.anew is not None for ranked in self.variants], heads])
        return pa.table({"about": [about], "arrays": held})

    @classmethod
    def unpack(cls, row: pa.Table) -> "Part":
        """Take it back from a row."""
        documents, anew, heads = json.loads(row["about"][0].as_py())
        held = row["arrays"][0].values
        arrays = iter(
            np.frombuffer(cell.as_buffer(), head[0]).reshape(head[1:]) for cell, head in zip(held, heads, strict=True)
        )
        best, probe, similarity = Best(next(arrays), next(arrays)), next(arrays), next(arrays)
        variants = [Ranked(Best(next(arrays), next(arrays)), next(arrays) if one else None) for one in anew]
        return cls(documents, best, variants, probe, similarity)


def _parts(pieces: list[Piece], settings: dict[str, Any], actors: int | None) -> Iterator[Part]:
    """Run the pieces through a pool of rankers; one part a piece comes back."""
    import ray

    pool = Pool.plan(actors, len(pieces))
    rows = [{"piece": piece.packed()} for piece in pieces]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        Ranker,
        fn_constructor_kwargs={**settings, "threads": pool.threads},
        compute=ray.data.ActorPoolStrategy(size=pool.size),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=pool.num_cpus,
        num_gpus=pool.num_gpus or None,
    )
    for row in dataset.iter_batches(batch_size=1, batch_format="pyarrow"):
        yield Part.unpack(row)


class Ranker:
    """An actor that holds one encoder and the query vectors."""

    def __init__(self, config: EncoderConfig, vectors: Any, beside: Any, queries: int, k: int, threads: int) -> None:
        import ray

        self.config, self.threads, self.k = config, threads, k
        self.vectors = ray.get(vectors)
        (self.text, self.row), self.variants, self.ranges = ray.get(beside)
        self.queries = self.vectors[:queries]
        self._encoder: Encoder | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Turn one row, a piece, into one row, its part of the answer."""
        return self.part(Piece.unpack(batch["piece"][0].as_py())).packed()

    def part(self, piece: Piece) -> Part:
        """Rank one piece."""
        documents = unit(self._vectors(piece))
        best = Best(*top_k(self.queries, [documents], min(self.k, piece.rows), first_row=piece.first_row))
        ranked = [
            rank(variant, self.queries, documents, self.ranges, self.k, piece.first_row) for variant in self.variants
        ]
        probe = np.flatnonzero((self.row >= piece.first_row) & (self.row < piece.first_row + piece.rows))
        similarity = dots(self.vectors, documents, self.text[probe], self.row[probe] - piece.first_row)
        return Part(piece.rows, best, ranked, probe, similarity)

    def _vectors(self, piece: Piece) -> Floats:
        column = piece.read()
        if piece.column == "vector":
            flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
            return np.asarray(flat, np.float32).reshape(piece.rows, -1)
        if self._encoder is None:
            self._encoder = _load(self.config, self.threads)
        return self._encoder.encode(column.to_pylist(), "document")


def _load(config: EncoderConfig, threads: int) -> Encoder:
    limit_threads(threads)
    return Encoder.load(config)
