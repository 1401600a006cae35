"""What a model directory says of the model as a whole: prompts by name, similarity, width; all of it is kept.

The file is Sentence Transformers' `config_sentence_transformers.json`. Keys that have no meaning here are carried over.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.core.errors import UserError

_FALLBACKS = {"document": ("passage", "corpus")}  # as SentenceTransformer.encode_document looks for them
ROLES = ("query", "document")
LENGTHS = "max_seq_lengths"  # our own key, which Sentence Transformers passes over: it cuts all texts at the longest
SIMILARITIES = ("cosine", "dot")
_MODEL_TYPES = (None, "SentenceTransformer")


@dataclass(frozen=True)
class ModelSettings:
    """Settings as they were read, `raw`, and what they mean."""

    raw: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> "ModelSettings":
        """Check settings of a file; raises UserError for another kind of model and for values that are not known."""
        if raw.get("model_type") not in _MODEL_TYPES:
            raise UserError(f"model_type '{raw['model_type']}' is not supported, SentenceTransformer is")
        prompts = raw.get("prompts") or {}
        if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
            raise UserError("its prompts are no texts by name")
        dim = raw.get("truncate_dim")
        if dim is not None and (not isinstance(dim, int) or dim < 1):
            raise UserError(f"truncate_dim {dim!r} is no number of dimensions")
        lengths = raw.get(LENGTHS) or {}
        if not isinstance(lengths, dict) or not all(isinstance(length, int) for length in lengths.values()):
            raise UserError(f"{LENGTHS} are no numbers of tokens by role")
        return cls(dict(raw))

    @property
    def prompts(self) -> dict[str, str]:
        """Prompts by name."""
        return {name: text or "" for name, text in (self.raw.get("prompts") or {}).items()}

    @property
    def similarity(self) -> str:
        """Name of the similarity that the model was made for; cosine where none is stated."""
        return str(self.raw.get("similarity_fn_name") or "cosine")

    @property
    def truncate_dim(self) -> int | None:
        """Leading dimensions that are kept; None for all."""
        return self.raw.get("truncate_dim")

    @property
    def max_lengths(self) -> dict[str, int]:
        """Tokens that texts of a role are cut to, for roles that have a length of their own."""
        return dict(self.raw.get(LENGTHS) or {})

    def with_max_length(self, requested: int | Mapping[Any, int] | None) -> "ModelSettings":
        """Return settings with requested lengths: by role, which join the stated ones, or one in place of them all."""
        if requested is None:
            return self
        if isinstance(requested, int):
            return self.without(LENGTHS)
        return self.with_values({LENGTHS: {**self.max_lengths, **requested}})

    def with_prompts(self, prompts: Mapping[str, str] | None) -> "ModelSettings":
        """Return settings in which these prompts, by name, replace or join the stated ones."""
        return replace(self, raw={**self.raw, "prompts": {**self.prompts, **prompts}}) if prompts else self

    def with_values(self, values: Mapping[str, Any]) -> "ModelSettings":
        """Return settings in which these values replace or join the stated ones."""
        return replace(self, raw={**self.raw, **values}) if values else self

    def without(self, key: str) -> "ModelSettings":
        """Return settings that do not state a key."""
        return replace(self, raw={name: value for name, value in self.raw.items() if name != key})

    def prompt_name(self, role: str, names: Mapping[Any, str] | None = None) -> str | None:
        """Name of the prompt of a role: the one that `names` gives, else its own, else one that stands for it.

        Raises UserError for a given name that the model does not have.
        """
        given = (names or {}).get(role)
        if given is not None and given not in self.prompts:
            stated = ", ".join(self.prompts) or "none"
            raise UserError(f"encoder.prompt_names {role}: the model has no prompt '{given}'; it has {stated}")
        candidates = (given,) if given is not None else (role, *_FALLBACKS.get(role, ()))
        return next((name for name in candidates if name in self.prompts), None)

    def role_prompts(self, names: Mapping[Any, str] | None = None) -> dict[str, str]:
        """Prompt of each role, "" where there is none."""
        found = {role: self.prompt_name(role, names) for role in ROLES}
        return {role: "" if name is None else self.prompts[name] for role, name in found.items()}

    def to_save(self, prompts: Mapping[str, str]) -> dict[str, Any]:
        """Settings to write beside a model whose roles have these prompts: as they were read, but for what changed.

        A role's prompt is written under the role's own name, where Sentence Transformers looks for it alone.
        """
        changed = {role: text for role, text in prompts.items() if self.prompts.get(role, "") != text}
        stated = self.prompts or dict.fromkeys(ROLES, "")
        defaults = {"default_prompt_name": None, "similarity_fn_name": self.similarity}
        return {**defaults, **self.raw, "prompts": {**stated, **changed}}
