"""The one place where text becomes a vector: tokens, transformer, pooling, normalisation.

Prompts, length, pooling and normalisation come from the model directory (Sentence-Transformers layout, or any plain
Hugging Face encoder), so that training, mining, embedding and evaluation cannot disagree.
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
from pipeline.encoder.attention import Attention, choose, pack, without_cudnn
from pipeline.encoder.backends import backend
from pipeline.encoder.backends.backend import Backend
from pipeline.encoder.backends.runtime import Batch, Runtime
from pipeline.encoder.pooling import pool, without_prompt
from pipeline.encoder.precision import Dtype, compute_dtype
from pipeline.encoder.save import write
from pipeline.encoder.static_encoder import StaticTable
from pipeline.encoder.tokenizer import Tokenizing, Tokens

Role = Literal["query", "document"]
_LEAST = 512  # padded tokens below which a runtime's batch is not cut for its padding
_SMALL = 1024  # the same for a pass of torch, which has more to do before it computes


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
        """Tokens of one pass: on a CPU so few that its states stay in the caches, unless asked otherwise."""
        return self.token_budget or (2048 if device == "cpu" else 65536)


class Encoder(nn.Module):
    """A bi-encoder: texts of a role into [N, D] vectors."""

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
    ) -> None:
        super().__init__()
        self.transformer, self.tokenizer = transformer, tokenizer
        self.pooling, self.normalize, self.include_prompt = pooling, normalize, include_prompt
        self.prompts, self.max_length, self.token_budget = prompts, max_length, token_budget
        self.identity, self.packed = identity, False
        self.runtime: Runtime | None = None
        self.folder, self.asked = "", False  # whether a runtime was asked for by name
        self.backend: Backend = "auto"
        self.attention: Attention = "auto"
        self._takes_types = "token_type_ids" in getattr(tokenizer, "model_input_names", [])
        pooler = getattr(transformer, "pooler", None)
        if isinstance(pooler, nn.Module):
            pooler.requires_grad_(False)

    @classmethod
    def load(cls, config: EncoderConfig, device: str = "auto", *, to_train: bool = False) -> "Encoder":
        """Load a model for `device` (auto: CUDA when there is one).

        `to_train` takes the way whose backward is fastest: on a CPU packed texts where the architecture allows, else
        plain attention, whose backward in bfloat16 beats the fused one's. Vectors are the same to rounding. Raises
        UserError when the directory is missing, holds no model or no tokenizer, or asks for an unknown module.
        """
        place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        without_cudnn(place)
        dtype = compute_dtype(config.dtype, place)
        chosen = choose(config.attention, place, dtype, to_train=to_train)
        folder = model_directory.find(config.model)
        layout = model_directory.read_layout(folder)
        if layout["static"]:
            return cls._static(config, folder, layout, place)
        tokenizer, transformer = model_directory.load_parts(
            folder,
            layout["transformer"],
            config.layers,
            attention=chosen,
            trust_remote_code=config.trust_remote_code,
        )
        transformer = transformer.to(device=place, dtype=dtype).eval()
        limit = model_directory.longest(config.max_length, layout, tokenizer, transformer)
        prompts = {**layout["prompts"], **(config.prompts or {})}
        encoder = cls(
            transformer,
            tokenizer,
            pooling=layout["pooling"],
            normalize=layout["normalize"],
            include_prompt=layout["include_prompt"],
            prompts={role: prompts.get(role) or "" for role in ("query", "document")},
            max_length=limit,
            token_budget=config.budget(place),
            identity=model_directory.identity(folder, layout, prompts, layers=config.layers, max_length=limit)
            | {"dtype": "int8" if config.dtype == "int8" else str(dtype).removeprefix("torch.")},
        )
        encoder.folder, encoder.backend, encoder.attention = folder, config.backend, config.attention
        encoder.asked = not to_train and (config.backend in ("openvino", "onnx") or config.dtype == "int8")
        if encoder.asked:
            backend.check(config.backend, folder, place, transformer.config.model_type, config.dtype)
        encoder.packed = pack(config.attention, transformer, place, dtype, to_train=to_train)
        return encoder.eval()

    @classmethod
    def _static(cls, config: EncoderConfig, folder: str, layout: dict[str, Any], place: str) -> "Encoder":
        backend.choose(config.backend, place, "static", "float32")
        tokenizer, table = static_encoder.load(folder, layout["transformer"], config.max_length)
        prompts, limit = {**layout["prompts"], **(config.prompts or {})}, tokenizer.max_length
        return cls(
            table.to(place),
            tokenizer,
            pooling="mean",
            normalize=layout["normalize"],
            include_prompt=True,
            prompts={role: prompts.get(role) or "" for role in ("query", "document")},
            max_length=limit,
            token_budget=config.budget(place),
            identity=model_directory.identity(folder, layout, prompts, layers=None, max_length=limit)
            | {"dtype": "float32"},
        )

    def hasten(self, threads: int) -> "Encoder":
        """Take the fastest runtime for `encode`, or raise UserError; from here on the weights may not change."""
        dtype = self.identity["dtype"]
        name = backend.choose(self.backend, self.device.type, self.transformer.config.model_type, dtype)
        if name == "torch" and self.attention == "auto" and not isinstance(self.transformer, StaticTable):
            self.packed = pack("auto", self.transformer, self.device.type, self.transformer.dtype, to_train=True)
        self.runtime = backend.build(name, self.folder, self.transformer, self.tokenizer, dtype, threads)
        return self

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        return int(self.transformer.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.transformer.parameters()).device
        return device

    def tokenize(self, texts: Sequence[str], role: Role) -> Tokens:
        """Prompt and texts into token ids, special tokens included, cut to `max_length`; no padding."""
        if not texts:
            return []
        prompt = self.prompts.get(role, "")
        given = [prompt + text for text in texts] if prompt else list(texts)
        return self._ids(given)

    @cached_property
    def _ids(self) -> Tokenizing:
        return Tokenizing(self.tokenizer, self.max_length)

    def prompt_length(self, role: Role) -> int:
        """Leading tokens that pooling leaves out: 0 unless the model excludes its prompt."""
        prompt = self.prompts.get(role, "")
        if self.include_prompt or not prompt:
            return 0
        ids = self._ids([prompt])[0]
        ends = {self.tokenizer.sep_token_id, self.tokenizer.eos_token_id} - {None}
        return len(ids) - (1 if ids[-1] in ends else 0)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None, skip: Tensor | None = None) -> Tensor:
        """Token ids [B, L] over mask [B, L] into vectors [B, D], pooled and normalised in float32.

        Without padding the mask is None, which lets attention take its fastest way. `skip` [B] counts leading
        tokens that pooling leaves out.
        """
        extra = {"token_type_ids": torch.zeros_like(input_ids)} if self._takes_types else {}
        states = self.transformer(input_ids=input_ids, attention_mask=attention_mask, **extra).last_hidden_state
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        pooled = pool(states, mask if skip is None else without_prompt(mask, skip), self.pooling)
        return self._scaled(pooled)

    def _scaled(self, pooled: Tensor) -> Tensor:
        return nn.functional.normalize(pooled, dim=-1) if self.normalize else pooled

    def encode_tokens(self, tokens: Tokens, skip: Sequence[int] | None = None) -> Tensor:
        """Token ids of N texts into vectors [N, D] in input order, encoded in length-sorted chunks."""
        if not tokens:
            return torch.zeros(0, self.dim, device=self.device)
        if isinstance(self.transformer, StaticTable):
            return self._scaled(self.transformer(tokens, skip))
        order = self.cut([len(row) for row in tokens], self.token_budget)
        way = self._pack if self.packed else self._pad
        parts = [way([tokens[i] for i in chunk], self._skips(skip, chunk)) for chunk in order]
        back = torch.from_numpy(np.argsort(np.concatenate(order), kind="stable")).to(self.device)
        return torch.cat(parts).index_select(0, back)

    def cut(self, lengths: Sequence[int], budget: int) -> list[npt.NDArray[np.int64]]:
        """Cut texts of these lengths into chunks of `budget` tokens, padding included where this encoder pads."""
        if self.runtime:
            return token_batches.by_tokens(lengths, budget, least=_LEAST)
        if self.packed:
            return token_batches.by_sum(lengths, budget)
        return token_batches.by_tokens(lengths, budget, least=max(_SMALL, budget // 8))

    def padding_share(self, lengths: Sequence[int]) -> float:
        """Share of the positions of all layers that hold no token, for texts of these lengths."""
        packed = (self.packed and not self.runtime) or isinstance(self.transformer, StaticTable)
        return 0.0 if packed else token_batches.padding_share(lengths, self.cut(lengths, self.token_budget))

    def _pad(self, rows: Tokens, skip: Tensor | None) -> Tensor:
        vectors: Tensor = self(*self._padded(rows), skip)
        return vectors

    def _pack(self, rows: Tokens, skip: Tensor | None) -> Tensor:
        """Encode texts of falling length laid end to end."""
        lengths = [len(row) for row in rows]
        packed = packing.Packing.of(lengths, self.device)
        flat = np.fromiter(chain.from_iterable(rows), np.int64, sum(lengths))
        ids = torch.from_numpy(flat).to(self.device)
        extra = {"token_type_ids": torch.zeros_like(ids)[None]} if self._takes_types else {}
        pooled = packing.pool(packing.states(self.transformer, ids, packed, **extra), packed, self.pooling, skip)
        return self._scaled(pooled)

    def _skips(self, skip: Sequence[int] | None, chunk: npt.NDArray[np.int64]) -> Tensor | None:
        if skip is None or not any(skip):
            return None
        return torch.tensor([skip[i] for i in chunk], device=self.device)

    def _padded(self, rows: Tokens) -> tuple[Tensor, Tensor | None]:
        """Right-pad token rows into ids [B, L] and mask [B, L]; the mask is None when nothing was padded."""
        ids, mask = self._filled(rows)
        held = None if mask.all() else torch.from_numpy(mask).to(self.device)
        return torch.from_numpy(ids).to(self.device), held

    def _filled(self, rows: Tokens) -> Batch:
        return token_batches.padded(rows, self.tokenizer.pad_token_id or 0)

    def encode(self, texts: Sequence[str], role: Role) -> npt.NDArray[np.float32]:
        """Texts into vectors [N, D] float32 in input order, without gradient and without dropout."""
        return self.vectors(self.tokenize(texts, role), role)

    def vectors(self, tokens: Tokens, role: Role) -> npt.NDArray[np.float32]:
        """Token ids of texts of a role into vectors [N, D], as `encode` does."""
        if self.asked and self.runtime is None:
            self.hasten(torch.get_num_threads())
        was_training = self.training
        self.eval()
        with torch.inference_mode():
            skip = [self.prompt_length(role)] * len(tokens)
            vectors = self._run(self.runtime, tokens, skip) if self.runtime else self.encode_tokens(tokens, skip)
        self.train(was_training)
        return np.ascontiguousarray(vectors.float().cpu().numpy())

    def _run(self, runtime: Runtime, tokens: Tokens, skip: Sequence[int]) -> Tensor:
        """Have a runtime compute token states [B, L, H] and pool them here: token ids of N texts into [N, D]."""
        vectors = np.empty((len(tokens), self.dim), np.float32)
        order = self.cut([len(row) for row in tokens], self.token_budget)
        batches = [self._filled([tokens[i] for i in chunk]) for chunk in order]

        def take(place: int, states: npt.NDArray[Any]) -> None:
            mask, skips = torch.from_numpy(batches[place][1]), self._skips(skip, order[place])
            held = mask if skips is None else without_prompt(mask, skips)
            vectors[order[place]] = self._scaled(pool(torch.from_numpy(states), held, self.pooling)).numpy()

        runtime(batches, take)
        return torch.from_numpy(vectors)

    def save(self, path: str | Path, card: str | None = None, beside: Mapping[str, bytes] | None = None) -> None:
        """Write a directory that `SentenceTransformer(path)` loads, with a model card; `beside` are further files."""
        layout = {"normalize": self.normalize, "prompts": self.prompts}
        if not isinstance(self.transformer, StaticTable):
            layout |= {"dim": self.dim, "max_length": self.max_length, "pooling": self.pooling}
            layout |= {"include_prompt": self.include_prompt}
        write(str(path), self.transformer, self.tokenizer, layout, card, beside or {})
