"""A cross-encoder as training needs it: pairs of token ids into logits with a gradient, saved for every reader.

It stands where an `Encoder` stands in the training loop: a pair is what a text is there, and its one logit is a vector
of one dimension. A directory that it saves is read by `Reranker` here and by `CrossEncoder` of Sentence Transformers.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.core.errors import UserError
from pipeline.encoder import model_directory, token_batches
from pipeline.encoder.attention import disable_cudnn_attention
from pipeline.encoder.config import Role
from pipeline.encoder.cross_encoder import Floats, PairModelConfig, load_classifier
from pipeline.encoder.layout import read_layout
from pipeline.encoder.model_directory import SAMPLE_MODEL
from pipeline.encoder.pair_tokens import PairTemplate
from pipeline.encoder.tokenizer import FastTokenizer, Tokens, token_count
from pipeline.storage.files import new_folder

_ACTIVATIONS = {"sigmoid": "torch.nn.modules.activation.Sigmoid", "identity": "torch.nn.modules.linear.Identity"}
_PAIRS_PER_PIECE = 8192  # tokenised at once


class PairClassifierConfig(PairModelConfig):
    """Which model a cross-encoder is trained from: a cross-encoder of one label, or an encoder, which gets a head."""

    model: str = Field(
        SAMPLE_MODEL, description="model directory or hub name: a reranker, or an encoder, which gets a new head"
    )


class PairClassifier(nn.Module):
    """A sequence classifier of one label over pairs of texts; see the module's text for what it stands for."""

    similarity = "dot"  # a logit is the inner product of [1] and [logit]: losses compare by that
    packed = False

    def __init__(self, transformer: Any, tokenizer: Any, config: PairClassifierConfig, path: str) -> None:
        super().__init__()
        self.transformer, self.tokenizer, self.config, self.path = transformer, tokenizer, config, path
        if transformer.config.pad_token_id is None:
            transformer.config.pad_token_id = tokenizer.pad_token_id
        length = model_directory.resolve_max_length(config.max_length, None, tokenizer, transformer)
        self.template = PairTemplate.of(tokenizer, length)
        self.takes_types = "token_type_ids" in tokenizer.model_input_names
        self.token_budget = config.token_budget

    @classmethod
    def load(cls, config: PairClassifierConfig, device: str = "cpu", seed: int = 0) -> Self:
        """Load a model in float32. A head that an encoder does not have follows from the seed, on every machine alike.

        Raises UserError where there is no such model, and for one of several labels.
        """
        disable_cudnn_attention(device)
        path = model_directory.resolve_model(config.model)
        folder = path if (Path(path) / "config.json").exists() else str(Path(path) / read_layout(path).chain.input.path)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            tokenizer, transformer = load_classifier(config.model, folder, new_head=True)
        if transformer.config.num_labels != 1:
            raise UserError(
                f"model {config.model}: has {transformer.config.num_labels} labels; one of a single label can be "
                "trained, or an encoder"
            )
        return cls(transformer.to(device), tokenizer, config, path)

    @property
    def device(self) -> torch.device:
        """The device that holds the weights."""
        device: torch.device = next(self.transformer.parameters()).device
        return device

    @property
    def max_length(self) -> int:
        """Tokens that a pair is cut to."""
        return self.template.max_length

    @property
    def transformers(self) -> list[Any]:
        """The one transformer that it is made of."""
        return [self.transformer]

    @property
    def identity(self) -> dict[str, str]:
        """All that decides a logit."""
        return {"weights": model_directory.content_digest(self.path), "max_length": str(self.max_length)}

    def pack_for_training(self, device: str, dtype: torch.dtype) -> None:
        """Stay with padded pairs."""

    def tokenize(self, texts: Sequence[str], role: Role) -> Tokens:
        """Texts into token ids without special tokens, cut to what fits into a pair at most; roles are alike."""
        return self._tokenizer(list(texts)) if texts else []

    @cached_property
    def _tokenizer(self) -> "_PlainTokenizer":
        return _PlainTokenizer(self.tokenizer, self.template.room, token_count(self.transformer))

    def decode(self, rows: Tokens) -> list[str]:
        """Token ids into texts, special tokens included."""
        return list(self.tokenizer.batch_decode(rows))

    def split_batches(self, lengths: list[int], budget: int) -> list[token_batches.Ints]:
        """Cut pairs of these lengths into batches of `budget` padded tokens, the longest first."""
        return token_batches.padded_batches(lengths, budget)

    def padding_share(self, lengths: Sequence[int]) -> float:
        """Share of the positions that hold no token, for pairs of these lengths."""
        return token_batches.padding_share(lengths, self.split_batches(list(lengths), self.token_budget))

    def encode_tokens(self, tokens: Tokens, skip: Sequence[int]) -> Tensor:
        """Token ids of N pairs into logits [N, 1], with gradient; `skip` says where the second text of each begins."""
        if not tokens:
            return torch.zeros(0, 1, device=self.device)
        batches = self.split_batches([len(row) for row in tokens], self.token_budget)
        parts = [self._logits([tokens[i] for i in batch], [skip[i] for i in batch]) for batch in batches]
        inverse = torch.from_numpy(np.argsort(np.concatenate(batches), kind="stable")).to(self.device)
        return torch.cat(parts).index_select(0, inverse)

    def _logits(self, rows: Tokens, starts: Sequence[int]) -> Tensor:
        ids, mask = token_batches.pad_rows(rows, self.tokenizer.pad_token_id or 0)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if self.takes_types:
            second = np.arange(ids.shape[1]) >= np.asarray(starts)[:, None]
            inputs["token_type_ids"] = second.astype(np.int64) * mask
        tensors = {name: torch.from_numpy(values).to(self.device) for name, values in inputs.items()}
        logits: Tensor = self.transformer(**tensors).logits
        return logits

    def score(self, lefts: Sequence[str], rights: Sequence[str]) -> Floats:
        """Logits [N] of pairs of texts, without gradient and without dropout, in the precision of the weights."""
        was_training = self.training
        self.eval()
        parts = [np.empty(0, np.float32)]
        with torch.inference_mode():
            for first in range(0, len(lefts), _PAIRS_PER_PIECE):
                piece = slice(first, first + _PAIRS_PER_PIECE)
                texts = self.tokenize(lefts[piece], "query"), self.tokenize(rights[piece], "document")
                parts.append(self.encode_tokens(*self.template.join_all(*texts))[:, 0].float().cpu().numpy())
        self.train(was_training)
        return np.concatenate(parts)

    def save(self, path: str, card: str | None = None) -> None:
        """Write a directory of safetensors that `CrossEncoder(path)` of Sentence Transformers loads, with a card.

        It holds what becomes of a logit (`activation`) and the tokens of a pair, in the places where both are read.
        """
        self.transformer.config.sentence_transformers = {"activation_fn": _ACTIVATIONS[self.config.activation]}
        self.tokenizer.model_max_length = self.max_length
        with new_folder(path) as folder:
            self.transformer.save_pretrained(folder, safe_serialization=True)
            self.tokenizer.save_pretrained(folder)
            if card:
                (folder / "README.md").write_text(card, encoding="utf-8")


class _PlainTokenizer(FastTokenizer):
    """Token ids without special tokens."""

    def _encode(self, texts: list[str]) -> Tokens:
        assert self.fast is not None
        return [encoding.ids for encoding in self.fast.encode_batch_fast(texts, add_special_tokens=False)]
