"""A cross-encoder that scores candidates into a table `candidates`; an anchor's are scored once for all its pairs."""

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
from pipeline.mining.candidate_arrays import Floats, Rows, as_array, list_positions

_PAIRS_PER_PIECE = 8192  # tokenised at once


class CrossEncoderConfig(Config):
    """Which cross-encoder scores candidates: any sequence classifier of one or two labels, from safetensors."""

    model: str = Field(description="model directory or hub name")
    max_length: int | None = Field(None, ge=8, description="tokens of anchor and document together")
    activation: Literal["sigmoid", "identity"] = Field("sigmoid", description="of a single label's logit")
    top: int | None = Field(None, ge=1, description="score only the first so many candidates of a pair")
    dtype: Dtype = Field("auto", description="compute precision")
    token_budget: int = Field(8192, ge=16, description="padded tokens of one forward pass")
    trust_remote_code: bool = Field(False, description="run code that the model directory brings")


class Reranker:
    """A cross-encoder: pairs of texts into scores."""

    def __init__(self, config: CrossEncoderConfig, device: str = "auto") -> None:
        """Load the model for a device (auto: CUDA when there is one); raises UserError where it is no reranker."""
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        disable_cudnn_attention(device)
        self.config, self.path = config, model_directory.resolve_model(config.model)
        self.tokenizer, model = _load_parts(config, self.path)
        self.labels = int(model.config.num_labels)
        if self.labels > 2:
            raise UserError(f"model {config.model}: has {self.labels} labels; a reranker has one, or two: wrong, right")
        self.max_length = model_directory.resolve_max_length(config.max_length, None, self.tokenizer, model)
        self.dtype = compute_dtype(config.dtype, device)
        self.model = model.to(device=device, dtype=self.dtype).eval()

    @property
    def identity(self) -> dict[str, str]:
        """All that decides a score."""
        return {
            "weights": model_directory.content_digest(self.path),
            "max_length": str(self.max_length),
            "activation": self.config.activation if self.labels == 1 else "softmax",
            "top": str(self.config.top or "all"),
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def score(self, lefts: Sequence[str], rights: Sequence[str]) -> Floats:
        """Score pairs of texts [N]: the probability that they belong together, or a logit; almost without padding."""
        parts = [np.empty(0, np.float32)]
        for first in range(0, len(lefts), _PAIRS_PER_PIECE):
            piece = slice(first, first + _PAIRS_PER_PIECE)
            parts.append(self._score(list(lefts[piece]), list(rights[piece])))
        return np.concatenate(parts)

    def _score(self, lefts: list[str], rights: list[str]) -> Floats:
        tokens = self.tokenizer(lefts, rights, truncation="longest_first", max_length=self.max_length, padding=False)
        lengths = [len(row) for row in tokens["input_ids"]]
        scores = np.empty(len(lefts), np.float32)
        with torch.inference_mode():
            for batch in token_batches.padded_batches(lengths, self.config.token_budget):
                inputs = {name: [rows[i] for i in batch] for name, rows in tokens.items()}
                padded = self.tokenizer.pad(inputs, return_tensors="pt").to(self.model.device)
                scores[batch] = self._activate(self.model(**padded).logits.float()).cpu().numpy()
        return scores

    def _activate(self, logits: torch.Tensor) -> torch.Tensor:
        if self.labels == 2:
            return logits.softmax(dim=-1)[:, 1]
        return logits[:, 0].sigmoid() if self.config.activation == "sigmoid" else logits[:, 0]


def _load_parts(config: CrossEncoderConfig, path: str) -> tuple[Any, Any]:
    """Load tokenizer and model; safetensors alone are accepted."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if not list(Path(path).glob("*.safetensors")):
        raise UserError(f"model {config.model}: has no *.safetensors; other weight formats can carry code")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=config.trust_remote_code)
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            path,
            use_safetensors=True,
            dtype="float32",
            output_loading_info=True,
            trust_remote_code=config.trust_remote_code,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"model {config.model}: cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    if loading["missing_keys"]:
        missing = ", ".join(sorted(loading["missing_keys"])[:3])
        raise UserError(f"model {config.model}: is no reranker, its weights lack {missing}")
    return tokenizer, model


class PairScorer(Protocol):
    """Scores pairs of texts [N]."""

    def score(self, lefts: list[str], rights: list[str], /) -> Floats:
        """Score pairs."""
        ...


def ids_to_score(table: pa.Table, top: int | None) -> tuple[pa.Array, Rows, Rows]:
    """Ids of the candidates that are scored, the row of each, and its index among all candidates."""
    lists = as_array(table["candidates"])
    row, position, width = list_positions(lists)
    index = np.flatnonzero(position < (top or width))
    return lists.flatten().field("doc_id").take(pa.array(index)), row[index], index


def add_cross_scores(
    table: pa.Table, pairs: pa.Table, texts: pa.Table, scorer: PairScorer, top: int | None
) -> pa.Table:
    """Table `candidates` with scores of a cross-encoder for the first `top` candidates and the positives.

    `texts` (doc_id, text) holds the candidates' documents. An anchor and a document are scored once for all pairs.
    """
    ids, row, index = ids_to_score(table, top)
    anchors = as_array(pairs["anchor"]).dictionary_encode()
    doc = pc.index_in(ids, value_set=texts["doc_id"].combine_chunks()).to_numpy(zero_copy_only=False).astype(np.int64)
    cells = anchors.indices.to_numpy()[row] * max(1, texts.num_rows) + doc
    distinct, inverse = np.unique(cells, return_inverse=True)
    anchor_texts, document_texts = anchors.dictionary.to_pylist(), texts["text"].to_pylist()
    lefts = [anchor_texts[cell // max(1, texts.num_rows)] for cell in distinct.tolist()]
    rights = [document_texts[cell % max(1, texts.num_rows)] for cell in distinct.tolist()]
    scores = scorer.score(lefts + pairs["anchor"].to_pylist(), rights + pairs["positive"].to_pylist())
    return _with_cross_scores(table, index, scores[: len(distinct)][inverse], scores[len(distinct) :])


def _with_cross_scores(table: pa.Table, index: Rows, scores: Floats, positives: Floats) -> pa.Table:
    """Set the columns of cross-encoder scores: of the candidates at `index`, and of the positives."""
    lists = as_array(table["candidates"])
    flat = lists.flatten()
    values = np.full(len(flat), np.nan, np.float32)
    values[index] = scores
    fields = [flat.field(field.name) for field in schema.CANDIDATE]
    fields[schema.CANDIDATE.get_field_index("cross_score")] = pa.array(values, from_pandas=True)
    counts = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    structs = pa.StructArray.from_arrays(fields, fields=list(schema.CANDIDATE))
    column = table.column_names.index("positive_cross_score")
    scored = table.set_column(column, schema.TABLES["candidates"].field(column), pa.array(positives, pa.float32()))
    last = table.column_names.index("candidates")
    return scored.set_column(last, table.schema.field(last), pa.ListArray.from_arrays(offsets, structs))
