"""Distillation of a transformer into a static encoder: one vector a token, reduced by PCA and weighted by frequency.

    vector(token) = a / (a + p(token)) * PCA(model(token)),  a = 1e-4,  p(rank) ~ 1 / rank (Zipf)

Vocabularies are ordered by falling frequency, so that a token's id stands for its rank. Sources: Tulkens and
van Dongen 2024 (Model2Vec) for the recipe, Arora et al. 2017 (SIF, ICLR) for the weights.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from pipeline.core.errors import UserError
from pipeline.encoder.encoder import Encoder
from pipeline.encoder.model_settings import ROLES
from pipeline.encoder.static_encoder import StaticTable, StaticTokenizer

SMOOTHING = 1e-4
_TOKENS_PER_STEP = 4096
Floats = npt.NDArray[np.float32]
Method = Literal["distill", "embeddings"]


def distill(
    encoder: Encoder,
    dim: int | None,
    method: Method = "distill",
    on_progress: Callable[[int], None] | None = None,
) -> Encoder:
    """Make a static encoder with a transformer's vocabulary and `dim` dimensions (None: as many as it has).

    The method `distill` embeds each token alone and calls `on_progress` with the tokens of each step; `embeddings`
    takes the transformer's own input embeddings, which cost nothing and are a start for training.

    Raises UserError for more dimensions than the transformer has, and for a tokenizer without a fast form.
    """
    fast_tokenizer = getattr(encoder.tokenizer, "backend_tokenizer", None)
    if fast_tokenizer is None:
        raise UserError("distil: this model's tokenizer has no fast form, which a static encoder needs")
    if dim and dim > encoder.dim:
        raise UserError(f"dim {dim} is more than the model's {encoder.dim}")
    if method == "embeddings":
        vectors = encoder.transformer.get_input_embeddings().weight.detach().float().cpu().numpy()
    else:
        vectors = _token_vectors(encoder, len(encoder.tokenizer), on_progress or (lambda count: None))
    table = principal_components(vectors, dim or encoder.dim) * sif_weights(len(vectors))[:, None]
    tokenizer = StaticTokenizer(type(fast_tokenizer).from_str(fast_tokenizer.to_str()))
    tokenizer.tokenizer.no_truncation()
    return _static_encoder(encoder, tokenizer, table)


def _static_encoder(encoder: Encoder, tokenizer: StaticTokenizer, table: Floats) -> Encoder:
    return Encoder(
        StaticTable(torch.from_numpy(np.ascontiguousarray(table, np.float32))),
        tokenizer,
        pooling="mean",
        include_prompt=True,
        prompts={"query": "", "document": ""},
        max_lengths=dict.fromkeys(ROLES, tokenizer.max_length),
        token_budget=encoder.token_budget,
        identity={},
    )


def _token_vectors(encoder: Encoder, count: int, on_progress: Callable[[int], None]) -> Floats:
    """Vectors [V, D] of every token by itself, between the special tokens where the model has them."""
    frame = encoder.tokenizer([""])["input_ids"][0]
    end_tokens = {encoder.tokenizer.sep_token_id, encoder.tokenizer.eos_token_id} - {None}
    position = len(frame) - (1 if frame and frame[-1] in end_tokens else 0)
    parts = []
    for first in range(0, count, _TOKENS_PER_STEP):
        last = min(first + _TOKENS_PER_STEP, count)
        rows = [[*frame[:position], token, *frame[position:]] for token in range(first, last)]
        with torch.inference_mode():
            parts.append(encoder.encode_tokens(rows).float().cpu().numpy())
        on_progress(len(rows))
    return np.concatenate(parts)


def principal_components(vectors: Floats, dim: int) -> Floats:
    """Project vectors [V, D], centred, on their `dim` directions of largest variance: [V, dim].

    A direction's sign is that of its largest entry, so that the result does not depend on the solver.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    _, axes = np.linalg.eigh(centred.T @ centred)
    axes = axes[:, ::-1][:, :dim]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    projected: Floats = (centred @ axes).astype(np.float32)
    return projected


def sif_weights(count: int) -> Floats:
    """Smooth inverse frequency weights [V] of tokens in falling order of frequency, by Zipf's law."""
    frequency = 1.0 / np.arange(2, count + 2)
    frequency /= frequency.sum()
    weights: Floats = (SMOOTHING / (SMOOTHING + frequency)).astype(np.float32)
    return weights
