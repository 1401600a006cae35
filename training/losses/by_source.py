"""One loss a source: questions and answers by InfoNCE, graded pairs by CoSENT, in one run.

Each global batch holds rows of one source, and the loss of that source is computed on it, times its weight:
    loss(batch of source s) = weight_s * loss_s(batch)
A learnable scalar that the batch's loss does not have gets a gradient of zero, on every rank alike.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from pipeline.core.errors import UserError
from pipeline.core.plugins import nearest
from pipeline.text.normalize import stable_id
from training.losses.loss import Batch, Loss, LossShare, need
from training.losses.matryoshka import Matryoshka
from training.losses.registry import LOSSES, SingleLoss
from training.losses.weighted_sum import WeightedSum

SourceLoss = Annotated[SingleLoss | WeightedSum | Matryoshka, LOSSES]


class BySource(Loss):
    """A loss for each source of the rows, by its name; every batch must hold rows of one source alone."""

    type: Literal["by_source"] = "by_source"
    sources: dict[str, SourceLoss] = Field(
        min_length=1, description="the loss of each source: {faq: {type: infonce}, sts: {type: cosent}}"
    )
    others: SourceLoss | None = Field(None, description="loss of all sources that are not named; refused where None")
    weights: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {}, description="factor of a source's loss, 1 where not said; how often a source comes is `mix`"
    )

    @model_validator(mode="after")
    def _fits(self) -> "BySource":
        for name in self.weights:
            if name not in self.sources and self.others is None:
                raise ValueError(f"weights names {name!r}, which sources does not{nearest(name, self.sources)}")
        return self

    @cached_property
    def _numbered(self) -> list[tuple[str | None, Loss]]:
        """Losses in an order that does not follow the recipe's: by name, that of the other sources (None) last."""
        named: list[tuple[str | None, Loss]] = [(name, self.sources[name]) for name in sorted(self.sources)]
        return named if self.others is None else [*named, (None, self.others)]

    @cached_property
    def _by_id(self) -> dict[int, str]:
        return {stable_id(name): name for name in (*self.sources, *self.weights)}

    def parts(self) -> Sequence[Loss]:
        """Return the losses of all sources."""
        return [loss for _, loss in self._numbered]

    def learnable(self) -> dict[str, float]:
        """Return the scalars of all losses, as "0_log_scale", numbered in the order of their sources' names."""
        return {
            f"{number}_{name}": value
            for number, loss in enumerate(self.parts())
            for name, value in loss.learnable().items()
        }

    def follow(self, similarity: str, *, unit_length: bool) -> Self:
        """Return losses that each follow the model."""
        changes: dict[str, Any] = {
            "sources": {name: loss.follow(similarity, unit_length=unit_length) for name, loss in self.sources.items()},
            "others": self.others and self.others.follow(similarity, unit_length=unit_length),
        }
        return type(self)(**{**dict(self), **changes})

    def assumes_positives(self) -> bool:
        """Return False: not all rows get the same loss, so that `check_sources` asks each by itself."""
        return False

    def needs_sources(self) -> bool:
        """Return True: the source of a batch decides its loss."""
        return True

    def loss_of(self, source: str) -> Loss:
        """Return the loss of a source, or raise UserError where it has none."""
        loss = self.sources.get(source, self.others)
        if loss is None:
            raise UserError(
                f"loss by_source: rows of source '{source}' have no loss; add it to loss.sources (there are "
                f"{', '.join(sorted(self.sources))}), or give loss.others"
            )
        return loss

    def __call__(self, batch: Batch, scalars: Mapping[str, Tensor]) -> LossShare:
        """Share of the loss that the batch's source has, times its weight."""
        name = self._source_of(batch)
        keys = [key for key, _ in self._numbered]
        if name not in keys and None not in keys:
            raise UserError("loss by_source: a batch holds rows of a source that loss.sources does not name")
        number = keys.index(name if name in keys else None)
        loss = self.parts()[number]
        share = loss(batch, {scalar: scalars[f"{number}_{scalar}"] for scalar in loss.learnable()})
        unused = sum((0.0 * value for value in scalars.values()), start=share.loss.new_zeros(()))
        weight = 1.0 if name is None else self.weights.get(name, 1.0)
        report = share.report | {f"loss_{'others' if name is None else name}": share.loss.detach()}
        return LossShare(weight * share.loss + unused, report)

    def _source_of(self, batch: Batch) -> str | None:
        """Name of the batch's source; None for one that the settings do not name."""
        ids = need(batch.source, "source by batch", self.type, "set homogeneous_batches: true")
        first = int(ids[0])
        if not bool((ids == first).all()):
            raise UserError(
                "loss by_source: a batch holds rows of several sources; set homogeneous_batches: true, so that each "
                "holds rows of one"
            )
        return self._by_id.get(first)


def check_sources(loss: Loss, sources: Mapping[str, Collection[str]]) -> None:
    """Raise UserError where a loss by source does not fit the training rows; other losses pass.

    `sources` are those of each kind of rows. Each must have a loss, each name must be a source's, and the loss of
    labelled rows, which hold wrong pairs too, must be one that goes by their scores.
    """
    if not isinstance(loss, BySource):
        return
    present = {name for names in sources.values() for name in names}
    for name in sorted({*loss.sources, *loss.weights} - present):
        raise UserError(
            f"loss by_source: no training row is of source '{name}'{nearest(name, present)}; there are "
            f"{', '.join(sorted(present))}"
        )
    for name in sorted(present):
        loss.loss_of(name)
    for name in sorted(sources.get("labelled", ())):
        chosen = loss.loss_of(name)
        if chosen.assumes_positives():
            raise UserError(
                f"loss by_source: {chosen.type} takes every row for a right pair, and the labelled rows of '{name}' "
                "hold wrong ones too; choose contrastive, online_contrastive, cosent, angle or cosine for it"
            )
