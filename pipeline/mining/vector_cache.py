"""Keys of what mining keeps: whatever decides a vector or a candidate is in its key, so that no stale one is taken."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch

from pipeline import shards
from pipeline.artifact import digest
from pipeline.shards import Shard

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
