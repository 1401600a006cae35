"""What was saved is what was trained, of a reranker: scores of sample pairs by the base, in memory, and loaded anew."""

from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from pipeline.core.errors import UserError
from pipeline.core.progress import say
from pipeline.encoder.cross_encoder import CrossEncoderConfig, Floats, Reranker
from pipeline.encoder.pair_classifier import PairClassifier
from pipeline.storage import files
from pipeline.storage.artifact import Artifact
from training.run.rehearsal import place_beside
from training.run.saved_model import SAMPLE, sample_texts

SAME = 1e-3  # largest difference of two logits, as a share of the largest logit, that rounding may make
UNMOVED = 1e-6  # the same of a training that changed nothing


@dataclass(frozen=True)
class SavedRerankerCheck:
    """Sample queries and documents, paired in two ways, and the logits [T] that the untrained base gives the pairs."""

    lefts: list[str]
    rights: list[str]
    base: Floats

    @classmethod
    def begin(cls, data: Artifact, base: PairClassifier) -> "SavedRerankerCheck":
        """Score texts of the training data, from the shortest to the longest, by the untrained base."""
        queries, documents = (sample_texts(data, role) for role in ("query", "document"))
        count = min(SAMPLE, len(queries), len(documents))
        lefts, rights = [*queries[:count], *queries[:count]], [*documents[:count], *documents[:count][::-1]]
        return cls(lefts, rights, base.score(lefts, rights))

    def require_change(self, trained: PairClassifier) -> dict[str, float]:
        """Say how far the logits are from the base's; raises UserError where the trained model equals it."""
        moved = np.abs(trained.score(self.lefts, self.rights) - self.base)
        if not len(moved):
            return {}
        if not moved.max() > UNMOVED * max(1.0, float(np.abs(self.base).max())):
            raise UserError(
                f"the trained reranker equals its base: not one of {len(moved)} scores of sample pairs has changed; "
                "raise loop.learning_rate or loop.epochs; no model was saved"
            )
        say(f"train: {len(moved)} sample pairs moved by {moved.mean():.3f} on average (logits)")
        return {"moved": float(moved.mean()), "moved_most": float(moved.max())}

    def compare(self, trained: PairClassifier, path: str) -> dict[str, float]:
        """Load the saved directory as mining and evaluation do, and compare its logits with those in memory.

        Returns the largest difference. Raises UserError where the two differ, and removes the directory: its
        checkpoints are there to make it again.
        """
        if not self.lefts:
            return {}
        expected = trained.score(self.lefts, self.rights)
        try:
            loaded = Reranker(CrossEncoderConfig(model=path, activation="identity", dtype="float32"), "cpu")
        except UserError as error:
            self._refuse(path, f"cannot be read ({error})")
        apart = np.abs(loaded.score(self.lefts, self.rights) - expected)
        worst = int(apart.argmax())
        if not apart[worst] <= SAME * max(1.0, float(np.abs(expected).max())):  # also where a score is not a number
            self._refuse(path, f"gives {self.lefts[worst][:60]!r} another score ({apart[worst]:.6f} away)")
        say(f"train: the saved directory gives the scores of the trained model ({apart[worst]:.1e} apart at most)")
        return {"saved_apart": float(apart[worst])}

    @staticmethod
    def _refuse(path: str, reason: str) -> NoReturn:
        files.remove_folder(path)
        raise UserError(f"{path}: loaded anew, the saved reranker {reason}; the directory was removed")


def rehearse(data: Artifact, base: PairClassifier, path: str) -> None:
    """Save the untrained model beside where the trained one will be, load it and compare its scores."""
    with place_beside(path) as folder:
        try:
            base.save(folder)
        except OSError:
            raise
        except Exception as error:
            raise UserError(
                f"model {base.config.model}: cannot be saved, so that training it would leave nothing: "
                f"{' '.join(str(error).split())[:300]}"
            ) from error
        SavedRerankerCheck.begin(data, base).compare(base, folder)
