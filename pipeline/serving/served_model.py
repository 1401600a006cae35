"""What a replica computes with: the encoder, and a search in the index where one is served."""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.encoder.encoder import Encoder, EncoderConfig, Role
from pipeline.search.query import Hit, Searcher
from pipeline.serving.config import ServeConfig
from pipeline.storage.artifact import MANIFEST
from pipeline.storage.files import filesystem, join
from pipeline.storage.vectors import truncate

Floats = npt.NDArray[np.float32]
WITH_WORDS = ("dense", "mix", "rrf", "bm25")


class TextsOfRole(NamedTuple):
    """Texts that one request wants vectors of."""

    texts: list[str]
    role: Role


class ServedModel:
    """An encoder by which texts become the vectors that `embed` writes, and searchers by the name of their system.

    Raises UserError where the model or the index is missing, or they do not belong together.
    """

    def __init__(self, config: ServeConfig, device: str = "auto") -> None:
        self.searchers: dict[str, Searcher] = {}
        path, settings = index_path(config), encoder_settings(config)
        if path is None:
            stated = EncoderConfig.model_validate({"model": join(config.run, "model")} | settings)
            self.encoder = Encoder.load(stated, device)
        else:
            first = Searcher(path, device=device, encoder=settings)
            self.encoder = first.encoder
            stated = EncoderConfig.model_validate(dict(first.artifact.manifest.notes["model"]) | settings)
            self.searchers = {searcher.system.label: searcher for searcher in _searchers(first, config)}
        self.name = config.name or model_name(stated.model)

    def encode(self, requests: Sequence[TextsOfRole]) -> list[Floats]:
        """Vectors [n, D] of the texts of each request; texts of a role are batched over all requests."""
        vectors: list[Floats] = [np.empty((0, self.encoder.dim), np.float32)] * len(requests)
        for role in dict.fromkeys(request.role for request in requests):
            chosen = [number for number, request in enumerate(requests) if request.role == role]
            rows = self.encoder.encode([text for number in chosen for text in requests[number].texts], role)
            ends = np.cumsum([len(requests[number].texts) for number in chosen])
            for number, part in zip(chosen, np.split(rows, ends[:-1]), strict=True):
                vectors[number] = part
        return vectors

    def cut(self, vectors: Floats, dimensions: int | None) -> Floats:
        """The leading dimensions of vectors [N, D], of length 1 again where the model's are."""
        cut: Floats = truncate(vectors, dimensions, scaled=self.encoder.normalize).astype(np.float32, copy=False)
        return cut

    def token_count(self, texts: Sequence[str], role: Role) -> int:
        """Tokens of texts, prompts and special tokens included, as far as they are read."""
        return sum(map(len, self.encoder.tokenize(texts, role)))

    def search(self, system: str, query: str, vector: Floats, k: int) -> list[Hit]:
        """The k best documents of a query whose vector [1, D] is known, by a system."""
        return self.searchers[system](query, k, vector=vector)

    def describe(self) -> dict[str, Any]:
        """What is served, for the health route."""
        facts: dict[str, Any] = {"model": self.name, "dimensions": self.encoder.dim}
        facts["dtype"] = self.encoder.identity["dtype"]
        first = next(iter(self.searchers.values()), None)
        return facts | ({"vectors": first.index.size, "systems": [*self.searchers]} if first else {})


def model_name(model: str) -> str:
    """What clients call a model where the settings do not say.

    >>> model_name("runs/shop/model"), model_name("intfloat/e5-small"), model_name("gt:all-minilm-l6-v2")
    ('shop', 'e5-small', 'all-minilm-l6-v2')
    """
    path = PurePosixPath(model.rpartition(":")[2])
    return path.parent.name if path.name == "model" and path.parent.name else path.name or "model"


def encoder_settings(config: ServeConfig) -> dict[str, Any]:
    """The settings of the encoder that were given; all others are those of the index, or defaults."""
    return config.encoder.model_dump(exclude_unset=True) if config.encoder else {}


def index_path(config: ServeConfig) -> str | None:
    """The artifact to search in: the one of the settings, else what the run holds; None where it holds none.

    A model that the settings name is no reason to look into the run, whose index may be another model's.
    """
    if config.index or "model" in encoder_settings(config):
        return config.index
    for name in ("index", "vectors"):
        path = join(config.run, name)
        fs, manifest = filesystem(join(path, MANIFEST))
        if fs.exists(manifest):
            return path
    return None


def _searchers(first: Searcher, config: ServeConfig) -> list[Searcher]:
    """A searcher for each system, all with one encoder and one index."""
    default = WITH_WORDS if first.artifact.manifest.notes.get("bm25") else WITH_WORDS[:1]
    return [first.using(system) for system in config.systems or default]
