"""How much of the texts an encoder cuts off: measured on a sample, since whole texts are tokenised for nothing else.

`max_length` decides it, and a recipe's author cannot see it anywhere else. To count all that is cut would take the
tokenising that truncation saves; a thousand texts, spread evenly over the input, tell a share to within 3 points (two
standard errors) at a cost that does not grow with the input.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.encoder.encoder import Encoder, Role

SAMPLE = 1000
_BATCH = 64  # texts tokenised whole at a time
_NAMES = {"query": "queries", "document": "documents"}


@dataclass(frozen=True)
class Truncation:
    """Of a sample of texts of a role: how many are longer than `max_length`, and how many of all their tokens go."""

    role: Role
    max_length: int
    texts: int
    cut_texts: int
    tokens: int
    cut_tokens: int

    @classmethod
    def measure(cls, encoder: Encoder, texts: Sequence[str], role: Role) -> "Truncation":
        """Tokenise texts whole and compare them with what the encoder keeps."""
        batches = (list(texts[first : first + _BATCH]) for first in range(0, len(texts), _BATCH))
        lengths = np.array([length for batch in batches for length in encoder.whole_lengths(batch, role)], np.int64)
        over = np.maximum(lengths - (limit := encoder.role_max_length(role)), 0)
        return cls(role, limit, len(lengths), int((over > 0).sum()), int(lengths.sum()), int(over.sum()))

    @property
    def text_share(self) -> float:
        """Share of the texts that are cut."""
        return self.cut_texts / max(1, self.texts)

    @property
    def token_share(self) -> float:
        """Share of the tokens of all texts that are cut off."""
        return self.cut_tokens / max(1, self.tokens)

    @property
    def rows_a_text(self) -> float:
        """Vectors that a text has."""
        return 1.0

    def brief(self) -> str:
        """Say in a few words what is cut."""
        return f"{self.text_share:.0%} of texts cut"

    def notes(self) -> dict[str, Any]:
        """Entry of a manifest, by role."""
        return {"truncation": {self.role: self.note()}}

    def note(self) -> dict[str, Any]:
        """For a manifest: the counts and both shares."""
        return asdict(self) | {"text_share": round(self.text_share, 4), "token_share": round(self.token_share, 4)}

    def sentence(self) -> str:
        """Say in one sentence what is cut."""
        return describe(self.note())


def describe(note: Mapping[str, Any]) -> str:
    """Say what a note tells, with the fix where a twentieth of the tokens is lost."""
    name = _NAMES[note["role"]]
    sample = f"in a sample of {note['texts']:,}"
    if not note["cut_texts"]:
        return f"none of the {name} is cut at {note['max_length']} tokens ({sample})"
    hint = "; a larger encoder.max_length keeps more, as far as the model reaches" if note["token_share"] > 0.05 else ""
    if hint and note["role"] == "document":
        hint += ", and `passages` of embed and evaluate keep all"
    return (
        f"{note['text_share']:.0%} of the {name} are cut at {note['max_length']} tokens, with them "
        f"{note['token_share']:.0%} of all tokens ({sample}){hint}"
    )
