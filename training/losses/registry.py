"""What a recipe may call a loss."""

from collections.abc import Sequence
from typing import Annotated, Any

from pipeline.core.errors import UserError
from pipeline.core.plugins import Registry
from training.losses.matryoshka import Matryoshka
from training.losses.objective import Objective
from training.losses.single import Basic
from training.losses.weighted_sum import WeightedSum

Loss = Annotated[Basic | WeightedSum | Matryoshka, Registry("loss", Objective)]


def check(loss: Objective, kinds: Sequence[str], *, guided: bool = False) -> None:
    """Refuse labelled rows for a loss that takes each row for a right pair, and a mask by a guide without a guide."""
    if "labelled" in kinds and loss.trusts():
        raise UserError(
            f"loss {getattr(loss, 'type', '')}: takes every row for a right pair, and rows: [labelled] hold wrong ones "
            "too; choose contrastive, online_contrastive, cosent, angle or cosine, or other rows"
        )
    if not guided and _sets(loss.model_dump(), "guide_margin"):
        raise UserError(
            "loss mask.guide_margin: needs vectors of a guide; give guide: {queries: ..., documents: ...}, two "
            "artifacts of `tripletail embed` with the guide as encoder.model"
        )
    if guided and not _sets(loss.model_dump(), "guide_margin"):
        raise UserError("guide: no loss uses it; set loss.mask.guide_margin (0.0 is a start) or leave guide out")


def _sets(settings: Any, name: str) -> bool:
    """Whether settings hold a value under a name at any depth."""
    if isinstance(settings, dict):
        return settings.get(name) is not None or any(_sets(one, name) for one in settings.values())
    return isinstance(settings, list) and any(_sets(one, name) for one in settings)
