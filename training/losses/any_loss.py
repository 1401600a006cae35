"""Any loss that a recipe may name, alone, as a sum, under Matryoshka or by source, and whether it fits the rows."""

from collections.abc import Sequence
from typing import Annotated, Any

from pipeline.core.errors import UserError
from training.losses.by_source import BySource
from training.losses.loss import Loss
from training.losses.matryoshka import Matryoshka
from training.losses.registry import LOSSES, SingleLoss
from training.losses.teacher_vectors import FIX
from training.losses.weighted_sum import WeightedSum

AnyLoss = Annotated[SingleLoss | WeightedSum | Matryoshka | BySource, LOSSES]


def check_rows(loss: Loss, kinds: Sequence[str], *, guided: bool = False) -> None:
    """Raise UserError where a loss does not fit the kinds of rows, or where a guide is missing or not used.

    A loss that takes each row for a right pair cannot train on labelled rows, which hold wrong ones too. Losses by
    source are asked one by one in `by_source.check_sources`.
    """
    if "labelled" in kinds and loss.assumes_positives():
        raise UserError(
            f"loss {loss.type}: takes every row for a right pair, and rows: [labelled] hold wrong ones "
            "too; choose contrastive, online_contrastive, cosent, angle or cosine, or other rows"
        )
    if loss.needs_teacher():
        if not guided:
            raise UserError(f"loss {loss.type}: needs vectors of a teacher; {FIX}")
        return
    if not guided and _is_set(loss.model_dump(), "guide_margin"):
        raise UserError(
            "loss mask.guide_margin: needs vectors of a guide; give guide: {queries: ..., documents: ...}, two "
            "artifacts of `tripletail embed` with the guide as encoder.model"
        )
    if guided and not _is_set(loss.model_dump(), "guide_margin"):
        raise UserError(
            "guide: no loss uses it; set loss.mask.guide_margin (0.0 is a start), take a loss that distils embeddings "
            "(embedding_mse, relative_distillation), or leave guide out"
        )


def _is_set(settings: Any, name: str) -> bool:
    """Whether a setting of this name has a value, at any depth."""
    if isinstance(settings, dict):
        return settings.get(name) is not None or any(_is_set(value, name) for value in settings.values())
    return isinstance(settings, list) and any(_is_set(value, name) for value in settings)
