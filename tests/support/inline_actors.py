"""Pools of the embedding and the evaluation job in this process: the same workers, without an actor for each model."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from pipeline.core.actor_pool import Pool, Worker
from pipeline.core.errors import UserError
from pipeline.embedding import worker as embedding
from pipeline.evaluation import ranking
from pipeline.evaluation.corpus import CorpusChunk


def stream(items: Sequence[Any], worker: type[Worker], settings: dict[str, Any], pool: Pool) -> Iterator[Any]:
    """What `actor_pool.stream` does, in this process."""
    actor = worker(**settings)
    for item in items:
        answer = actor({"item": json.dumps(item)})
        if answer["error"]:
            raise UserError(answer["error"])
        yield json.loads(answer["result"])


def rank_chunks(
    chunks: list[CorpusChunk], settings: dict[str, Any], actors: int | None
) -> Iterator[ranking.ChunkRanking]:
    """What `ranking._rank_chunks` does, in this process."""
    ranker = ranking.Ranker(**settings, threads=1)
    for chunk in chunks:
        yield ranking.ChunkRanking.unpack(ranker.rank(chunk).packed())


def use_inline_actors(patch: pytest.MonkeyPatch) -> None:
    """Have both jobs work in this process while the patch holds."""
    patch.setattr(embedding, "stream", stream)
    patch.setattr(ranking, "_rank_chunks", rank_chunks)
