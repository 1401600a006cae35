"""Static encoders: one vector a token, averaged; no transformer, tens of thousands of texts a second on a CPU.

The layout is Sentence Transformers' StaticEmbedding, `embedding.weight` and tokenizer.json, or model2vec's:
`embeddings`, of which several tokens share a row by `mapping`, and `weights` of each token.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.core.errors import UserError
from pipeline.encoder.modules.vector_module import WEIGHT_FILES, read_weights
from pipeline.encoder.tokenizer import Ints, Tokens, offset_ends

WEIGHT = "embedding.weight"


class StaticTable(nn.Module):
    """The vectors of all tokens, in the role that a transformer has in other encoders."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag.from_pretrained(weight, freeze=False, mode="mean")
        self.config = SimpleNamespace(model_type="static", hidden_size=weight.shape[1])

    def get_input_embeddings(self) -> nn.EmbeddingBag:
        """The vectors of all tokens."""
        return self.embedding

    def forward(self, tokens: Tokens, skip: Sequence[int] | None = None) -> Tensor:
        """Token ids of N texts into their mean [N, D], without the first `skip` tokens; no tokens give zero."""
        rows = tokens if skip is None or not any(skip) else [row[n:] for row, n in zip(tokens, skip, strict=True)]
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        ids = np.fromiter((token for row in rows for token in row), np.int64, int(lengths.sum()))
        offsets = np.concatenate([[0], np.cumsum(lengths[:-1])]) if len(rows) else lengths
        device = self.embedding.weight.device
        means: Tensor = self.embedding(torch.from_numpy(ids).to(device), torch.from_numpy(offsets).to(device))
        return means


class StaticTokenizer:
    """A tokenizer of the library `tokenizers` without special tokens, called as a transformer's is."""

    model_input_names = ("input_ids",)
    pad_token_id = sep_token_id = eos_token_id = None
    all_special_ids = ()
    model_max_length = 1 << 20

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.tokenizer.no_padding()

    def limit(self, max_length: int) -> None:
        """Cut all texts to so many tokens."""
        if max_length < self.model_max_length:
            self.tokenizer.enable_truncation(max_length)

    @property
    def max_length(self) -> int:
        """Tokens a text is cut to; 2^20 where the files state no limit."""
        return int((self.tokenizer.truncation or {}).get("max_length", self.model_max_length))

    def __call__(
        self, texts: list[str], truncation: bool = True, max_length: int | None = None, **_: Any
    ) -> dict[str, Tokens]:
        """Texts into token ids, cut to `max_length`, of which none is more than that of the files, if `truncation`."""
        tokenizer = self.tokenizer if truncation else self._whole
        encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return {"input_ids": [encoding.ids[:max_length] for encoding in encodings]}

    def token_ends(self, texts: list[str]) -> list[Ints]:
        """Characters at which the tokens of each text end, rising; nothing is cut."""
        return offset_ends(self._whole, texts)

    @cached_property
    def _whole(self) -> Any:
        """A copy of the tokenizer that cuts nothing."""
        copy = type(self.tokenizer).from_str(self.tokenizer.to_str())
        copy.no_padding()
        copy.no_truncation()
        return copy

    def batch_decode(self, rows: Tokens) -> list[str]:
        """Token ids into texts."""
        texts: list[str] = self.tokenizer.decode_batch(rows, skip_special_tokens=False)
        return texts


def load(path: str, subfolder: str) -> tuple[StaticTokenizer, StaticTable]:
    """Load tokenizer and table; raises UserError where a file is missing or holds no such table."""
    from tokenizers import Tokenizer

    root = Path(path) / subfolder
    if not (root / "tokenizer.json").exists():
        raise UserError(f"model {path}: has no tokenizer.json; a static model has {WEIGHT} and a fast tokenizer")
    if not any((root / name).exists() for name in WEIGHT_FILES):
        raise UserError(f"model {path}: has no model.safetensors; a static model has {WEIGHT} and a fast tokenizer")
    tokenizer = StaticTokenizer(Tokenizer.from_file(str(root / "tokenizer.json")))
    return tokenizer, StaticTable(_table(path, read_weights(root)))


def _table(path: str, weights: dict[str, Tensor]) -> Tensor:
    """One vector a token [V, D] of the tensors of either layout; raises UserError for others and for their shapes."""
    if set(weights) == {WEIGHT}:
        return weights[WEIGHT].float()
    if not {"embeddings"} <= set(weights) <= {"embeddings", "mapping", "weights"}:
        raise UserError(f"model {path}: its weights hold {', '.join(weights)}, but a static model has {WEIGHT}")
    shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in sorted(weights.items()))
    try:
        table = weights["embeddings"].float()
        table = table[weights["mapping"].long()] if "mapping" in weights else table
        table = table * weights["weights"].float()[:, None] if "weights" in weights else table
    except (RuntimeError, IndexError) as error:
        raise UserError(f"model {path}: its weights do not fit together ({shapes}): {error}") from error
    if table.ndim != 2:
        raise UserError(f"model {path}: its weights are no table of a vector a token ({shapes})")
    return table


def save(path: Path, tokenizer: StaticTokenizer, table: StaticTable) -> None:
    """Write `model.safetensors` in float32 and `tokenizer.json`."""
    from safetensors.torch import save_file

    save_file({WEIGHT: table.embedding.weight.detach().float().cpu().contiguous()}, path / "model.safetensors")
    tokenizer.tokenizer.save(str(path / "tokenizer.json"))
