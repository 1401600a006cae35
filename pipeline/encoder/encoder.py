"""The one place where text becomes a vector: tokens, transformer, pooling, and the modules that follow it.

Prompts, length, pooling and all further modules come from the model directory (Sentence-Transformers layout, or any
plain Hugging Face encoder), so that training, mining, embedding and evaluation cannot disagree.

    encoder = Encoder.load(EncoderConfig(model="path/to/model"))
    vectors = encoder.encode(["wireless headphones"], "query")  # [1, D] float32
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipeline.encoder import packing, pooling, token_batches
from pipeline.encoder.attention import Attention, use_packed_attention
from pipeline.encoder.backends import backend, probe
from pipeline.encoder.backends.backend import Backend
from pipeline.encoder.backends.runtime import Batch, Runtime
from pipeline.encoder.config import EncoderConfig, Role
from pipeline.encoder.layout import Layout, default_layout
from pipeline.encoder.modules.normalize import Normalize
from pipeline.encoder.modules.vector_module import VectorModule
from pipeline.encoder.pooling import Modes, PackedStates, PaddedStates, TokenStates, mode_names, pool, require_modes
from pipeline.encoder.save import write_model, write_modules
from pipeline.encoder.static_encoder import StaticTable
from pipeline.encoder.tokenizer import FastTokenizer, Ints, Range, Tokens, token_count
from pipeline.encoder.transformer_inputs import fixed_inputs

__all__ = ["Encoder", "EncoderConfig", "Role"]

_RUNTIME_MIN_TOKENS = 512  # padded tokens below which a runtime's batch is not cut for its padding
_TORCH_MIN_TOKENS = 1024  # the same for a pass of torch, which has more to do before it computes
Encode = Callable[[Tokens, Sequence[int] | None], Tensor]


class Encoder(nn.Module):
    """A bi-encoder: texts of a role into vectors [N, D]."""

    def __init__(
        self,
        transformer: Any,
        tokenizer: Any,
        *,
        pooling: Modes,
        include_prompt: bool,
        prompts: dict[str, str],
        max_lengths: dict[str, int],
        token_budget: int,
        identity: dict[str, str],
        layout: Layout | None = None,
        head: Sequence[VectorModule] = (),
        path: str = "",
        similarity: str = "cosine",
        backend: Backend = "auto",
        attention: Attention = "auto",
        packed: bool = False,
        runtime_requested: bool = False,
    ) -> None:
        """Put a transformer, its tokenizer and the modules after pooling together; `load` does it for a directory.

        `max_lengths` are tokens by role; `identity` is all that decides a vector, by name; `layout` is what the
        directory says of `head` and the rest, and is saved again; without one, vectors are scaled to length 1.
        `runtime_requested` means that the settings name a runtime, which is then used from the first text on. Raises
        UserError for an unknown pooling mode, and for modules whose widths do not fit.
        """
        super().__init__()
        require_modes(pooling)
        if layout is None:
            layout = default_layout("StaticEmbedding" if isinstance(transformer, StaticTable) else "Transformer")
            head = [Normalize()]
        self.transformer, self.tokenizer, self.head = transformer, tokenizer, nn.ModuleList(head)
        self.pooling, self.include_prompt, self.layout = pooling, include_prompt, layout
        self.prompts, self.max_lengths, self.token_budget = prompts, max_lengths, token_budget
        self.identity, self.packed, self.path, self.similarity = identity, packed, path, similarity
        self.backend, self.attention, self.runtime_requested = backend, attention, runtime_requested
        self.runtime: Runtime | None = None
        self._fixed_inputs = fixed_inputs(transformer, tokenizer)
        pooler = getattr(transformer, "pooler", None)
        if isinstance(pooler, nn.Module):
            pooler.requires_grad_(False)
        self.dim  # noqa: B018  refuses modules that do not fit each other

    @classmethod
    def load(
        cls, config: EncoderConfig, device: str = "auto", *, to_train: bool = False, weights: str | None = None
    ) -> "Encoder":
        """Load a model for `device` (auto: CUDA when there is one).

        `to_train` chooses what has the fastest backward: on a CPU packed texts where the architecture allows, else
        plain attention, whose backward in bfloat16 beats the fused one's. Vectors are the same to rounding. `weights`
        says where those of a transformer lie until they are placed, if not on the device. Raises UserError when the
        directory is missing, holds no model or no tokenizer, or asks for what is not supported.
        """
        from pipeline.encoder.load import load_encoder

        return load_encoder(config, device, to_train=to_train, weights=weights)

    def use_runtime(self, threads: int) -> "Encoder":
        """Compute `encode` by the fastest runtime from here on, if it agrees with torch; the weights may not change.

        Returns itself. Raises UserError where the settings name a runtime that cannot be had.
        """
        dtype = self.identity["dtype"]
        name = backend.resolve_backend(self.backend, self.device.type, self.transformer.config.model_type, dtype)
        self.runtime = None if name == "torch" else self._trusted_runtime(name, dtype, threads)
        if self.runtime is None and self.transformers:
            self.pack_for_training(self.device.type, self.transformer.dtype)
        return self

    def _trusted_runtime(self, name: str, dtype: str, threads: int) -> Runtime | None:
        """Build a runtime, and compare it with torch on the shortest beside the longest text."""
        length, compute = probe.probe_length(self.transformer.config, self.max_length), self.transformer.dtype
        tokens = [self._fast_tokenizer([text])[0] for text in ("x", "a longer text, " * length)]
        tokens = [row[:length] for row in tokens if row]

        def by_torch() -> npt.NDArray[np.float32]:
            with torch.inference_mode():
                return self._encode_padded(tokens, None).float().cpu().numpy()

        def by_runtime(runtime: Runtime) -> npt.NDArray[np.float32]:
            found: list[npt.NDArray[np.float32]] = []
            batch = self._pad(tokens)
            runtime([batch], lambda _, states: found.append(self.pool_states(states, batch[1])))
            return found[0]

        def build() -> Runtime | None:
            return backend.build_runtime(name, self.path, self.transformer, self.tokenizer, dtype, threads)

        trusted = probe.trusted(name, dtype, build, by_torch, by_runtime)
        if trusted is None:
            self.transformer.to(compute)
        return trusted

    def pack_for_training(self, device: str, dtype: torch.dtype) -> None:
        """Take packed texts from here on where that trains faster on a kind of device, in a precision."""
        if self.attention == "auto":
            self.packed = use_packed_attention("auto", self.transformer, device, dtype, to_train=True)

    @property
    def transformers(self) -> list[Any]:
        """The transformers that it is made of; none for a static encoder."""
        return [] if isinstance(self.transformer, StaticTable) else [self.transformer]

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        width, cut = self._pooled_dim, self.layout.settings.truncate_dim
        for module in self.vector_modules:
            width = module.width(width)
        return min(width, cut or width)

    @property
    def vector_modules(self) -> list[VectorModule]:
        """The modules after pooling, in order."""
        return [module for module in self.head if isinstance(module, VectorModule)]

    @property
    def _pooled_dim(self) -> int:
        return int(self.transformer.config.hidden_size) * len(mode_names(self.pooling))

    @property
    def normalize(self) -> bool:
        """Whether vectors come out scaled to length 1."""
        return self.layout.normalize and not self.layout.settings.truncate_dim

    @property
    def device(self) -> torch.device:
        """The device that holds the weights."""
        device: torch.device = next(self.transformer.parameters()).device
        return device

    def tokenize(self, texts: Sequence[str], role: Role) -> Tokens:
        """Prompt and texts into token ids, special tokens included, cut to the role's length; no padding."""
        if not texts:
            return []
        prompt = self.prompts.get(role, "")
        return self._tokenizers[role]([prompt + text for text in texts] if prompt else list(texts))

    def whole_lengths(self, texts: Sequence[str], role: Role) -> list[int]:
        """Tokens of each text, prompt and special tokens included, as if nothing were cut."""
        prompt = self.prompts.get(role, "")
        return self._fast_tokenizer.whole_lengths([prompt + text for text in texts])

    def token_ends(self, texts: Sequence[str]) -> list[Ints]:
        """Characters [T] at which the tokens of each document end, none special or of a prompt; nothing is cut."""
        return self._fast_tokenizer.token_ends(list(texts))

    def document_tokens(self, texts: Sequence[str]) -> list[tuple[list[int], Ints]]:
        """Token ids of documents, prompt and special tokens included, and the characters of the texts where they end.

        Nothing is cut. Tokens in front of a text end at 0 or before, those behind it where it ends.
        """
        prompt = self.prompts.get("document", "")
        rows = self._fast_tokenizer.with_ends([prompt + text for text in texts])
        return [(tokens, ends - len(prompt)) for tokens, ends in rows]

    @property
    def pools_tokens(self) -> bool:
        """Whether a vector is the mean of token states, of which `encode_ranges` takes some."""
        fast = not isinstance(self.transformer, StaticTable) and self._fast_tokenizer.fast is not None
        return fast and mode_names(self.pooling) == ("mean",)

    def encode_ranges(self, tokens: Tokens, ranges: Sequence[Sequence[Range]]) -> npt.NDArray[np.float32]:
        """Vectors [P, D] of ranges of tokens, each the mean of their states in the whole row, in order of rows."""
        vectors: list[Tensor] = [torch.empty(0)] * len(tokens)
        with torch.inference_mode():
            for batch in token_batches.padded_batches([len(row) for row in tokens], self.token_budget):
                ids, mask = (torch.from_numpy(part).to(self.device) for part in self._pad([tokens[i] for i in batch]))
                output = self.transformer(input_ids=ids, attention_mask=mask, **self._fixed_inputs(ids))
                for states_of_row, row in zip(output.last_hidden_state.float(), batch.tolist(), strict=True):
                    vectors[row] = self._finish(pooling.range_means(states_of_row, ranges[row]))
        return np.ascontiguousarray(torch.cat([torch.empty(0, self.dim), *(part.cpu() for part in vectors)]).numpy())

    def role_max_length(self, role: Role) -> int:
        """Tokens that texts of a role are cut to."""
        return self.max_lengths[role]

    @property
    def max_length(self) -> int:
        """Tokens that the longest text of any role is cut to."""
        return max(self.max_lengths.values())

    def decode(self, rows: Tokens) -> list[str]:
        """Token ids into texts, prompt and special tokens included."""
        return list(self.tokenizer.batch_decode(rows))

    @cached_property
    def _tokenizers(self) -> dict[str, FastTokenizer]:
        """Tokenizers by role; roles of one length share one."""
        count, lengths = token_count(self.transformer), set(self.max_lengths.values())
        by_length = {length: FastTokenizer(self.tokenizer, length, count) for length in lengths}
        return {role: by_length[length] for role, length in self.max_lengths.items()}

    @property
    def _fast_tokenizer(self) -> FastTokenizer:
        """The tokenizer of documents, for what no role decides."""
        return self._tokenizers["document"]

    def prompt_length(self, role: Role) -> int:
        """Leading tokens that pooling leaves out: 0 unless the model excludes its prompt."""
        prompt = self.prompts.get(role, "")
        if self.include_prompt or not prompt:
            return 0
        ids = self._fast_tokenizer([prompt])[0]
        return len(ids) - (1 if ids and ids[-1] in self.tokenizer.all_special_ids else 0)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None, skip: Tensor | None = None) -> Tensor:
        """Token ids [B, L] over mask [B, L] into vectors [B, D], pooled and normalised in float32.

        Without padding the mask is None, which lets attention take its fastest way. `skip` [B] counts leading
        tokens that pooling leaves out.
        """
        inputs = self._fixed_inputs(input_ids)
        states = self.transformer(input_ids=input_ids, attention_mask=attention_mask, **inputs).last_hidden_state
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return self._pool(PaddedStates(states, mask, skip))

    def _pool(self, tokens: TokenStates) -> Tensor:
        return self._finish(pool(tokens, self.pooling))

    def _finish(self, vectors: Tensor) -> Tensor:
        """Pooled vectors [B, P] through the modules that follow, in float32, and cut to the width that is kept."""
        with torch.autocast(vectors.device.type, enabled=False):
            for module in self.vector_modules:
                vectors = module(vectors)
        cut = self.layout.settings.truncate_dim
        return vectors[:, :cut] if cut else vectors

    def encode_tokens(self, tokens: Tokens, skip: Sequence[int] | None = None) -> Tensor:
        """Token ids of N texts into vectors [N, D] in input order, encoded in length-sorted batches, with gradient."""
        if not tokens:
            return torch.zeros(0, self.dim, device=self.device)
        if isinstance(self.transformer, StaticTable):
            return self._finish(self.transformer(tokens, skip))
        return self._except_empty(tokens, skip, self._encode_batches)

    def _except_empty(self, tokens: Tokens, skip: Sequence[int] | None, encode: Encode) -> Tensor:
        """Encode texts by a function that takes none without a token; what is pooled of such a text is zero."""
        rows = [index for index, row in enumerate(tokens) if row]
        if len(rows) == len(tokens):
            return encode(tokens, skip)
        nothing = self._finish(torch.zeros(1, self._pooled_dim, device=self.device)).expand(len(tokens), -1)
        if not rows:
            return nothing
        vectors = encode([tokens[row] for row in rows], None if skip is None else [skip[row] for row in rows])
        return nothing.to(vectors).index_copy(0, torch.tensor(rows, device=vectors.device), vectors)

    def _encode_batches(self, tokens: Tokens, skip: Sequence[int] | None) -> Tensor:
        batches = self.split_batches([len(row) for row in tokens], self.token_budget)
        parts = [
            self._encode_once([tokens[i] for i in batch], None if skip is None else [skip[i] for i in batch])
            for batch in batches
        ]
        inverse = torch.from_numpy(np.argsort(np.concatenate(batches), kind="stable")).to(self.device)
        return torch.cat(parts).index_select(0, inverse)

    def encode_batch(self, tokens: Tokens, skip: Sequence[int] | None = None) -> Tensor:
        """Token ids of N texts into vectors [N, D] in one pass of the transformer, however many tokens they are.

        No text may be longer than the one before it, and one at least must have a token.
        """
        return self._except_empty(tokens, skip, self._encode_once)

    def _encode_once(self, rows: Tokens, skip: Sequence[int] | None) -> Tensor:
        skipped = torch.tensor(skip, device=self.device) if skip is not None and any(skip) else None
        return self._encode_packed(rows, skipped) if self.packed else self._encode_padded(rows, skipped)

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
        if (self.packed and not self.runtime) or isinstance(self.transformer, StaticTable):
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
        states = packing.packed_forward(self.transformer, ids, layout, **self._fixed_inputs(ids[None]))
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
            vectors = self._except_empty(tokens, skip, self._encode_by_runtime) if self.runtime else None
            vectors = self.encode_tokens(tokens, skip) if vectors is None else vectors
        self.train(was_training)
        return np.ascontiguousarray(vectors.float().cpu().numpy())

    def _encode_by_runtime(self, tokens: Tokens, skip: Sequence[int] | None) -> Tensor:
        """Have the runtime compute token states [B, L, H] and pool them here: token ids of N texts into [N, D]."""
        assert self.runtime is not None
        vectors = np.empty((len(tokens), self.dim), np.float32)
        batches = self.split_batches([len(row) for row in tokens], self.token_budget)
        inputs = [self._pad([tokens[i] for i in batch]) for batch in batches]

        def on_states(index: int, states: npt.NDArray[Any]) -> None:
            vectors[batches[index]] = self.pool_states(states, inputs[index][1], self._skip_of(skip, batches[index]))

        self.runtime(inputs, on_states)
        return torch.from_numpy(vectors)

    def pool_states(
        self, states: npt.NDArray[Any], mask: npt.NDArray[np.int64], skip: Tensor | None = None
    ) -> npt.NDArray[np.float32]:
        """Token states [B, L, H] that a runtime computed, over their mask [B, L], into vectors [B, D]."""
        vectors: npt.NDArray[np.float32] = (
            self._pool(PaddedStates(torch.from_numpy(states), torch.from_numpy(mask), skip)).detach().numpy()
        )
        return vectors

    def save(self, path: str | Path, card: str | None = None, extra_files: Mapping[str, bytes] | None = None) -> None:
        """Write a directory that `SentenceTransformer(path)` loads, with a model card and `extra_files` by name."""
        write_model(str(path), self, card, extra_files or {})

    def write_modules(self, folder: Path) -> None:
        """Write the modules and the settings of the whole into a folder."""
        write_modules(folder, self)
