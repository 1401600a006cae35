"""A model whose modules bring code of their own, run by Sentence Transformers where `trust_remote_code` is given.

Its modules cannot be taken apart, so that its texts are padded and computed by torch. Tokens, batches, training and
search are those of every other encoder. It needs the package sentence-transformers, which nothing else here does.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.core.errors import UserError
from pipeline.core.progress import say
from pipeline.encoder import model_directory, save, token_batches
from pipeline.encoder.config import EncoderConfig
from pipeline.encoder.encoder import Encoder
from pipeline.encoder.layout import Layout
from pipeline.encoder.precision import compute_dtype
from pipeline.encoder.tokenizer import Tokens
from pipeline.encoder.transformer_inputs import fixed_inputs


class CustomEncoder(Encoder):
    """The modules of a `SentenceTransformer`, between our tokens and our vectors."""

    def __init__(self, model: nn.Module, config: EncoderConfig, layout: Layout, path: str, device: str) -> None:
        """Wrap a loaded model; raises UserError where its first module has no transformer with a tokenizer."""
        nn.Module.__init__(self)
        self.model, self.path, self.head = model, path, nn.ModuleList()
        first: Any = next(iter(model.children()))
        transformer = getattr(first, "auto_model", None) or getattr(first, "model", None)
        if transformer is None or getattr(model, "tokenizer", None) is None:
            raise UserError(f"model {path}: its first module has no transformer with a tokenizer")
        self._transformer, self.tokenizer = [transformer], model.tokenizer
        self.prompts = layout.settings.role_prompts(config.prompt_names)
        self.max_lengths = model_directory.resolve_max_lengths(
            layout.settings, config.max_length, getattr(model, "max_seq_length", None), self.tokenizer, transformer
        )
        self.layout = layout.with_max_lengths(self.max_lengths)
        self.token_budget, self.packed, self.runtime, self.runtime_requested = config.budget(device), False, None, False
        self.backend, self.attention, self.similarity = "torch", "sdpa", layout.settings.similarity
        self.pooling, self.include_prompt = "mean", True
        self._fixed_inputs = fixed_inputs(transformer, self.tokenizer)
        self.identity = model_directory.identity(
            path, layout, self.prompts, layers=None, max_lengths=self.max_lengths
        ) | {"dtype": str(transformer.dtype).removeprefix("torch.")}

    @property
    def transformer(self) -> Any:
        """The transformer of the first module."""
        return self._transformer[0]

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        found: Any = self.model
        width, cut = int(found.get_embedding_dimension()), self.layout.settings.truncate_dim
        return min(width, cut or width)

    @property
    def device(self) -> torch.device:
        """The device that holds the weights."""
        return next(self.parameters()).device

    @property
    def pools_tokens(self) -> bool:
        """Never: what happens to token states is the model's own."""
        return False

    def use_runtime(self, threads: int) -> Encoder:
        """Stay with torch, which alone runs the model's code; returns itself."""
        return self

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None, skip: Tensor | None = None) -> Tensor:
        """Token ids [B, L] over mask [B, L] into vectors [B, D] by the model's own modules."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        features = {"input_ids": input_ids, "attention_mask": mask, **self._fixed_inputs(input_ids)}
        if skip is not None:
            features["prompt_length"] = skip.max()
        return self._finish(self.model(features)["sentence_embedding"].float())

    def prompt_length(self, role: Any) -> int:
        """Leading tokens that pooling leaves out, where the model has a pooling that says so."""
        excluded = any(getattr(module, "include_prompt", True) is False for module in self.model.children())
        self.include_prompt = not excluded
        return super().prompt_length(role)

    def encode_tokens(self, tokens: Tokens, skip: Sequence[int] | None = None) -> Tensor:
        """Token ids of N texts into vectors [N, D]; those of one batch leave out the same number of tokens."""
        if skip is None or len(set(skip)) < 2:
            return super().encode_tokens(tokens, skip)
        groups = [[row for row, count in enumerate(skip) if count == value] for value in sorted(set(skip))]
        parts = [
            super(CustomEncoder, self).encode_tokens([tokens[i] for i in rows], [skip[i] for i in rows])
            for rows in groups
        ]
        order = torch.tensor([row for rows in groups for row in rows], device=self.device)
        return torch.cat(parts).index_select(0, order.argsort())

    @property
    def _pooled_dim(self) -> int:
        return self.dim

    def padding_share(self, lengths: Sequence[int]) -> float:
        """Share of the positions that hold no token."""
        return token_batches.padding_share(lengths, self.split_batches(lengths, self.token_budget))

    def write_modules(self, folder: Path) -> None:
        """Have Sentence Transformers write its modules, and our settings of the whole."""
        writer: Any = self.model
        writer.save(str(folder), create_model_card=False)
        save.write_settings(folder, self.layout, self.prompts)


def freeze_unused(encoder: Encoder) -> Encoder:
    """Leave out of training what no vector depends on, as a backward pass of one text tells; returns the encoder.

    Ranks wait for the gradients of all parameters that train, and code that is not known here may have others.
    """
    with torch.enable_grad():
        encoder.encode_tokens(encoder.tokenize(["a text"], "document")).sum().backward()  # type: ignore[no-untyped-call]
    for value in encoder.parameters():
        value.requires_grad_(value.grad is not None)
        value.grad = None
    return encoder


def load_custom(config: EncoderConfig, path: str, layout: Layout, device: str, types: Sequence[str]) -> CustomEncoder:
    """Load a model that names modules of these types, which are not known here; raises UserError where it cannot be."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise UserError(
            f"model {path}: module '{types[0]}' has code of its own, run by the package sentence-transformers; "
            "install it"
        ) from error
    for name in ("layers", "attention", "backend"):
        if getattr(config, name) not in (None, "auto", "torch", "sdpa"):
            raise UserError(f"encoder.{name} {getattr(config, name)}: not for a model with own modules ({types[0]})")
    say(f"model {path}: module '{types[0]}' runs by Sentence Transformers: texts are padded, torch computes")
    try:
        model = SentenceTransformer(path, device=device, trust_remote_code=True, local_files_only=True)
    except Exception as error:
        raise UserError(f"model {path}: cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    dtype = compute_dtype("float32" if config.dtype == "int8" else config.dtype, device)
    return CustomEncoder(model.to(dtype).eval(), config, layout, path, device).eval()
