"""The inputs that a transformer takes beside token ids and mask, the same for all texts."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def takes_token_types(transformer: Any, tokenizer: Any) -> bool:
    """Whether a transformer has token types as an input by name, and its tokenizer makes them."""
    named = "token_type_ids" in getattr(tokenizer, "model_input_names", [])
    return named and "token_type_ids" in inspect.signature(transformer.forward).parameters


def fixed_inputs(transformer: Any, tokenizer: Any) -> Callable[[Tensor], dict[str, Tensor]]:
    """Make a function of token ids that gives the further inputs; token types are zero, as a text is one segment."""
    types = takes_token_types(transformer, tokenizer)

    def inputs(ids: Tensor) -> dict[str, Tensor]:
        return {"token_type_ids": torch.zeros_like(ids)} if types else {}

    return inputs
