"""The settings of a model directory's Transformer module: length, case, and options of the libraries beneath.

The file is Sentence Transformers' `sentence_bert_config.json`, or one of the names that it had before.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError

FILES = (
    "sentence_bert_config.json",
    *(
        f"sentence_{kind}_config.json"
        for kind in ("roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
    ),
)
_OLD_NAMES = {"model_args": "model_kwargs", "tokenizer_args": "processor_kwargs", "config_args": "config_kwargs"}
_TOKENIZER_LENGTH = "model_max_length"  # among the options of the tokenizer it wins over max_seq_length
_TEXT = {"method": "forward", "method_output_name": "last_hidden_state"}
# Values that mean what is done here anyway; None is allowed for all of them.
_MEANINGLESS: dict[str, Any] = {
    "transformer_task": "feature-extraction",
    "module_output_name": "token_embeddings",
    "processing_kwargs": {},
    "query_length": None,
    "document_length": None,
    "query_expansion": None,
    "tokenizer_name_or_path": None,
}
# Options of loading that `encoder.dtype`, `encoder.attention` and `encoder.trust_remote_code` decide here.
_DECIDED_HERE = {"attn_implementation", "torch_dtype", "dtype", "trust_remote_code", "add_pooling_layer"}


@dataclass(frozen=True)
class TransformerSettings:
    """Settings of a Transformer module, with the name of the file that held them."""

    max_length: int | None = None
    lower_case: bool = False
    tokenizer_options: dict[str, Any] = field(default_factory=dict)
    config_options: dict[str, Any] = field(default_factory=dict)
    file: str = FILES[0]
    raw: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read_folder(cls, folder: Path) -> "TransformerSettings":
        """Read the first file of `FILES` that holds settings; raises UserError for what has no meaning."""
        for name in FILES:
            if (folder / name).exists():
                try:
                    raw = json.loads((folder / name).read_text(encoding="utf-8"))
                except (OSError, json.JSONDecodeError) as error:
                    raise UserError(f"model file {folder / name}: not readable: {error}") from error
                if raw:
                    return cls.read(raw, name)
        return cls()

    @classmethod
    def read(cls, raw: Mapping[str, Any], file: str = FILES[0]) -> "TransformerSettings":
        """Take settings apart; raises UserError, by their full names, for keys and values that have no meaning here."""
        stated = {_OLD_NAMES.get(key, key): value for key, value in raw.items()}
        known = {
            "max_seq_length",
            "do_lower_case",
            "modality_config",
            "unpad_inputs",
            *_MEANINGLESS,
            *_OLD_NAMES.values(),
        }
        unknown = sorted(set(stated) - known)
        if unknown:
            raise UserError(f"{file}: {', '.join(unknown)} has no meaning here; known are {', '.join(sorted(known))}")
        for key, value in _MEANINGLESS.items():
            if stated.get(key) not in (None, value):
                raise UserError(f"{file}: {key} {stated[key]!r} is not supported")
        _check_modalities(stated.get("modality_config") or {"text": _TEXT}, file)
        options = {key: dict(stated.get(key) or {}) for key in _OLD_NAMES.values()}
        length = options["processor_kwargs"].get(_TOKENIZER_LENGTH, stated.get("max_seq_length"))
        if length is not None and (not isinstance(length, int) or length < 1):
            raise UserError(f"{file}: max_seq_length {length!r} is no number of tokens")
        odd = sorted(set(options["model_kwargs"]) - _DECIDED_HERE)
        if odd:
            raise UserError(f"{file}: model_kwargs {', '.join(odd)} is not supported")
        for held in options.values():
            held.pop("trust_remote_code", None)  # a directory may not allow itself to run code
        return cls(
            length,
            bool(stated.get("do_lower_case")),
            options["processor_kwargs"],
            options["config_kwargs"],
            file,
            dict(raw),
        )

    def as_read(self) -> dict[str, Any]:
        """The file's name and content, to be kept in a layout."""
        return {"file": self.file, "content": self.raw}

    @classmethod
    def from_layout(cls, config: Mapping[str, Any]) -> "TransformerSettings":
        """Settings that `as_read` kept."""
        return cls.read(config.get("content") or {}, config.get("file") or FILES[0])

    def to_save(self, max_length: int) -> dict[str, Any]:
        """Content to write beside a transformer whose texts are cut to this length."""
        if self.raw and self.max_length == max_length:
            return self.raw
        changed = {"do_lower_case": False, **self.raw, "max_seq_length": max_length}
        for name in ("processor_kwargs", "tokenizer_args"):
            if _TOKENIZER_LENGTH in (self.raw.get(name) or {}):
                changed[name] = {**self.raw[name], _TOKENIZER_LENGTH: max_length}
        return changed


def _check_modalities(modalities: Mapping[str, Any], file: str) -> None:
    """Raise UserError unless texts go straight to the model's forward and come out as its last states."""
    if "message" in modalities:
        raise UserError(f"{file}: modality_config message is not supported: texts would go through a chat template")
    text = modalities.get("text")
    if text is None or {key: text.get(key) for key in _TEXT} != _TEXT:
        raise UserError(f"{file}: modality_config text {text!r} is not supported")
