"""Reranker scores into a table `candidates`: what an anchor was found with is scored once for all its pairs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pydantic import Field

from pipeline.core import schema
from pipeline.core.config import Config
from pipeline.core.errors import UserError
from pipeline.encoder import model_directory, token_batches
from pipeline.encoder.attention import disable_cudnn_attention
from pipeline.encoder.precision import Dtype, compute_dtype
from pipeline.mining.candidate_arrays import Floats, Rows, spread, whole

_TOKENISED = 8192  # pairs whose tokens are held at once


class CrossConfig(Config):
    """Which reranker scores candidates: any sequence-classification model of one or two labels, from safetensors."""

    model: str = Field(description="model directory or hub name")
    max_length: int | None = Field(None, ge=8, description="tokens of anchor and document together")
    activation: Literal["sigmoid", "identity"] = Field("sigmoid", description="of a single label's logit")
    top: int | None = Field(None, ge=1, description="score only the first so many candidates of a pair")
    dtype: Dtype = Field("auto", description="compute precision")
    token_budget: int = Field(8192, ge=16, description="padded tokens of one forward pass")
    trust_remote_code: bool = Field(False, description="run code that the model directory brings")


class Reranker:
    """A cross-encoder: pairs of texts into scores."""

    def __init__(self, config: CrossConfig, device: str = "auto") -> None:
        place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        disable_cudnn_attention(place)
        self.config, self.folder = config, model_directory.resolve_model(config.model)
        self.tokenizer, model = _parts(config, self.folder)
        self.labels = int(model.config.num_labels)
        if self.labels > 2:
            raise UserError(f"model {config.model}: has {self.labels} labels; a reranker has one, or two: wrong, right")
        self.max_length = model_directory.resolve_max_length(config.max_length, None, self.tokenizer, model)
        self.dtype = compute_dtype(config.dtype, place)
        self.model = model.to(device=place, dtype=self.dtype).eval()

    @property
    def identity(self) -> dict[str, str]:
        """All that decides a score."""
        return {
            "weights": model_directory.content_digest(self.folder),
            "max_length": str(self.max_length),
            "activation": self.config.activation if self.labels == 1 else "softmax",
            "top": str(self.config.top or "all"),
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def score(self, lefts: Sequence[str], rights: Sequence[str]) -> Floats:
        """Score pairs [N]: the probability that they belong together, or a logit; almost no padding is computed."""
        parts = [np.empty(0, np.float32)]
        for first in range(0, len(lefts), _TOKENISED):
            part = slice(first, first + _TOKENISED)
            parts.append(self._score(list(lefts[part]), list(rights[part])))
        return np.concatenate(parts)

    def _score(self, lefts: list[str], rights: list[str]) -> Floats:
        tokens = self.tokenizer(lefts, rights, truncation="longest_first", max_length=self.max_length, padding=False)
        lengths = [len(row) for row in tokens["input_ids"]]
        scores = np.empty(len(lefts), np.float32)
        with torch.inference_mode():
            for chunk in token_batches.padded_batches(lengths, self.config.token_budget):
                batch = {name: [rows[i] for i in chunk] for name, rows in tokens.items()}
                padded = self.tokenizer.pad(batch, return_tensors="pt").to(self.model.device)
                scores[chunk] = self._activated(self.model(**padded).logits.float()).cpu().numpy()
        return scores

    def _activated(self, logits: torch.Tensor) -> torch.Tensor:
        if self.labels == 2:
            return logits.softmax(dim=-1)[:, 1]
        return logits[:, 0].sigmoid() if self.config.activation == "sigmoid" else logits[:, 0]


def _parts(config: CrossConfig, folder: str) -> tuple[Any, Any]:
    """Load tokenizer and model; safetensors alone are accepted."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if not list(Path(folder).glob("*.safetensors")):
        raise UserError(f"model {config.model}: has no *.safetensors; other weight formats can carry code")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=config.trust_remote_code)
        model, told = AutoModelForSequenceClassification.from_pretrained(
            folder,
            use_safetensors=True,
            dtype="float32",
            output_loading_info=True,
            trust_remote_code=config.trust_remote_code,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"model {config.model}: cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    if told["missing_keys"]:
        lacking = ", ".join(sorted(told["missing_keys"])[:3])
        raise UserError(f"model {config.model}: is no reranker, its weights lack {lacking}")
    return tokenizer, model


class Scorer(Protocol):
    """What scores pairs of texts [N]."""

    def score(self, lefts: list[str], rights: list[str], /) -> Floats:
        """Score pairs."""
        ...


def looked_at(table: pa.Table, top: int | None) -> tuple[pa.Array, Rows, Rows]:
    """Ids of the candidates that are scored, the row of each, and its place among all candidates."""
    column = whole(table["candidates"])
    row, place, width = spread(column)
    at = np.flatnonzero(place < (top or width))
    return column.flatten().field("doc_id").take(pa.array(at)), row[at], at


def cross_scored(table: pa.Table, pairs: pa.Table, texts: pa.Table, reranker: Scorer, top: int | None) -> pa.Table:
    """Table `candidates` with the scores of a reranker; what an anchor found is scored once for all its pairs."""
    ids, row, at = looked_at(table, top)
    anchor = pairs["anchor"].combine_chunks().dictionary_encode()
    anchor = anchor.chunk(0) if isinstance(anchor, pa.ChunkedArray) else anchor
    doc = pc.index_in(ids, value_set=texts["doc_id"].combine_chunks()).to_numpy(zero_copy_only=False).astype(np.int64)
    cells = anchor.indices.to_numpy()[row] * max(1, texts.num_rows) + doc
    distinct, back = np.unique(cells, return_inverse=True)
    asked, held = anchor.dictionary.to_pylist(), texts["text"].to_pylist()
    lefts = [asked[cell // max(1, texts.num_rows)] for cell in distinct.tolist()]
    rights = [held[cell % max(1, texts.num_rows)] for cell in distinct.tolist()]
    scores = reranker.score(lefts + pairs["anchor"].to_pylist(), rights + pairs["positive"].to_pylist())
    return _with_cross(table, at, scores[: len(distinct)][back], scores[len(distinct) :])


def _with_cross(table: pa.Table, at: Rows, scores: Floats, positives: Floats) -> pa.Table:
    """Put scores of candidates into their places, and those of positives beside them."""
    column = whole(table["candidates"])
    flat = column.flatten()
    values = np.full(len(flat), np.nan, np.float32)
    values[at] = scores
    fields = [flat.field(field.name) for field in schema.CANDIDATE]
    fields[schema.CANDIDATE.get_field_index("cross_score")] = pa.array(values, from_pandas=True)
    counts = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    structs = pa.StructArray.from_arrays(fields, fields=list(schema.CANDIDATE))
    place = table.column_names.index("positive_cross_score")
    scored = table.set_column(place, schema.TABLES["candidates"].field(place), pa.array(positives, pa.float32()))
    last = table.column_names.index("candidates")
    return scored.set_column(last, table.schema.field(last), pa.ListArray.from_arrays(offsets, structs))
