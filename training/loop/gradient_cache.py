"""Forward and backward pass of the encoder in a training step: plain, or with a gradient cache (GradCache).

The cache makes a batch cost the memory of one chunk of it, for any loss: (a) encode all texts in chunks without
gradient, remembering the random state of each; (b) run the loss and its backward down to the embeddings; (c) encode the
chunks again under their random states and send the cached gradients on through each. The gradient is that of the plain
step, dropout included. The graph of the last chunk of (a) is kept, so a batch of one chunk costs no second encoding.
Source: Gao et al. 2021 (arXiv 2101.06983).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipeline.encoder.token_batches import padded_batches
from pipeline.encoder.tokenizer import Tokens
from training.loop.gradient_sync import gradient_sync

Encode = Callable[[Tokens, list[int]], Tensor]
SplitBatches = Callable[[list[int], int], list[npt.NDArray[np.int64]]]
SeededTexts = tuple[int, npt.NDArray[np.int64]]  # a seed, and the indices of the texts that are encoded under it


class PlainPass:
    """Encode all texts with their graph: backward of the loss continues through the encoder.

    `encode` turns token ids and numbers of leading tokens to skip of R texts into [R, D]; `scalars` are the learnable
    scalars of the loss.
    """

    def __init__(self, encode: Encode, scalars: Mapping[str, nn.Parameter]) -> None:
        self.encode = encode
        self.scalars: dict[str, Tensor] = dict(scalars)

    def __call__(self, tokens: Tokens, skip: list[int], pieces: list[SeededTexts] | None = None) -> Tensor:
        """Encode the R texts of a step into [R, D], in float32 at least."""
        if not pieces:
            return _at_least_float32(self.encode(tokens, skip))
        parts = []
        for seed, rows in pieces:
            torch.manual_seed(seed)
            parts.append(_at_least_float32(self.encode([tokens[i] for i in rows], [skip[i] for i in rows])))
        inverse = np.argsort(np.concatenate([rows for _, rows in pieces]), kind="stable")
        return torch.cat(parts).index_select(0, torch.from_numpy(inverse).to(parts[0].device))

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss over the vectors and `scalars` to the parameters."""
        loss.backward()  # type: ignore[no-untyped-call]


class GradientCache:
    """Encode in chunks of `budget` tokens whose graphs live one at a time; call once a step, then `backward`.

    `encode` must go through `model`. Over ranks the gradients are reduced once a step, with those of `scalars` among
    them, whatever the number of chunks of a rank; a rank without rows takes part too, since `encode` gives its vectors
    [0, D] a graph. With `keep_graphs` the graphs of all chunks live, and none is encoded twice: a plain step in passes
    of `budget` tokens.
    """

    def __init__(
        self,
        encode: Encode,
        model: nn.Module,
        scalars: Mapping[str, nn.Parameter],
        budget: int,
        cut: SplitBatches = padded_batches,
        *,
        keep_graphs: bool = False,
    ) -> None:
        self.encode, self.model, self.parameters, self.budget, self.cut = encode, model, dict(scalars), budget, cut
        self.sync, self.keep_graphs = gradient_sync(model), keep_graphs
        self.scalars: dict[str, Tensor] = {}
        self.chunks: list[_Chunk] = []
        self.vectors = torch.zeros(0)

    def __call__(self, tokens: Tokens, skip: list[int], pieces: list[SeededTexts] | None = None) -> Tensor:
        """Encode the R texts of a step into a leaf [R, D]; the loss must use `scalars` as they are now."""
        self.scalars = {name: value.detach().requires_grad_() for name, value in self.parameters.items()}
        order, seeds = self._cut([len(row) for row in tokens], pieces)
        device = next(self.model.parameters()).device
        self.chunks, parts = [], []
        for number, (rows, seed) in enumerate(zip(order, seeds, strict=True)):
            with_graph = self.keep_graphs or number == len(order) - 1
            if seed is not None:
                torch.manual_seed(seed)
            chunk = _Chunk([tokens[i] for i in rows], [skip[i] for i in rows], rows, _RandomState.capture(device))
            with torch.set_grad_enabled(with_graph), self.sync.reduce(number == 0):
                vectors = self.encode(chunk.tokens, chunk.skip)
            chunk.vectors = vectors if with_graph else None
            parts.append(vectors.detach())
            self.chunks.append(chunk)
        inverse = torch.from_numpy(np.argsort(np.concatenate(order), kind="stable")).to(device)
        self.vectors = _at_least_float32(torch.cat(parts).index_select(0, inverse)).requires_grad_()
        return self.vectors

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss over the vectors and `scalars` to the parameters, chunk by chunk."""
        loss.backward()  # type: ignore[no-untyped-call]
        grad = torch.zeros_like(self.vectors) if self.vectors.grad is None else self.vectors.grad
        before = _RandomState.capture(grad.device)
        for number in reversed(range(len(self.chunks))):
            chunk = self.chunks.pop()
            with self.sync.reduce(number == 0):
                surrogate = (_at_least_float32(chunk.encode_again(self.encode)) * grad[chunk.rows]).sum()
                if number == 0:
                    surrogate = surrogate + self._scalars()
                surrogate.backward()  # type: ignore[no-untyped-call]
        self.sync.finish(self.parameters)
        before.restore()

    def _cut(
        self, lengths: list[int], pieces: list[SeededTexts] | None
    ) -> tuple[list[npt.NDArray[np.int64]], list[int | None]]:
        """Chunks of texts, none of two pieces, and the seed under which each first chunk of a piece begins.

        As many on every rank where ranks must pass alike; those without texts come first.
        """
        order: list[npt.NDArray[np.int64]] = []
        seeds: list[int | None] = []
        groups: list[tuple[int | None, npt.NDArray[np.int64]]] = [(None, np.arange(len(lengths)))]
        for seed, rows in pieces or groups:
            chunks = [rows[chunk] for chunk in self.cut([lengths[i] for i in rows], self.budget)]
            order += chunks
            seeds += [seed if number == 0 else None for number in range(len(chunks))]
        passes = self.sync.equal_passes(order or [np.zeros(0, dtype=np.int64)])
        return passes, [None] * (len(passes) - len(seeds)) + seeds

    def _scalars(self) -> Tensor | float:
        """Sum whose gradients are those of the learnable scalars under the loss, so that DDP reduces them too."""
        grads = {
            name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in self.scalars.items()
        }
        return sum(self.parameters[name] * grad for name, grad in grads.items())


@dataclass
class _Chunk:
    """Some texts of a step, their rows in the batch, and the random state under which they were encoded."""

    tokens: Tokens
    skip: list[int]
    rows: npt.NDArray[np.int64]
    random: "_RandomState"
    vectors: Tensor | None = None

    def encode_again(self, encode: Encode) -> Tensor:
        """Encode with gradient what was encoded without, under the same random state."""
        if self.vectors is not None:
            return self.vectors
        self.random.restore()
        return encode(self.tokens, self.skip)


@dataclass(frozen=True)
class _RandomState:
    """State of the random number generators of the CPU and, where the model is on a GPU, of that GPU."""

    cpu: Tensor
    gpu: Tensor | None
    device: torch.device

    @classmethod
    def capture(cls, device: torch.device) -> "_RandomState":
        gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(torch.get_rng_state(), gpu, device)

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.gpu is not None:
            torch.cuda.set_rng_state(self.gpu, self.device)


def _at_least_float32(vectors: Tensor) -> Tensor:
    """Convert half precision to float32: sums of thousands of products need it."""
    return vectors.float() if vectors.dtype in (torch.bfloat16, torch.float16) else vectors
