"""One loss a source: which loss a batch gets, what is refused, and the real steps of one and of two ranks."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from pipeline.core.errors import UserError
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.text.normalize import stable_id
from tests.support.ranks import run_ranks
from training.data.rows import rows_from
from training.loop.step import LoopConfig, TrainStep
from training.losses.any_loss import AnyLoss, check_rows
from training.losses.by_source import BySource, check_sources
from training.losses.loss import local_batch

TWO = {"faq": {"type": "infonce", "learn_temperature": True}, "sts": {"type": "cosent"}}


def made(**settings) -> BySource:
    loss = TypeAdapter(AnyLoss).validate_python({"type": "by_source", "sources": TWO, **settings})
    assert isinstance(loss, BySource)
    return loss


def batch_of(*sources: str):
    torch.manual_seed(1)
    vectors = torch.randn(2, len(sources), 4)
    ids = torch.tensor([stable_id(name) for name in sources])
    return local_batch(*vectors, source=ids, score=torch.linspace(0, 1, len(sources)))


def test_a_batch_gets_the_loss_of_its_source_times_its_weight():
    loss = made(weights={"sts": 0.5})
    scalars = {name: torch.tensor(value, requires_grad=True) for name, value in loss.learnable().items()}
    assert list(scalars) == ["0_log_scale"]
    faq, sts = batch_of(*["faq"] * 6), batch_of(*["sts"] * 6)
    alone = loss.sources["faq"](faq, {"log_scale": scalars["0_log_scale"]})
    found = loss(faq, scalars)
    torch.testing.assert_close(found.loss, alone.loss)
    assert "loss_faq" in found.report and "accuracy" in found.report
    graded = loss(sts, scalars)
    torch.testing.assert_close(graded.loss, 0.5 * loss.sources["sts"](sts, {}).loss)
    assert set(graded.report) == {"loss_sts"}
    torch.testing.assert_close(graded.report["loss_sts"], loss.sources["sts"](sts, {}).loss)
    assert torch.autograd.grad(graded.loss, scalars["0_log_scale"])[0] == 0, "a gradient, of zero"


def test_the_order_of_a_recipe_does_not_number_the_scalars():
    turned = made(sources=dict(reversed(TWO.items())))
    assert turned.learnable() == made().learnable()


def test_batches_that_no_loss_fits_are_refused():
    with pytest.raises(UserError, match="rows of several sources; set homogeneous_batches: true"):
        made()(batch_of("faq", "sts"), {"0_log_scale": torch.tensor(1.0)})
    with pytest.raises(UserError, match=r"rows of a source that loss\.sources does not name"):
        made()(batch_of("shop", "shop"), {"0_log_scale": torch.tensor(1.0)})
    with pytest.raises(UserError, match="no source by batch; set homogeneous_batches: true"):
        made()(local_batch(torch.ones(2, 4), torch.ones(2, 4)), {"0_log_scale": torch.tensor(1.0)})


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValidationError, match="weights names 'stss', which sources does not; did you mean sts"):
        made(weights={"stss": 2})
    with pytest.raises(ValidationError, match="no loss is called 'cosentt'; did you mean cosent"):
        made(sources={"sts": {"type": "cosentt"}})


@pytest.mark.parametrize(
    ("settings", "rows", "words"),
    [
        ({}, {"pairs": {"faq", "shop"}, "labelled": {"sts"}}, r"rows of source 'shop' have no loss; add it to loss\.s"),
        ({}, {"pairs": {"faq"}}, "no training row is of source 'sts'; there are faq"),
        ({}, {"pairs": {"faqs"}, "labelled": {"sts"}}, "no training row is of source 'faq'; did you mean faqs"),
        ({}, {"pairs": {"sts"}, "labelled": {"faq", "sts"}}, "infonce takes every row for a right pair.*of 'faq'"),
        (
            {"others": {"type": "triplet"}},
            {"pairs": {"faq"}, "labelled": {"sts", "x"}},
            "triplet takes every row for a right pair.*of 'x'",
        ),
    ],
)
def test_rows_that_do_not_fit_are_refused(settings, rows, words):
    with pytest.raises(UserError, match=words):
        check_sources(made(**settings), rows)


def test_rows_that_fit_pass():
    check_rows(made(), ["pairs", "labelled"])
    check_sources(made(), {"pairs": {"faq"}, "labelled": {"sts"}})
    check_sources(made(others={"type": "cosent"}), {"pairs": {"faq"}, "labelled": {"sts", "more"}})


def steps() -> list[dict[str, torch.Tensor]]:
    """Gradient and report of every step of an epoch of two sources, after DDP's reduction, through the cache."""
    text = lambda k: " ".join(str((k * 31 + i * 7) % 997) for i in range(9 - k % 4))  # noqa: E731
    names = ["faq"] * 16 + ["sts"] * 16
    table = pa.table(
        {
            "anchor_id": [f"q{i}" for i in range(32)],
            "anchor": [text(i) for i in range(32)],
            "positive_id": [f"p{i}" for i in range(32)],
            "positive": [text(i + 5000) for i in range(32)],
            "relevance": [1.0] * 16 + [i / 16 for i in range(16)],
            "source": names,
        }
    )
    rows = rows_from(table, {})
    rows = type(rows)(**{**vars(rows), "stream": rows.source})
    encoder = Encoder.load(EncoderConfig(layers=1, max_length=12, dtype="float32"), "cpu").double()
    config = LoopConfig(batch_size=8, validations=0, precision="float32", dropout=0.0, cache_tokens=64)
    loop = TrainStep(encoder, made(weights={"sts": 0.25}), rows, config)
    found = []
    for step, ref in loop.plan(0):
        report = loop.backward(loop.load_batch(ref), step)
        grads = [value.grad.reshape(-1) for value in loop.module.parameters() if value.grad is not None]
        found.append({"gradient": torch.cat(grads), "sts": torch.tensor("loss_sts" in report)})
    return found


def test_two_ranks_take_the_steps_of_one():
    alone = steps()
    assert [bool(step["sts"]) for step in alone].count(True) == 2 == len(alone) / 2
    assert np.unique([step["gradient"].norm().item() for step in alone]).size == 4
    for rank in run_ranks(2, steps):
        for one, other in zip(alone, rank, strict=True):
            assert bool(one["sts"]) == bool(other["sts"])
            apart = (one["gradient"] - other["gradient"]).norm() / one["gradient"].norm()
            assert apart < 1e-6
