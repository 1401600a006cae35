"""What a recipe may call a loss."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from pipeline.errors import UserError
from training.losses.basic import Basic
from training.losses.matryoshka import Matryoshka
from training.losses.objective import Objective
from training.losses.weighted import WeightedSum

Loss = Annotated[Basic | WeightedSum | Matryoshka, Field(discriminator="type")]


def check(loss: Objective, kinds: Sequence[str]) -> None:
    """Refuse a loss that takes each row's document for right where rows are labelled, right and wrong ones alike."""
    if "labelled" in kinds and loss.trusts():
        raise UserError(
            f"loss {getattr(loss, 'type', '')}: takes every row for a right pair, and rows: [labelled] hold wrong ones "
            "too; choose contrastive, online_contrastive, cosent, angle or cosine, or other rows"
        )
