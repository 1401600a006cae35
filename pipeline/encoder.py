"""The one place where text becomes a vector: tokens, transformer, pooling, normalisation.

Prompts, length, pooling and normalisation come from the model directory (Sentence-Transformers layout, or any plain
Hugging Face encoder), so that training, mining, embedding and evaluation cannot disagree.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline import chunks, modeldir, packing
from pipeline.attention import Attention, choose, pack
from pipeline.config import Config
from pipeline.files import store_folder

Role = Literal["query", "document"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Tokens = list[list[int]]


class EncoderConfig(Config):
    """Which model turns text into vectors, and what of its own settings to override."""

    model: str = Field(modeldir.SAMPLE_MODEL, description="model directory, hub name, or gt:all-minilm-l6-v2")
    max_length: int | None = Field(None, ge=4, description="tokens a text is cut to, special tokens included")
    prompts: dict[str, str] | None = Field(None, description="text put before a query or document")
    layers: int | None = Field(None, ge=1, description="keep only the first transformer layers")
    dtype: Dtype = Field("auto", description="compute precision; auto: bfloat16 where the hardware has it")
    attention: Attention = Field("auto", description="varlen and flash_attention_2 compute no padding")
    token_budget: int = Field(8192, ge=16, description="padded tokens of one forward pass")
    trust_remote_code: bool = Field(False, description="run code that the model directory brings")


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
        self.identity = identity
        self.packed = False
        self._takes_types = "token_type_ids" in getattr(tokenizer, "model_input_names", [])
        pooler = getattr(transformer, "pooler", None)
        if isinstance(pooler, nn.Module):
            pooler.requires_grad_(False)

    @classmethod
    def load(cls, config: EncoderConfig, device: str = "auto", *, to_train: bool = False) -> "Encoder":
        """Load a model for `device` (auto: CUDA when there is one).

        `to_train` takes the way whose backward is fastest: on a CPU packed texts where the architecture allows, else
        plain attention, whose backward in bfloat16 beats the fused one's. The vectors are the same to rounding.

        Raises UserError when the directory is missing, holds no model or no tokenizer, or asks for an unknown module.
        """
        place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        dtype = compute_dtype(config.dtype, place)
        chosen = choose(config.attention, place, dtype, to_train=to_train)
        folder = modeldir.find(config.model)
        layout = modeldir.read_layout(folder)
        tokenizer, transformer = modeldir.load_parts(
            folder,
            layout["transformer"],
            config.layers,
            attention=chosen,
            trust_remote_code=config.trust_remote_code,
        )
        transformer = transformer.to(device=place, dtype=dtype).eval()
        limit = modeldir.longest(config.max_length, layout, tokenizer, transformer)
        prompts = {**layout["prompts"], **(config.prompts or {})}
        encoder = cls(
            transformer,
            tokenizer,
            pooling=layout["pooling"],
            normalize=layout["normalize"],
            include_prompt=layout["include_prompt"],
            prompts={role: prompts.get(role) or "" for role in ("query", "document")},
            max_length=limit,
            token_budget=config.token_budget,
            identity=modeldir.identity(folder, layout, prompts, layers=config.layers, max_length=limit)
            | {"dtype": str(dtype).removeprefix("torch.")},
        )
        encoder.packed = pack(config.attention, transformer, place, to_train=to_train)
        return encoder

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
        ids = self.tokenizer(given, truncation=True, max_length=self.max_length, padding=False)["input_ids"]
        return [list(row) for row in ids]

    def prompt_length(self, role: Role) -> int:
        """Leading tokens that pooling leaves out: 0 unless the model excludes its prompt."""
        prompt = self.prompts.get(role, "")
        if self.include_prompt or not prompt:
            return 0
        ids = self.tokenizer([prompt])["input_ids"][0]
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
        pooled = pool(states, mask if skip is None else _without_prompt(mask, skip), self.pooling)
        return nn.functional.normalize(pooled, dim=-1) if self.normalize else pooled

    def encode_tokens(self, tokens: Tokens, skip: Sequence[int] | None = None) -> Tensor:
        """Token ids of N texts into vectors [N, D] in input order, encoded in length-sorted chunks."""
        if not tokens:
            return torch.zeros(0, self.dim, device=self.device)
        order = self.cut([len(row) for row in tokens], self.token_budget)
        way = self._pack if self.packed else self._pad
        parts = [way([tokens[i] for i in chunk], self._skips(skip, chunk)) for chunk in order]
        back = torch.from_numpy(np.argsort(np.concatenate(order), kind="stable")).to(self.device)
        return torch.cat(parts).index_select(0, back)

    def cut(self, lengths: Sequence[int], budget: int) -> list[npt.NDArray[np.int64]]:
        """Cut texts of these lengths into chunks of `budget` tokens, padding included where this encoder pads."""
        return chunks.by_sum(lengths, budget) if self.packed else chunks.by_tokens(lengths, budget)

    def padding_share(self, lengths: Sequence[int]) -> float:
        """Share of the positions of all layers that hold no token, for texts of these lengths."""
        return 0.0 if self.packed else chunks.padding_share(lengths, self.cut(lengths, self.token_budget))

    def _pad(self, rows: Tokens, skip: Tensor | None) -> Tensor:
        vectors: Tensor = self(*self._padded(rows), skip)
        return vectors

    def _pack(self, rows: Tokens, skip: Tensor | None) -> Tensor:
        """Encode texts of falling length laid end to end."""
        packed = packing.Packing.of([len(row) for row in rows], self.device)
        ids = torch.tensor([token for row in rows for token in row], device=self.device)
        extra = {"token_type_ids": torch.zeros_like(ids)[None]} if self._takes_types else {}
        pooled = packing.pool(packing.states(self.transformer, ids, packed, **extra), packed, self.pooling, skip)
        return nn.functional.normalize(pooled, dim=-1) if self.normalize else pooled

    def _skips(self, skip: Sequence[int] | None, chunk: npt.NDArray[np.int64]) -> Tensor | None:
        if skip is None or not any(skip):
            return None
        return torch.tensor([skip[i] for i in chunk], device=self.device)

    def _padded(self, rows: Tokens) -> tuple[Tensor, Tensor | None]:
        """Right-pad token rows into ids [B, L] and mask [B, L]; the mask is None when nothing was padded."""
        lengths = np.asarray([len(row) for row in rows])
        ids = np.full((len(rows), int(lengths.max())), self.tokenizer.pad_token_id or 0, dtype=np.int64)
        for place, row in zip(ids, rows, strict=True):
            place[: len(row)] = row
        mask = None
        if lengths.min() < lengths.max():
            mask = torch.from_numpy((np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)).to(self.device)
        return torch.from_numpy(ids).to(self.device), mask

    def encode(self, texts: Sequence[str], role: Role) -> npt.NDArray[np.float32]:
        """Texts into vectors [N, D] float32 in input order, without gradient and without dropout."""
        was_training = self.training
        self.eval()
        with torch.inference_mode():
            vectors = self.encode_tokens(self.tokenize(texts, role), [self.prompt_length(role)] * len(texts))
        self.train(was_training)
        return np.ascontiguousarray(vectors.float().cpu().numpy())

    def save(self, path: str | Path, card: str | None = None, beside: Mapping[str, bytes] | None = None) -> None:
        """Write a directory that `SentenceTransformer(path)` loads unchanged: float32 safetensors, and a model card.

        `beside` are further files below it.

        A remote path gets the files once they are all written; a local one by renaming a finished directory.
        """
        if "://" in str(path):
            with tempfile.TemporaryDirectory() as folder:
                self._write(Path(folder), card, beside or {})
                store_folder(folder, str(path))
            return
        target = Path(path)
        partial = target.with_name(target.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        self._write(partial, card, beside or {})
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)

    def _write(self, folder: Path, card: str | None, beside: Mapping[str, bytes]) -> None:
        dtype = next(self.transformer.parameters()).dtype
        self.transformer.float().save_pretrained(folder, safe_serialization=True)
        self.transformer.to(dtype)
        self.tokenizer.save_pretrained(folder)
        layout = modeldir.layout_files(
            self.dim,
            self.max_length,
            self.pooling,
            self.prompts,
            normalize=self.normalize,
            include_prompt=self.include_prompt,
        )
        for name, content in layout.items():
            file = folder / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        if card:
            (folder / "README.md").write_text(card, encoding="utf-8")
        for name, held in beside.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(held)


def pool(states: Tensor, mask: Tensor, mode: str) -> Tensor:
    """Token states [B, L, H] over the mask [B, L] into [B, H], float32 at least; `mode` is mean, cls or max."""
    if mode == "cls":
        first = mask.argmax(dim=1)
        return packing.wide(states[torch.arange(len(states), device=states.device), first])
    weight = mask.unsqueeze(-1)
    if mode == "max":
        return packing.wide(states).masked_fill(weight == 0, float("-inf")).amax(dim=1)
    summed = (packing.wide(states) * weight).sum(dim=1)
    return summed / weight.sum(dim=1).clamp(min=1)


def _without_prompt(mask: Tensor, skip: Tensor) -> Tensor:
    return mask * (torch.arange(mask.shape[1], device=mask.device) >= skip[:, None])


def compute_dtype(name: Dtype, device: str) -> torch.dtype:
    """Resolve a precision; auto is bfloat16 where the hardware multiplies it natively, else float32."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32
