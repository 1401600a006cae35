"""Vectors of texts in a file, under a key of all that decides them, encoded and read piece by piece."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.encoder import Encoder, EncoderConfig
from pipeline.errors import UserError
from pipeline.mining.cells import Floats
from pipeline.mining.stamp import texts_key, weights_key
from pipeline.search import unit

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
