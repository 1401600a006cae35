"""What was saved is what was trained: the model directory is loaded anew and compared with the model in memory.

A merge of adapters that was forgotten, weights under names that nobody reads or a setting that a directory does not
carry give a model that loads without a word and embeds as its base does, or as no model at all. So the job embeds
sample texts three times: by the base, by the trained model in memory, and by the directory that it has written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import UserError
from pipeline.core.progress import say
from pipeline.encoder.encoder import Encoder, EncoderConfig, Role
from pipeline.storage import files
from pipeline.storage.artifact import Artifact
from pipeline.storage.vectors import cosines

Vectors = npt.NDArray[np.float32]
SAMPLE = 32  # texts of each role
UNMOVED = 1e-6  # largest distance, as a share of a vector's length, that is taken for no change
SAME = 1e-3  # the same of a directory loaded anew: cosine 0.9999995; rounding is a thousand times smaller
COLUMNS: dict[Role, list[tuple[str, str]]] = {
    "query": [("pairs", "anchor"), ("labelled", "left"), ("queries", "text")],
    "document": [("pairs", "positive"), ("labelled", "right"), ("corpus", "text")],
}


@dataclass(frozen=True)
class SavedModelCheck:
    """Sample texts by role, and the vectors [T, D] that the untrained base gives them.

    Make it before the weights change, call `require_change` when they have, and `compare` when they are saved.
    """

    texts: dict[Role, list[str]]
    base: Vectors

    @classmethod
    def begin(cls, data: Artifact, base: Encoder) -> "SavedModelCheck":
        """Embed texts of the training data, from the shortest to the longest, by the untrained base."""
        texts = {role: sample_texts(data, role) for role in COLUMNS}
        return cls(texts, embed(base, texts))

    @property
    def count(self) -> int:
        """Number T of the texts."""
        return sum(len(texts) for texts in self.texts.values())

    def require_change(self, trained: Encoder) -> dict[str, float]:
        """Say how far the vectors are from the base's, as 1 - cosine; returns the mean and the largest.

        Raises UserError where the trained model equals its base.
        """
        vectors = embed(trained, self.texts)
        if self.count and distances(vectors, self.base).max() <= UNMOVED:
            raise UserError(
                f"the trained model equals its base: not one of {self.count} vectors of sample texts has changed; "
                "raise loop.learning_rate, loop.epochs or interpolation; no model was saved"
            )
        moved = 1.0 - cosines(vectors, self.base)
        figures = {"moved": float(moved.mean()), "moved_most": float(moved.max())} if self.count else {}
        if figures:
            say(
                f"train: {self.count} sample texts moved from the base by {figures['moved']:.4f} on average and "
                f"{figures['moved_most']:.4f} at most (1 - cosine)"
            )
        return figures

    def compare(self, trained: Encoder, path: str, settings: EncoderConfig) -> dict[str, float]:
        """Load the saved directory anew and compare its vectors with those of the model in memory.

        `settings` say how it is computed, not which model. Returns the smallest cosine. Raises UserError where the two
        differ, and removes the directory: its checkpoints are there to make it again.
        """
        if not self.count:
            return {}
        try:
            loaded = load_saved(path, settings)
        except UserError as error:
            self._refuse(path, f"cannot be read ({error})")
        saved = embed(loaded, self.texts)
        vectors = embed(trained, self.texts)
        if saved.shape != vectors.shape:
            self._refuse(path, f"has vectors of {saved.shape[1]} dimensions, the trained model {vectors.shape[1]}")
        apart = distances(saved, vectors)
        worst = int(apart.argmax())
        cosine = cosines(saved, vectors)
        if not apart[worst] <= SAME:  # also where a vector is not a number
            text = [text for texts in self.texts.values() for text in texts][worst]
            self._refuse(path, f"gives {text[:60]!r} another vector (cosine {cosine[worst]:.6f})")
        say(f"train: the saved directory gives the vectors of the trained model (cosine {cosine.min():.6f} at least)")
        return {"saved_cosine": float(cosine.min())}

    @staticmethod
    def _refuse(path: str, reason: str) -> NoReturn:
        files.remove_folder(path)
        raise UserError(
            f"{path}: loaded anew, the saved model {reason}; the directory was removed, and the checkpoints are kept"
        )


def load_saved(path: str, settings: EncoderConfig) -> Encoder:
    """Load a directory that a model with these settings was saved in: float32, computed by torch on a CPU."""
    exact = {"dtype": "float32", "backend": "torch"}
    return Encoder.load(settings.of_saved(path).model_copy(update=exact), "cpu")


def sample_texts(data: Artifact, role: Role) -> list[str]:
    """Texts of a role from the first rows of the first table that has some, evenly spread over their lengths."""
    for table, column in COLUMNS[role]:
        names = data.files(table) if data.has(table) else []
        if names:
            with files.open_parquet(names[0]) as parquet:
                values = (
                    parquet.read_row_group(0, columns=[column])[column].to_pylist() if parquet.num_row_groups else []
                )
            texts = sorted({text for text in values if text and text.strip()}, key=lambda text: (len(text), text))
            if texts:
                return _evenly(texts, SAMPLE)
    return []


def _evenly(texts: Sequence[str], count: int) -> list[str]:
    """The first, the last and others between them at equal steps."""
    places = np.unique(np.linspace(0, len(texts) - 1, min(count, len(texts))).round().astype(int))
    return [texts[place] for place in places.tolist()]


def embed(encoder: Encoder, texts: dict[Role, list[str]]) -> Vectors:
    """Vectors [T, D] of texts of each role, one role after the other."""
    return np.concatenate([encoder.encode(some, role) for role, some in texts.items()])


def distances(vectors: Vectors, others: Vectors) -> npt.NDArray[np.float64]:
    """Distance of each vector [T, D] from its counterpart, as a share of the counterpart's length."""
    left, right = vectors.astype(np.float64), others.astype(np.float64)
    lengths = np.maximum(np.linalg.norm(right, axis=1), np.finfo(np.float32).tiny)
    apart: npt.NDArray[np.float64] = np.linalg.norm(left - right, axis=1) / lengths
    return apart
