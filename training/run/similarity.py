"""Losses compare as the model does: a model made for inner products is trained on inner products.

What a recipe sets stays. What it leaves open, the similarity of a loss and its temperature, is settled here once,
before anything is written, so that the settings of a run say how its loss compared.
"""

from pipeline.core.progress import say
from pipeline.encoder.encoder import Encoder
from training.losses.loss import Loss, single_losses
from training.run.config import TrainConfig


def follow_similarity(config: TrainConfig, base: Encoder) -> TrainConfig:
    """Settings whose losses compare as the model does where the recipe leaves it open; says what changed."""
    loss = config.loss.follow(base.similarity, unit_length=base.normalize)
    changed = [
        describe(new)
        for old, new in zip(single_losses(config.loss), single_losses(loss), strict=True)
        if new.compares_by() != old.compares_by()
    ]
    if not changed:
        return config
    say(
        f"train: loss {', '.join(dict.fromkeys(changed))}, as the model is compared; a recipe may set similarity "
        "and temperature of a loss"
    )
    return config.model_copy(update={"loss": loss})


def describe(loss: Loss) -> str:
    """Say by what a loss compares, and what divides it."""
    temperature = getattr(loss, "temperature", None)
    divided = "" if temperature is None else f" with temperature {temperature:g}"
    return f"{loss.type} compares by {loss.compares_by()}{divided}"
