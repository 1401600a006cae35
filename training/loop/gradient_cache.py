"""Ways through the encoder in one training step: plain, or with a gradient cache.

The cache makes a batch cost the memory of one chunk of it, for any loss: (a) encode all texts in chunks without
gradient, remembering the random state of each; (b) run the loss and its backward down to the embeddings; (c) encode the
chunks again under their random states and send the cached gradients on through each. The gradient is that of the plain
step, dropout included. The graph of the last chunk of (a) is kept, so a batch of one chunk costs no second encoding.
Source: Gao et al. 2021 (arXiv 2101.06983).
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.encoder.token_batches import padded_batches
from pipeline.encoder.tokenizer import Tokens

Encode = Callable[[Tokens, list[int]], Tensor]
Cut = Callable[[list[int], int], list[npt.NDArray[np.int64]]]
Piece = tuple[int, npt.NDArray[np.int64]]  # a seed, and the texts that are encoded under it, apart from all others


class Plain:
    """Encode everything with its graph: the loss's backward goes on through the encoder.

    `encode` takes token ids and leading tokens to skip of R texts into [R, D]; `learned` are the loss's scalars.
    """

    def __init__(self, encode: Encode, learned: Mapping[str, nn.Parameter]) -> None:
        self.encode = encode
        self.learned: dict[str, Tensor] = dict(learned)

    def __call__(self, tokens: Tokens, skip: list[int], pieces: list[Piece] | None = None) -> Tensor:
        """Encode the R texts of a step into [R, D] float32 at least."""
        if not pieces:
            return _wide(self.encode(tokens, skip))
        parts = []
        for seed, rows in pieces:
            torch.manual_seed(seed)
            parts.append(_wide(self.encode([tokens[i] for i in rows], [skip[i] for i in rows])))
        back = np.argsort(np.concatenate([rows for _, rows in pieces]), kind="stable")
        return torch.cat(parts).index_select(0, torch.from_numpy(back).to(parts[0].device))

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss over the vectors and `learned` to the parameters."""
        loss.backward()  # type: ignore[no-untyped-call]


class Cached:
    """Encode in chunks of `budget` tokens whose graphs live one at a time; call once a step, then `backward`.

    `encode` must go through `model`. Under DDP the gradients are reduced once a step, with those of `learned` among
    them, whatever the number of chunks of a rank; a rank without rows takes part too.
    """

    def __init__(
        self,
        encode: Encode,
        model: nn.Module,
        learned: Mapping[str, nn.Parameter],
        budget: int,
        cut: Cut = padded_batches,
    ) -> None:
        self.encode, self.model, self.parameters, self.budget, self.cut = encode, model, dict(learned), budget, cut
        self.learned: dict[str, Tensor] = {}
        self.chunks: list[_Chunk] = []
        self.vectors = torch.zeros(0)

    def __call__(self, tokens: Tokens, skip: list[int], pieces: list[Piece] | None = None) -> Tensor:
        """Encode the R texts of a step into a leaf [R, D]; the loss shall use `learned` as it is now."""
        self.learned = {name: value.detach().requires_grad_() for name, value in self.parameters.items()}
        order, seeds = self._cut([len(row) for row in tokens], pieces)
        device = next(self.model.parameters()).device
        self.chunks, parts = [], []
        for number, (rows, seed) in enumerate(zip(order, seeds, strict=True)):
            kept = number == len(order) - 1
            if seed is not None:
                torch.manual_seed(seed)
            chunk = _Chunk([tokens[i] for i in rows], [skip[i] for i in rows], rows, _Random.now(device))
            with torch.set_grad_enabled(kept), self._sync(number):
                vectors = self.encode(chunk.tokens, chunk.skip)
            chunk.vectors = vectors if kept else None
            parts.append(vectors.detach())
            self.chunks.append(chunk)
        back = torch.from_numpy(np.argsort(np.concatenate(order), kind="stable")).to(device)
        self.vectors = _wide(torch.cat(parts).index_select(0, back)).requires_grad_()
        return self.vectors

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss over the vectors and `learned` to the parameters, chunk by chunk."""
        loss.backward()  # type: ignore[no-untyped-call]
        grad = torch.zeros_like(self.vectors) if self.vectors.grad is None else self.vectors.grad
        before = _Random.now(grad.device)
        for number in reversed(range(len(self.chunks))):
            chunk = self.chunks.pop()
            with self._sync(number):
                surrogate = (_wide(chunk.again(self.encode)) * grad[chunk.rows]).sum()
                if number == 0:
                    surrogate = surrogate + self._scalars() + (0.0 if chunk.tokens else _nothing_of(self.model))
                surrogate.backward()  # type: ignore[no-untyped-call]
        before.restore()

    def _cut(
        self, lengths: list[int], pieces: list[Piece] | None
    ) -> tuple[list[npt.NDArray[np.int64]], list[int | None]]:
        """Chunks of texts, none of two pieces, and the seed under which each first chunk of a piece begins."""
        order: list[npt.NDArray[np.int64]] = []
        seeds: list[int | None] = []
        every: list[tuple[int | None, npt.NDArray[np.int64]]] = [(None, np.arange(len(lengths)))]
        for seed, rows in pieces or every:
            chunks = [rows[chunk] for chunk in self.cut([lengths[i] for i in rows], self.budget)]
            order += chunks
            seeds += [seed if number == 0 else None for number in range(len(chunks))]
        return order or [np.zeros(0, dtype=np.int64)], seeds or [None]

    def _scalars(self) -> Tensor | float:
        """A sum whose gradients are those that the loss gave its learned scalars, so that DDP reduces them too."""
        grads = {
            name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in self.learned.items()
        }
        return sum(self.parameters[name] * grad for name, grad in grads.items())

    def _sync(self, number: int) -> AbstractContextManager[None]:
        """Let DDP reduce in the backward of chunk 0 alone, which comes last."""
        if number > 0 and isinstance(self.model, DistributedDataParallel):
            return self.model.no_sync()
        return nullcontext()


@dataclass
class _Chunk:
    """Some of a step's texts: what they are, where they stand, and how to encode them once more."""

    tokens: Tokens
    skip: list[int]
    rows: npt.NDArray[np.int64]
    random: "_Random"
    vectors: Tensor | None = None

    def again(self, encode: Encode) -> Tensor:
        """Encode with gradient what was encoded without, under the same random numbers."""
        if self.vectors is not None:
            return self.vectors
        self.random.restore()
        return encode(self.tokens, self.skip)


@dataclass(frozen=True)
class _Random:
    """State of the random numbers of the CPU and, where the model is on a GPU, of that GPU."""

    cpu: Tensor
    gpu: Tensor | None
    device: torch.device

    @classmethod
    def now(cls, device: torch.device) -> "_Random":
        gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(torch.get_rng_state(), gpu, device)

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.gpu is not None:
            torch.cuda.set_rng_state(self.gpu, self.device)


def _wide(vectors: Tensor) -> Tensor:
    """Half precision as float32: sums of thousands of products need it."""
    return vectors.float() if vectors.dtype in (torch.bfloat16, torch.float16) else vectors


def _nothing_of(model: nn.Module) -> Tensor:
    """Zero, with a gradient of zeros for every trained parameter: the part of a rank without rows in the reduction."""
    return torch.stack([0.0 * value.sum() for value in model.parameters() if value.requires_grad]).sum()
