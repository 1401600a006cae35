"""Cached vectors of texts: files under keys of all that decides the vectors, encoded and read piece by piece."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.core.errors import UserError
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.mining.candidate_arrays import Floats
from pipeline.storage import shards
from pipeline.storage.artifact import digest
from pipeline.storage.shards import Shard
from pipeline.storage.vectors import l2_normalize

_TEXTS_PER_PIECE = 8192  # encoded and hashed at once
_ROWS_PER_PIECE = 8192  # read at once
VECTOR_VERSION, SEARCH_VERSION = 1, 1  # raised when the code comes to make other results of the same inputs


def content_keys(plan: Sequence[Shard], columns: Sequence[str]) -> list[str]:
    """Digest of all rows of each shard: ids, texts and everything else that exclusions read."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        return list(threads.map(partial(_content_key, columns=list(columns)), plan))


def _content_key(shard: Shard, columns: list[str]) -> str:
    table = shards.read(shard, columns).combine_chunks()
    sha = hashlib.sha256()
    for batch in table.replace_schema_metadata(None).to_batches():
        sha.update(batch.serialize())
    return sha.hexdigest()[:24]


def vector_key(identity: Mapping[str, str], prompt: str, role: str, content: str) -> str:
    """Key of the vectors of a shard: weights, layers, pooling, length, precision; its role's prompt; its content."""
    model = {name: value for name, value in identity.items() if name != "prompts"}
    return digest([VECTOR_VERSION, model, prompt, role, content])


def search_key(vector_keys: Sequence[str], settings: Mapping[str, Any], judgments: str) -> str:
    """Key of candidates: every vector that was searched or searched for, the search's settings, and the judgments."""
    return digest([SEARCH_VERSION, list(vector_keys), dict(settings), judgments])


def weights_key(module: Any, tokenizer: Any, settings: Sequence[Any]) -> str:
    """Digest of a loaded model: every weight, its tokenizer and further settings."""
    sha = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()) if hasattr(module, "state_dict") else []:
        weight = tensor.detach().cpu().contiguous()
        sha.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        sha.update(weight.flatten().view(torch.uint8).numpy())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return digest([sha.hexdigest(), backend.to_str() if backend is not None else repr(tokenizer), list(settings)])


def texts_key(settings: Sequence[Any], texts: Sequence[str]) -> str:
    """Digest of settings and texts, in order."""
    sha = hashlib.sha256(digest(list(settings)).encode())
    for first in range(0, len(texts), _TEXTS_PER_PIECE):
        piece = texts[first : first + _TEXTS_PER_PIECE]
        sha.update(np.fromiter(map(len, piece), np.int64, len(piece)).tobytes())
        sha.update("".join(piece).encode("utf-8", "surrogatepass"))
    return sha.hexdigest()[:24]


@dataclass(frozen=True)
class TextEncoder:
    """A function from (texts, role, prompt name, prompt) to vectors, and a key of the model that computes them."""

    call: Any
    key: str

    def unit_vectors(self, texts: list[str], role: str, name: str | None, prompt: str | None) -> Floats:
        """Unit vectors [N, D] of texts in a role, with the prompt or the one of a name."""
        return l2_normalize(np.asarray(self.call(texts, role, name, prompt), np.float32))


@contextmanager
def text_encoder(model: Any, batch_size: int, devices: list[str] | bool = False) -> Iterator[TextEncoder]:
    """A SentenceTransformer, an `Encoder` or the name of a model directory as a `TextEncoder`.

    `devices` starts Sentence Transformers' pool of processes, one a device (True: all of them), and stops it at the
    end. Raises UserError where the model has no such pool.
    """
    if isinstance(model, str):
        model = Encoder.load(EncoderConfig(model=model))
    if isinstance(model, Encoder):
        if devices:
            raise UserError(
                "use_multi_process: needs a SentenceTransformer as model; for a model directory run "
                "`python -m scripts.mine`, whose actors encode in parallel"
            )
        yield _own_encoder(model)
        return
    with process_pool(model, devices) as pool:
        yield _peer_encoder(model, batch_size, pool)


def _own_encoder(model: Encoder) -> TextEncoder:
    def encode(texts: list[str], role: Any, name: str | None, prompt: str | None) -> Any:
        if name is not None:
            raise UserError("prompt names are a SentenceTransformer's; give the prompt itself")
        return model.encode([(prompt or "") + text for text in texts], role)

    return TextEncoder(encode, weights_key(model, model.tokenizer, [model.identity]))


def _peer_encoder(model: Any, batch_size: int, pool: dict[str, Any]) -> TextEncoder:
    def encode(texts: list[str], role: str, name: str | None, prompt: str | None) -> Any:
        function = model.encode_document if role == "document" else model.encode_query
        return function(
            texts, prompt_name=name, prompt=prompt, batch_size=batch_size,
            normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False, **pool,
        )  # fmt: skip

    return TextEncoder(encode, weights_key(model, getattr(model, "tokenizer", None), [repr(model)]))


@contextmanager
def process_pool(model: Any, devices: list[str] | bool) -> Iterator[dict[str, Any]]:
    """Keywords for the calls of a Sentence Transformers model: {"pool": a pool of processes}, or none without devices.

    Raises UserError for a model that cannot start one.
    """
    if not devices:
        yield {}
        return
    if not hasattr(model, "start_multi_process_pool"):
        raise UserError(f"use_multi_process: {type(model).__name__} has no start_multi_process_pool")
    pool = model.start_multi_process_pool(target_devices=None if isinstance(devices, bool) else devices)
    try:
        yield {"pool": pool}
    finally:
        model.stop_multi_process_pool(pool)


@dataclass(frozen=True)
class VectorFile:
    """Vectors [N, D] in a file, float32, read piece by piece."""

    path: Path
    count: int
    dim: int

    def read(self, first: int, last: int) -> Floats:
        """Rows first..last."""
        rows = min(last, self.count) - first
        flat = np.fromfile(self.path, np.float32, rows * self.dim, offset=4 * first * self.dim)
        return flat.reshape(rows, self.dim)

    def pieces(self, rows: int = _ROWS_PER_PIECE) -> Iterator[tuple[int, Floats]]:
        """All rows, a piece at a time, with the number of its first row."""
        for first in range(0, self.count, rows):
            yield first, self.read(first, first + rows)


def cached_vectors(
    folder: Path, texts: list[str], encoder: TextEncoder, role: str, name: str | None, prompt: str | None
) -> VectorFile:
    """Encode texts piece by piece into a file of `folder`; one of the same key is used again."""
    path = folder / f"{role}-{texts_key([encoder.key, role, name, prompt], texts)}.f32"
    dim = 0
    if not path.exists():
        temporary = path.with_suffix(".partial")
        with temporary.open("wb") as file:
            for first in range(0, len(texts), _TEXTS_PER_PIECE):
                vectors = encoder.unit_vectors(texts[first : first + _TEXTS_PER_PIECE], role, name, prompt)
                dim = vectors.shape[1]
                vectors.tofile(file)
        temporary.rename(path)
    dim = dim or path.stat().st_size // 4 // len(texts)
    return VectorFile(path, len(texts), dim)
