"""Vectors of texts in a file, under a key of all that decides them, encoded and read piece by piece."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from pipeline.storage.vectors import unit

_TEXTS = 4096
VECTOR_VERSION, SEARCH_VERSION = 1, 1  # raised when the code comes to make another thing of the same inputs


def contents(plan: Sequence[Shard], columns: Sequence[str]) -> list[str]:
    """Digest of the rows of each shard, whole: ids, texts and all that exclusions look at."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        return list(threads.map(partial(_content, columns=list(columns)), plan))


def _content(shard: Shard, columns: list[str]) -> str:
    table = shards.read(shard, columns).combine_chunks()
    sha = hashlib.sha256()
    for batch in table.replace_schema_metadata(None).to_batches():
        sha.update(batch.serialize())
    return sha.hexdigest()[:24]


def vector_key(identity: Mapping[str, str], prompt: str, role: str, content: str) -> str:
    """Key of the vectors of a shard: weights, layers, pooling, length, precision; its role's prompt; its content."""
    model = {name: value for name, value in identity.items() if name != "prompts"}
    return digest([VECTOR_VERSION, model, prompt, role, content])


def search_key(vector_keys: Sequence[str], settings: Mapping[str, Any], judged: str) -> str:
    """Key of candidates: every vector that was searched or searched for, the search's settings, and the judgments."""
    return digest([SEARCH_VERSION, list(vector_keys), dict(settings), judged])


def weights_key(module: Any, tokenizer: Any, settings: Sequence[Any]) -> str:
    """Digest of a loaded model: every weight, its tokenizer and what else is said of it."""
    sha = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()) if hasattr(module, "state_dict") else []:
        held = tensor.detach().cpu().contiguous()
        sha.update(f"{name} {held.dtype} {tuple(held.shape)}".encode())
        sha.update(held.flatten().view(torch.uint8).numpy())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return digest([sha.hexdigest(), backend.to_str() if backend is not None else repr(tokenizer), list(settings)])


def texts_key(parts: Sequence[Any], texts: Sequence[str]) -> str:
    """Digest of settings and texts, in order."""
    sha = hashlib.sha256(digest(list(parts)).encode())
    for first in range(0, len(texts), _TEXTS):
        part = texts[first : first + _TEXTS]
        sha.update(np.fromiter(map(len, part), np.int64, len(part)).tobytes())
        sha.update("".join(part).encode("utf-8", "surrogatepass"))
    return sha.hexdigest()[:24]


_TEXTS = 8192  # encoded at once
_READ = 8192  # rows read at once


@dataclass(frozen=True)
class Encode:
    """A way from texts to unit vectors, and what decides them."""

    call: Any
    key: str

    def unit(self, texts: list[str], role: str, name: str | None, prompt: str | None) -> Floats:
        """Unit vectors [N, D] of texts in a role, with the prompt or the one of a name."""
        return unit(np.asarray(self.call(texts, role, name, prompt), np.float32))


def encoder(model: Any, batch_size: int) -> Encode:
    """A SentenceTransformer, an `Encoder` or the name of a model directory as a way from texts to vectors."""
    if isinstance(model, str):
        model = Encoder.load(EncoderConfig(model=model))
    if isinstance(model, Encoder):

        def ours(texts: list[str], role: Any, name: str | None, prompt: str | None) -> Any:
            if name is not None:
                raise UserError("prompt names are a SentenceTransformer's; give the prompt itself")
            return model.encode([(prompt or "") + text for text in texts], role)

        return Encode(ours, weights_key(model, model.tokenizer, [model.identity]))

    def theirs(texts: list[str], role: str, name: str | None, prompt: str | None) -> Any:
        encode = model.encode_document if role == "document" else model.encode_query
        return encode(
            texts, prompt_name=name, prompt=prompt, batch_size=batch_size,
            normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False,
        )  # fmt: skip

    return Encode(theirs, weights_key(model, getattr(model, "tokenizer", None), [repr(model)]))


@dataclass(frozen=True)
class Vectors:
    """Vectors [N, D] in a file, float32, read piece by piece."""

    path: Path
    count: int
    width: int

    def read(self, first: int, last: int) -> Floats:
        """Rows first..last."""
        rows = min(last, self.count) - first
        flat = np.fromfile(self.path, np.float32, rows * self.width, offset=4 * first * self.width)
        return flat.reshape(rows, self.width)

    def pieces(self, rows: int = _READ) -> Iterator[tuple[int, Floats]]:
        """All rows, a piece at a time, with the number of its first row."""
        for first in range(0, self.count, rows):
            yield first, self.read(first, first + rows)


def stored(folder: Path, texts: list[str], encode: Encode, role: str, name: str | None, prompt: str | None) -> Vectors:
    """Encode texts piece by piece into a file; one of the same key is used again."""
    path = folder / f"{role}-{texts_key([encode.key, role, name, prompt], texts)}.f32"
    width = 0
    if not path.exists():
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            for first in range(0, len(texts), _TEXTS):
                vectors = encode.unit(texts[first : first + _TEXTS], role, name, prompt)
                width = vectors.shape[1]
                vectors.tofile(file)
        partial.rename(path)
    width = width or path.stat().st_size // 4 // len(texts)
    return Vectors(path, len(texts), width)
