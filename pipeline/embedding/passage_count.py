"""How many passages documents have, on a sample: told before they are embedded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.encoder.encoder import Encoder
from pipeline.encoder.passage_vectors import groups
from pipeline.encoder.passages import PassageCutter, PassagesConfig
from pipeline.encoder.truncation import Truncation


@dataclass(frozen=True)
class PassageCount:
    """Passages of a sample of documents; `truncation` says what of the whole texts counts in their scores."""

    config: PassagesConfig
    documents: int
    passages: int
    truncation: Truncation

    @property
    def rows_a_text(self) -> float:
        """Passages of a document on average."""
        return self.passages / max(1, self.documents)

    def brief(self) -> str:
        """Say in a few words how many there are."""
        return f"{self.rows_a_text:.1f} passages a document"

    def sentence(self) -> str:
        """Say in one sentence how many there are."""
        of_whole = f"; of whole texts, {self.truncation.sentence()}" if self.config.full_text else ""
        return (
            f"documents have {self.rows_a_text:.1f} passages of at most {self.config.tokens} tokens on average "
            f"(in a sample of {self.documents:,}){of_whole}"
        )

    def notes(self) -> dict[str, Any]:
        """Entries of a manifest."""
        sample = {"documents": self.documents, "passages": self.passages}
        notes: dict[str, Any] = {"passages": {**self.config.model_dump(mode="json"), "sample": sample}}
        return notes | (self.truncation.notes() if self.config.full_text else {})


def measure(encoder: Encoder, texts: Sequence[str], config: PassagesConfig) -> PassageCount:
    """Cut a sample of documents, and measure what the encoder cuts off their whole texts."""
    cutter = PassageCutter(encoder, config)
    count = sum(len(spans) for part in groups(texts) for spans in cutter.cut(texts[part]))
    return PassageCount(config, len(texts), count, Truncation.measure(encoder, texts, "document"))
