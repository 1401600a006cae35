"""One model over the whole corpus on Ray: each actor embeds its chunk and returns only its best rows.

No vector of a document leaves its actor and no queries x corpus matrix exists; the driver merges partial rankings,
whose order does not matter.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.core import ray_session, tasks
from pipeline.core.actor_pool import Pool, limit_threads, stream_tables
from pipeline.core.progress import Progress
from pipeline.encoder.encoder import Encoder, EncoderConfig, Role
from pipeline.encoder.passages import PassageCutter
from pipeline.encoder.truncation import SAMPLE, Truncation
from pipeline.evaluation.corpus import CorpusChunk
from pipeline.evaluation.dataset import EvalDataset, Pairs
from pipeline.evaluation.passages import PassageRanking, rank_passages
from pipeline.evaluation.similarity_samples import SimilarityPairs
from pipeline.evaluation.vector_variants import Variant, VariantRanking, empty, rank
from pipeline.search.exact import Rows, TopK, pairwise_dot, top_k
from pipeline.storage.shards import spread
from pipeline.storage.vectors import Ranges, comparable, similarity_of

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class RankedQueries:
    """The texts that are ranked, by their numbers [Q], and (place among them, corpus row) pairs that never are."""

    texts: Rows
    excluded: Pairs

    @classmethod
    def of(cls, dataset: EvalDataset, tuning: EvalDataset | None = None) -> "RankedQueries":
        """The queries of a split, and behind them the tuning queries, whose texts follow all of the split's."""
        first, count = len(dataset.texts), len(dataset.query_ids)
        excluded = [dataset.excluded] + ([(tuning.excluded[0] + count, tuning.excluded[1])] if tuning else [])
        texts = [np.arange(count), np.arange(first, first + len(tuning.query_ids) if tuning else first)]
        queries, rows = (np.concatenate(side) for side in zip(*excluded, strict=True))
        return cls(np.concatenate(texts), (queries, rows))

    @classmethod
    def of_tuning(cls, dataset: EvalDataset, tuning: EvalDataset) -> "RankedQueries":
        """The tuning queries alone, whose texts follow all of a split's."""
        first = len(dataset.texts)
        return cls(np.arange(first, first + len(tuning.query_ids)), tuning.excluded)


@dataclass(frozen=True)
class EncodedQueries:
    """Query-side vectors [T, D] of one model in the object store, with those of extra and of sampled documents."""

    vectors: Any
    extra_documents: Any
    sample: Any
    identity: dict[str, str]
    dim: int
    truncation: dict[str, dict[str, Any]]  # by role, of a sample


@dataclass(frozen=True)
class ModelRanking:
    """Best rows of each query under one model and its variants, similarities of the sampled pairs, and the time."""

    best: TopK
    similarities: Floats
    seconds: float
    variants: dict[Variant, TopK]
    passages: list[TopK]  # of each ranking by passages that was asked for


def encode_queries(
    config: EncoderConfig,
    texts: Sequence[str],
    extra_documents: Sequence[str],
    sample: Sequence[str],
    passages: Sequence[PassageRanking] = (),
) -> EncodedQueries:
    """Encode query-side texts and single documents once, in a task, and leave the vectors in the object store.

    Raises UserError where the encoder cannot make such passages.
    """
    arguments = (config, list(texts), list(extra_documents), list(sample), ray_session.cpus(), list(passages))
    vectors, extra_vectors, sample_vectors, facts = tasks.submit(encode_texts, *arguments, on_gpu=True, returns=4)
    return EncodedQueries(vectors, extra_vectors, sample_vectors, *tasks.get(facts))


def encode_texts(
    config: EncoderConfig,
    texts: list[str],
    extra_documents: list[str],
    sample: list[str],
    threads: int,
    passages: Sequence[PassageRanking] = (),
) -> tuple[Floats, Floats, Floats, tuple[dict[str, str], int, dict[str, dict[str, Any]]]]:
    """Encode queries [T, D] and documents [E, D], [S, D], whose inner products are the model's similarity (of length 1
    for the cosine); with them the encoder's identity, D, and what it cuts off queries and sampled documents.
    """
    encoder = _load(config, threads)
    for ranking in passages:
        PassageCutter(encoder, ranking)
    name = encoder.similarity
    documents = [comparable(encoder.encode(part, "document"), name) for part in (extra_documents, sample)]
    queries = comparable(encoder.encode(texts, "query"), name)
    cut = {"query": _truncation(encoder, texts, "query"), "document": _truncation(encoder, sample, "document")}
    return queries, documents[0], documents[1], (encoder.identity, encoder.dim, cut)


def _truncation(encoder: Encoder, texts: list[str], role: Role) -> dict[str, Any]:
    measured = [texts[index] for index in spread(len(texts), SAMPLE)]
    return Truncation.measure(encoder, measured, role).note()


def rank_corpus(
    config: EncoderConfig,
    encoded: EncodedQueries,
    chunks: Sequence[CorpusChunk],
    ranked: RankedQueries,
    k: int,
    pairs: SimilarityPairs,
    variants: Sequence[Variant],
    ranges: Ranges,
    actors: int | None,
    passages: Sequence[PassageRanking] = (),
) -> ModelRanking:
    """Rank every chunk for the queries and compute the similarities of `pairs` on the way.

    Rankings by `passages` need chunks of texts.

    Same numbers for any number of actors: chunks are cut by the corpus alone, and partial rankings merge by
    (falling score, rising row).
    """
    started = time.monotonic()
    text, row = pairs.arrays()
    queries = len(ranked.texts)
    best, similarities = TopK.empty(queries, k), np.full(len(row), np.nan, np.float32)
    rankings = {variant: empty(variant, queries, k) for variant in variants}
    by_passages = [TopK.empty(queries, k) for _ in passages]
    settings = {"config": config, "vectors": encoded.vectors, "k": k, "passages": list(passages)}
    similarity = similarity_of(encoded.identity)
    settings["shared"] = tasks.put(((text, row), ranked, list(variants), ranges, similarity))
    with Progress("evaluate", sum(chunk.rows for chunk in chunks), "documents") as progress:
        for part in _rank_chunks(list(chunks), settings, actors) if chunks else ():
            best.merge(part.best)
            for variant, ranking in zip(variants, part.variants, strict=True):
                rankings[variant].merge(ranking)
            for of_all, of_chunk in zip(by_passages, part.passages, strict=True):
                of_all.merge(of_chunk)
            similarities[part.pair] = part.similarity
            progress.add(part.documents)
    extra = row < 0
    if extra.any():
        vectors, documents = tasks.get(encoded.vectors), tasks.get(encoded.extra_documents)
        similarities[extra] = pairwise_dot(vectors, documents, text[extra], -1 - row[extra])
    tops = {variant: ranking.top(k) for variant, ranking in rankings.items()}
    return ModelRanking(best, similarities, time.monotonic() - started, tops, by_passages)


@dataclass(frozen=True)
class ChunkRanking:
    """Best rows of each query in one chunk, under each variant and by passages too, and the similarities in it."""

    documents: int
    best: TopK
    variants: list[VariantRanking]
    passages: list[TopK]
    pair: npt.NDArray[np.int64]
    similarity: Floats

    def arrays(self) -> list[npt.NDArray[Any]]:
        """List its arrays: of a ranking scores and rows, of one of binary vectors the rescored scores too."""
        arrays: list[npt.NDArray[Any]] = [self.best.scores, self.best.rows, self.pair, self.similarity]
        for ranking in self.variants:
            arrays += [ranking.best.scores, ranking.best.rows]
            arrays += [] if ranking.rescored is None else [ranking.rescored]
        for best in self.passages:
            arrays += [best.scores, best.rows]
        return arrays

    def packed(self) -> pa.Table:
        """Write it as one row of a table: the arrays as bytes, each with its shape and type."""
        arrays = self.arrays()
        shapes = [[str(array.dtype), *array.shape] for array in arrays]
        content = pa.array([[array.tobytes() for array in arrays]], pa.list_(pa.large_binary()))
        rescored = [ranking.rescored is not None for ranking in self.variants]
        header = json.dumps([self.documents, rescored, len(self.passages), shapes])
        return pa.table({"header": [header], "arrays": content})

    @classmethod
    def unpack(cls, row: pa.Table) -> "ChunkRanking":
        """Read a row that `packed` wrote."""
        documents, are_rescored, passages, shapes = json.loads(row["header"][0].as_py())
        content = row["arrays"][0].values
        arrays = iter(
            np.frombuffer(cell.as_buffer(), shape[0]).reshape(shape[1:])
            for cell, shape in zip(content, shapes, strict=True)
        )
        best, pair, similarity = TopK(next(arrays), next(arrays)), next(arrays), next(arrays)
        variants = [
            VariantRanking(TopK(next(arrays), next(arrays)), next(arrays) if is_rescored else None)
            for is_rescored in are_rescored
        ]
        by_passages = [TopK(next(arrays), next(arrays)) for _ in range(passages)]
        return cls(documents, best, variants, by_passages, pair, similarity)


def _rank_chunks(chunks: list[CorpusChunk], settings: dict[str, Any], actors: int | None) -> Iterator[ChunkRanking]:
    """Run the chunks through a pool of rankers; one ranking a chunk comes back."""
    pool = Pool.plan(actors, len(chunks))
    rows = [{"chunk": chunk.packed()} for chunk in chunks]
    for row in stream_tables(rows, Ranker, {**settings, "threads": pool.threads}, pool):
        yield ChunkRanking.unpack(row)


class Ranker:
    """An actor with one encoder and the query vectors, which ranks one chunk of the corpus at a time."""

    def __init__(
        self,
        config: EncoderConfig,
        vectors: Any,
        shared: Any,
        k: int,
        threads: int,
        passages: Sequence[PassageRanking] = (),
    ) -> None:
        self.config, self.threads, self.k, self.passages = config, threads, k, passages
        self.vectors = tasks.get(vectors)
        (self.text, self.row), ranked, self.variants, self.ranges, self.similarity = tasks.get(shared)
        self.queries, self.excluded = self.vectors[ranked.texts], ranked.excluded

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Turn one row, a chunk, into one row, its ranking."""
        return self.rank(CorpusChunk.unpack(batch["chunk"][0].as_py())).packed()

    def rank(self, chunk: CorpusChunk) -> ChunkRanking:
        """Rank the documents of one chunk."""
        documents = comparable(self._vectors(chunk), self.similarity)
        k, first_row, barred = min(self.k, chunk.rows), chunk.first_row, self.excluded
        best = TopK(*top_k(self.queries, [documents], k, first_row=first_row, excluded=barred))
        rankings = [
            rank(variant, self.queries, documents, self.ranges, self.k, first_row, barred) for variant in self.variants
        ]
        pair = np.flatnonzero((self.row >= chunk.first_row) & (self.row < chunk.first_row + chunk.rows))
        similarity = pairwise_dot(self.vectors, documents, self.text[pair], self.row[pair] - chunk.first_row)
        passages = self._passages(chunk, documents) if self.passages else []
        return ChunkRanking(chunk.rows, best, rankings, passages, pair, similarity)

    def _passages(self, chunk: CorpusChunk, documents: Floats) -> list[TopK]:
        """Rank the documents of a chunk of texts by their passages."""
        texts = chunk.read().to_pylist()
        return rank_passages(
            self.encoder, self.passages, self.queries, texts, documents, self.k, self.excluded, chunk.first_row
        )

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder, loaded when the first text has to be encoded."""
        return _load(self.config, self.threads)

    def _vectors(self, chunk: CorpusChunk) -> Floats:
        column = chunk.read()
        if chunk.column == "vector":
            flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
            return np.asarray(flat, np.float32).reshape(chunk.rows, -1)
        return self.encoder.encode(column.to_pylist(), "document")


def _load(config: EncoderConfig, threads: int) -> Encoder:
    limit_threads(threads)
    return Encoder.load(config)
