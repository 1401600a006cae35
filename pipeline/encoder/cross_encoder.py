"""A cross-encoder: a sequence classifier that reads two texts at once and scores whether they belong together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch.nn import functional as F

from pipeline.core.config import Config
from pipeline.core.errors import UserError
from pipeline.encoder import model_directory, token_batches
from pipeline.encoder.attention import disable_cudnn_attention
from pipeline.encoder.precision import Dtype, compute_dtype

Floats = npt.NDArray[np.float32]
_PAIRS_PER_PIECE = 8192  # tokenised at once


class PairModelConfig(Config):
    """What all cross-encoders have, those that score and those that are trained."""

    model: str = Field(description="model directory or hub name")
    max_length: int | None = Field(None, ge=8, description="tokens of both texts together")
    activation: Literal["sigmoid", "identity"] = Field("sigmoid", description="of a single label's logit")
    token_budget: int = Field(8192, ge=16, description="padded tokens of one forward pass")


class CrossEncoderConfig(PairModelConfig):
    """Which cross-encoder scores pairs of texts: any sequence classifier of one or two labels, from safetensors."""

    dtype: Dtype = Field("auto", description="compute precision")
    trust_remote_code: bool = Field(False, description="run code that the model directory brings")


class Reranker:
    """A cross-encoder: pairs of texts into scores."""

    def __init__(self, config: CrossEncoderConfig, device: str = "auto") -> None:
        """Load the model for a device (auto: CUDA when there is one); raises UserError where it is no reranker."""
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        disable_cudnn_attention(device)
        self.config, self.path = config, model_directory.resolve_model(config.model)
        self.tokenizer, model = load_classifier(config.model, self.path, trust_remote_code=config.trust_remote_code)
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


def load_classifier(
    name: str, path: str, *, new_head: bool = False, trust_remote_code: bool = False
) -> tuple[Any, Any]:
    """Load tokenizer and sequence classifier of a directory, in float32; safetensors alone are accepted.

    Raises UserError where weights are missing. With `new_head` those of the head may be: an encoder, which has none,
    gets one of a single label, drawn from torch's generator.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if not list(Path(path).glob("*.safetensors")):
        raise UserError(f"model {name}: has no *.safetensors; other weight formats can carry code")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
        without_head = new_head and not is_classifier(config)
        if without_head:
            config.num_labels = 1
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            path,
            config=config,
            use_safetensors=True,
            dtype="float32",
            output_loading_info=True,
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"model {name}: cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    lacking = sorted(loading["missing_keys"])
    if without_head:
        lacking = [key for key in lacking if key.startswith(f"{model.base_model_prefix}.") and ".pooler." not in key]
    if lacking:
        kind = "encoder" if without_head else "reranker"
        raise UserError(f"model {name}: is no {kind}, its weights lack {', '.join(lacking[:3])}")
    for layer in model.modules():
        if type(layer) is torch.nn.Linear and layer.out_features == model.config.num_labels:
            layer.__class__ = _Float32Linear
    return tokenizer, model


class _Float32Linear(torch.nn.Linear):
    """A head that computes in float32 where the rest does not: half precision tells 128 logits of a size apart."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Logits of states, in float32 at least."""
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        bias = None if self.bias is None else self.bias.to(dtype)
        with torch.autocast(states.device.type, enabled=False):
            return F.linear(states.to(dtype), self.weight.to(dtype), bias)


def is_classifier(config: Any) -> bool:
    """Whether a model's configuration says that it classifies sequences."""
    return any(str(name).endswith("ForSequenceClassification") for name in config.architectures or ())
