"""A static encoder out of a transformer: what it makes of each token alone, fewer dimensions, frequent tokens lighter.

    vector(token) = a / (a + p(token)) * PCA(model(token)),  a = 1e-4,  p(rank) ~ 1 / rank (Zipf)

Vocabularies are ordered by falling frequency, so that the place of a token stands for its rank. Sources: Tulkens and
van Dongen 2024 (Model2Vec) for the recipe, Arora et al. 2017 (SIF, ICLR) for the weights.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from pipeline.core.errors import UserError
from pipeline.encoder.encoder import Encoder
from pipeline.encoder.static_encoder import StaticTable, StaticTokenizer

SMOOTHING = 1e-4
_ROWS = 4096
Floats = npt.NDArray[np.float32]
Method = Literal["distill", "embeddings"]


def distil(
    encoder: Encoder, dim: int | None, method: Method = "distill", told: Callable[[int], None] | None = None
) -> Encoder:
    """A static encoder with the vocabulary of a transformer, and `dim` dimensions (None: as many as it has).

    `distill` embeds each token alone; `embeddings` takes the transformer's own input embeddings, which cost nothing
    and are a start for training. Raises UserError for more dimensions than there are and for slow tokenizers.
    """
    inner = getattr(encoder.tokenizer, "backend_tokenizer", None)
    if inner is None:
        raise UserError("distil: this model's tokenizer has no fast form, which a static encoder needs")
    if dim and dim > encoder.dim:
        raise UserError(f"dim {dim} is more than the model's {encoder.dim}")
    if method == "embeddings":
        vectors = encoder.transformer.get_input_embeddings().weight.detach().float().cpu().numpy()
    else:
        vectors = _alone(encoder, len(encoder.tokenizer), told or (lambda count: None))
    table = principal(vectors, dim or encoder.dim) * weights(len(vectors))[:, None]
    tokenizer = StaticTokenizer(type(inner).from_str(inner.to_str()), None)
    tokenizer.tokenizer.no_truncation()
    return _static(encoder, tokenizer, table)


def _static(encoder: Encoder, tokenizer: StaticTokenizer, table: Floats) -> Encoder:
    return Encoder(
        StaticTable(torch.from_numpy(np.ascontiguousarray(table, np.float32))),
        tokenizer,
        pooling="mean",
        normalize=True,
        include_prompt=True,
        prompts={"query": "", "document": ""},
        max_length=tokenizer.max_length,
        token_budget=encoder.token_budget,
        identity={},
    )


def _alone(encoder: Encoder, count: int, told: Callable[[int], None]) -> Floats:
    """Vectors [V, D] of every token by itself, between the special tokens where the model has them."""
    frame = encoder.tokenizer([""])["input_ids"][0]
    ends = {encoder.tokenizer.sep_token_id, encoder.tokenizer.eos_token_id} - {None}
    place = len(frame) - (1 if frame and frame[-1] in ends else 0)
    parts = []
    for first in range(0, count, _ROWS):
        rows = [[*frame[:place], token, *frame[place:]] for token in range(first, min(first + _ROWS, count))]
        with torch.inference_mode():
            parts.append(encoder.encode_tokens(rows).float().cpu().numpy())
        told(len(rows))
    return np.concatenate(parts)


def principal(vectors: Floats, dim: int) -> Floats:
    """Vectors [V, D] about their mean, turned onto their `dim` directions of largest variance: [V, dim].

    A direction's sign is that of its largest entry, so that the result does not depend on the solver.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    _, axes = np.linalg.eigh(centred.T @ centred)
    axes = axes[:, ::-1][:, :dim]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    found: Floats = (centred @ axes).astype(np.float32)
    return found


def weights(count: int) -> Floats:
    """SIF weights [V] of tokens in falling order of frequency, by Zipf's law."""
    share = 1.0 / np.arange(2, count + 2)
    share /= share.sum()
    found: Floats = (SMOOTHING / (SMOOTHING + share)).astype(np.float32)
    return found
