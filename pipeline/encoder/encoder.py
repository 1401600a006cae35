"""The one place where text becomes a vector: tokens, transformer, pooling, normalisation.

Prompts, length, pooling and normalisation come from the model directory (Sentence-Transformers layout, or any plain
Hugging Face encoder), so that training, mining, embedding and evaluation cannot disagree.

    encoder = Encoder.load(EncoderConfig(model="path/to/model"))
    vectors = encoder.encode(["wireless headphones"], "query")  # [1, D] float32
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.core.config import Config
from pipeline.encoder import model_directory, packing, static_encoder, token_batches
from pipeline.encoder.attention import (
    Attention,
    disable_cudnn_attention,
    resolve_attention,
    use_packed_attention,
)
from pipeline.encoder.backends import backend
from pipeline.encoder.backends.backend import Backend
from pipeline.encoder.backends.runtime import Batch, Runtime
from pipeline.encoder.model_directory import Layout
from pipeline.encoder.pooling import PackedStates, PaddedStates, TokenStates, pool, require_mode
from pipeline.encoder.precision import Dtype, compute_dtype
from pipeline.encoder.save import write_model
from pipeline.encoder.static_encoder import StaticTable
from pipeline.encoder.tokenizer import FastTokenizer, Tokens

Role = Literal["query", "document"]
_RUNTIME_MIN_TOKENS = 512  # padded tokens below which a runtime's batch is not cut for its padding
_TORCH_MIN_TOKENS = 1024  # the same for a pass of torch, which has more to do before it computes


class EncoderConfig(Config):
    """Which model turns text into vectors, and what of its own settings to override."""

    model: str = Field(model_directory.SAMPLE_MODEL, description="model directory, hub name, or gt:all-minilm-l6-v2")
    max_length: int | None = Field(None, ge=4, description="tokens a text is cut to, special tokens included")
    prompts: dict[str, str] | None = Field(None, description="text put before a query or document")
    layers: int | None = Field(None, ge=1, description="keep only the first transformer layers")
    dtype: Dtype = Field("auto", description="compute precision; auto: bfloat16 where the hardware has it")
    backend: Backend = Field("auto", description="what computes when nothing is trained; auto: openvino on CPUs")
    attention: Attention = Field("auto", description="varlen and flash_attention_2 compute no padding")
    token_budget: int | None = Field(
        None, ge=16, description="padded tokens of one forward pass; default: 65536, on a CPU 2048, for its caches"
    )
    trust_remote_code: bool = Field(False, description="run code that the model directory brings")

    def budget(self, device: str) -> int:
        """Tokens of one pass: on a CPU so few that its states stay in the caches, unless the settings say otherwise."""
        return self.token_budget or (2048 if device == "cpu" else 65536)


class Encoder(nn.Module):
    """A bi-encoder: texts of a role into vectors [N, D]."""

    def __init__(
        self,
        transformer: Any,
        tokenizer: Any,
        *,
        pooling: str,
        normalize: bool,
        include_prompt: bool,
        prompts: dict[str, str],
        max_length: int,
        token_budget: int,
        identity: dict[str, str],
        path: str = "",
        backend: Backend = "auto",
        attention: Attention = "auto",
        packed: bool = False,
        runtime_requested: bool = False,
    ) -> None:
        """Put a loaded transformer and its tokenizer together; `load` does it for a model directory.

        `identity` is all that decides a vector, by name. `runtime_requested` means that the settings name a runtime,
        which is then used from the first text on. Raises UserError for an unknown pooling mode.
        """
        super().__init__()
        require_mode(pooling)
        self.transformer, self.tokenizer = transformer, tokenizer
        self.pooling, self.normalize, self.include_prompt = pooling, normalize, include_prompt
        self.prompts, self.max_length, self.token_budget = prompts, max_length, token_budget
        self.identity, self.packed, self.path = identity, packed, path
        self.backend, self.attention, self.runtime_requested = backend, attention, runtime_requested
        self.runtime: Runtime | None = None
        self._takes_types = "token_type_ids" in getattr(tokenizer, "model_input_names", [])
        pooler = getattr(transformer, "pooler", None)
        if isinstance(pooler, nn.Module):
            pooler.requires_grad_(False)

    @classmethod
    def load(cls, config: EncoderConfig, device: str = "auto", *, to_train: bool = False) -> "Encoder":
        """Load a model for `device` (auto: CUDA when there is one).

        `to_train` chooses what has the fastest backward: on a CPU packed texts where the architecture allows, else
        plain attention, whose backward in bfloat16 beats the fused one's. Vectors are the same to rounding. Raises
        UserError when the directory is missing, holds no model or no tokenizer, or asks for an unknown module.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        path = model_directory.resolve_model(config.model)
        layout = model_directory.read_layout(path)
        if layout.static:
            return cls._load_static(config, path, layout, device)
        return cls._load_transformer(config, path, layout, device, to_train=to_train)

    @classmethod
    def _load_transformer(
        cls, config: EncoderConfig, path: str, layout: Layout, device: str, *, to_train: bool
    ) -> "Encoder":
        disable_cudnn_attention(device)
        dtype = compute_dtype(config.dtype, device)
        tokenizer, transformer = model_directory.load_parts(
            path,
            layout.transformer,
            config.layers,
            attention=resolve_attention(config.attention, device, dtype, to_train=to_train),
            trust_remote_code=config.trust_remote_code,
        )
        transformer = transformer.to(device=device, dtype=dtype).eval()
        limit = model_directory.resolve_max_length(config.max_length, layout.max_length, tokenizer, transformer)
        prompts = layout.role_prompts(config.prompts)
        runtime_requested = not to_train and (config.backend in ("openvino", "onnx") or config.dtype == "int8")
        if runtime_requested:
            backend.require_backend(config.backend, path, device, transformer.config.model_type, config.dtype)
        return cls(
            transformer,
            tokenizer,
            pooling=layout.pooling,
            normalize=layout.normalize,
            include_prompt=layout.include_prompt,
            prompts=prompts,
            max_length=limit,
            token_budget=config.budget(device),
            identity=model_directory.identity(path, layout, prompts, layers=config.layers, max_length=limit)
            | {"dtype": "int8" if config.dtype == "int8" else str(dtype).removeprefix("torch.")},
            path=path,
            backend=config.backend,
            attention=config.attention,
            packed=use_packed_attention(config.attention, transformer, device, dtype, to_train=to_train),
            runtime_requested=runtime_requested,
        ).eval()

    @classmethod
    def _load_static(cls, config: EncoderConfig, path: str, layout: Layout, device: str) -> "Encoder":
        backend.resolve_backend(config.backend, device, "static", "float32")
        tokenizer, table = static_encoder.load(path, layout.transformer, config.max_length)
        prompts, limit = layout.role_prompts(config.prompts), tokenizer.max_length
        return cls(
            table.to(device),
            tokenizer,
            pooling="mean",
            normalize=layout.normalize,
            include_prompt=True,
            prompts=prompts,
            max_length=limit,
            token_budget=config.budget(device),
            identity=model_directory.identity(path, layout, prompts, layers=None, max_length=limit)
            | {"dtype": "float32"},
            path=path,
        )

    def use_runtime(self, threads: int) -> "Encoder":
        """Compute `encode` by the fastest runtime from here on, in which the weights may not change; returns itself.

        Raises UserError where the settings name a runtime that cannot be had.
        """
        dtype = self.identity["dtype"]
        name = backend.resolve_backend(self.backend, self.device.type, self.transformer.config.model_type, dtype)
        if name == "torch" and self.attention == "auto" and not isinstance(self.transformer, StaticTable):
            compute = self.transformer.dtype
            self.packed = use_packed_attention("auto", self.transformer, self.device.type, compute, to_train=True)
        self.runtime = backend.build_runtime(name, self.path, self.transformer, self.tokenizer, dtype, threads)
        return self

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        return int(self.transformer.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """The device that holds the weights."""
        device: torch.device = next(self.transformer.parameters()).device
        return device

    def tokenize(self, texts: Sequence[str], role: Role) -> Tokens:
        """Prompt and texts into token ids, special tokens included, cut to `max_length`; no padding."""
        if not texts:
            return []
        prompt = self.prompts.get(role, "")
        return self._fast_tokenizer([prompt + text for text in texts] if prompt else list(texts))

    @cached_property
    def _fast_tokenizer(self) -> FastTokenizer:
        return FastTokenizer(self.tokenizer, self.max_length)

    def prompt_length(self, role: Role) -> int:
        """Leading tokens that pooling leaves out: 0 unless the model excludes its prompt."""
        prompt = self.prompts.get(role, "")
        if self.include_prompt or not prompt:
            return 0
        ids = self._fast_tokenizer([prompt])[0]
        end_tokens = {self.tokenizer.sep_token_id, self.tokenizer.eos_token_id} - {None}
        return len(ids) - (1 if ids[-1] in end_tokens else 0)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None, skip: Tensor | None = None) -> Tensor:
        """Token ids [B, L] over mask [B, L] into vectors [B, D], pooled and normalised in float32.

        Without padding the mask is None, which lets attention take its fastest way. `skip` [B] counts leading
        tokens that pooling leaves out.
        """
        inputs = {"token_type_ids": torch.zeros_like(input_ids)} if self._takes_types else {}
        states = self.transformer(input_ids=input_ids, attention_mask=attention_mask, **inputs).last_hidden_state
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return self._pool(PaddedStates(states, mask, skip))

    def _pool(self, tokens: TokenStates) -> Tensor:
        return self._normalize(pool(tokens, self.pooling))

    def _normalize(self, pooled: Tensor) -> Tensor:
        return nn.functional.normalize(pooled, dim=-1) if self.normalize else pooled

    def encode_tokens(self, tokens: Tokens, skip: Sequence[int] | None = None) -> Tensor:
        """Token ids of N texts into vectors [N, D] in input order, encoded in length-sorted batches, with gradient."""
        if not tokens:
            return torch.zeros(0, self.dim, device=self.device)
        if isinstance(self.transformer, StaticTable):
            return self._normalize(self.transformer(tokens, skip))
        batches = self.split_batches([len(row) for row in tokens], self.token_budget)
        encode = self._encode_packed if self.packed else self._encode_padded
        parts = [encode([tokens[i] for i in batch], self._skip_of(skip, batch)) for batch in batches]
        inverse = torch.from_numpy(np.argsort(np.concatenate(batches), kind="stable")).to(self.device)
        return torch.cat(parts).index_select(0, inverse)

    def split_batches(self, lengths: Sequence[int], budget: int) -> list[npt.NDArray[np.int64]]:
        """Cut texts of these lengths into batches of `budget` tokens, padding included where this encoder pads.

        Returns index arrays that partition range(len(lengths)), the longest texts first.
        """
        if self.runtime:
            return token_batches.padded_batches(lengths, budget, min_tokens=_RUNTIME_MIN_TOKENS)
        if self.packed:
            return token_batches.packed_batches(lengths, budget)
        return token_batches.padded_batches(lengths, budget, min_tokens=max(_TORCH_MIN_TOKENS, budget // 8))

    def padding_share(self, lengths: Sequence[int]) -> float:
        """Share of the positions of all layers that hold no token, for texts of these lengths."""
        packed = (self.packed and not self.runtime) or isinstance(self.transformer, StaticTable)
        if packed:
            return 0.0
        return token_batches.padding_share(lengths, self.split_batches(lengths, self.token_budget))

    def _encode_padded(self, rows: Tokens, skip: Tensor | None) -> Tensor:
        ids, mask = (torch.from_numpy(array) for array in self._pad(rows))
        attention_mask = None if bool(mask.all()) else mask.to(self.device)
        vectors: Tensor = self(ids.to(self.device), attention_mask, skip)
        return vectors

    def _encode_packed(self, rows: Tokens, skip: Tensor | None) -> Tensor:
        """Encode texts of falling length laid end to end."""
        lengths = [len(row) for row in rows]
        layout = packing.Packing.from_lengths(lengths, self.device)
        flat = np.fromiter(chain.from_iterable(rows), np.int64, sum(lengths))
        ids = torch.from_numpy(flat).to(self.device)
        inputs = {"token_type_ids": torch.zeros_like(ids)[None]} if self._takes_types else {}
        states = packing.packed_forward(self.transformer, ids, layout, **inputs)
        return self._pool(PackedStates(states, layout, skip))

    def _skip_of(self, skip: Sequence[int] | None, batch: npt.NDArray[np.int64]) -> Tensor | None:
        if skip is None or not any(skip):
            return None
        return torch.tensor([skip[i] for i in batch], device=self.device)

    def _pad(self, rows: Tokens) -> Batch:
        return token_batches.pad_rows(rows, self.tokenizer.pad_token_id or 0)

    def encode(self, texts: Sequence[str], role: Role) -> npt.NDArray[np.float32]:
        """Texts into vectors [N, D] float32 in input order, without gradient and without dropout."""
        return self.vectors(self.tokenize(texts, role), role)

    def vectors(self, tokens: Tokens, role: Role) -> npt.NDArray[np.float32]:
        """Token ids of N texts of a role into vectors [N, D], as `encode` does."""
        if self.runtime_requested and self.runtime is None:
            self.use_runtime(torch.get_num_threads())
        was_training = self.training
        self.eval()
        with torch.inference_mode():
            skip = [self.prompt_length(role)] * len(tokens)
            if self.runtime:
                vectors = self._encode_by_runtime(self.runtime, tokens, skip)
            else:
                vectors = self.encode_tokens(tokens, skip)
        self.train(was_training)
        return np.ascontiguousarray(vectors.float().cpu().numpy())

    def _encode_by_runtime(self, runtime: Runtime, tokens: Tokens, skip: Sequence[int]) -> Tensor:
        """Have a runtime compute token states [B, L, H] and pool them here: token ids of N texts into [N, D]."""
        vectors = np.empty((len(tokens), self.dim), np.float32)
        batches = self.split_batches([len(row) for row in tokens], self.token_budget)
        inputs = [self._pad([tokens[i] for i in batch]) for batch in batches]

        def on_states(index: int, states: npt.NDArray[Any]) -> None:
            vectors[batches[index]] = self.pool_states(states, inputs[index][1], self._skip_of(skip, batches[index]))

        runtime(inputs, on_states)
        return torch.from_numpy(vectors)

    def pool_states(
        self, states: npt.NDArray[Any], mask: npt.NDArray[np.int64], skip: Tensor | None = None
    ) -> npt.NDArray[np.float32]:
        """Token states [B, L, H] that a runtime computed, over their mask [B, L], into vectors [B, D]."""
        vectors: npt.NDArray[np.float32] = self._pool(
            PaddedStates(torch.from_numpy(states), torch.from_numpy(mask), skip)
        ).numpy()
        return vectors

    def save(self, path: str | Path, card: str | None = None, extra_files: Mapping[str, bytes] | None = None) -> None:
        """Write a directory that `SentenceTransformer(path)` loads, with a model card and `extra_files` by name."""
        layout: dict[str, Any] = {"normalize": self.normalize, "prompts": self.prompts}
        if not isinstance(self.transformer, StaticTable):
            layout |= {"dim": self.dim, "max_length": self.max_length, "pooling": self.pooling}
            layout |= {"include_prompt": self.include_prompt}
        write_model(str(path), self.transformer, self.tokenizer, layout, card, extra_files or {})
