"""Keeping what the base knew: the distance to a frozen base, and averages of the weights over steps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.encoder.encoder import Encoder
from tests.support.loop import BUDGET, make_parts
from tests.support.ranks import run_ranks
from training.loop.checkpoint import AVERAGE, Progress, RunStore, TrainingState, load_weights
from training.loop.embed_module import EmbedModule
from training.loop.step import TrainStep
from training.loop.trainer import Trainer
from training.loop.weight_averaging import EMA, Mean, WeightAverage
from training.losses.base_distillation import BaseDistillation
from training.losses.infonce import InfoNCE
from training.losses.weighted_sum import Term, WeightedSum

WEIGHT = 0.7
SUM = WeightedSum(losses=[Term(loss=InfoNCE()), Term(weight=WEIGHT, loss=BaseDistillation())])


def keeping(**config) -> TrainStep:
    """The loop of made-up rows with the penalty, in float64, its encoder moved away from the base."""
    encoder, rows, settings = make_parts(12, **config)
    loop = TrainStep(encoder.double(), SUM, rows, settings)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in loop.module.parameters():
            value += 0.02 * torch.randn(value.shape, generator=generator) * value.abs().mean()
    return loop


def step(**config):
    """This rank's part of a step with dropout off: its gradient after the reduction, and what is reported."""
    loop = keeping(dropout=0.0, **config)
    report = loop.backward(loop.load_batch(loop.feed.first), 0)
    return {"grad": flat(loop), "report": torch.tensor([report["moved"], report["loss"]], dtype=torch.float64)}


def flat(loop: TrainStep) -> torch.Tensor:
    return torch.cat([p.grad.reshape(-1) for p in loop.module.parameters() if p.grad is not None])


@pytest.fixture(scope="module")
def naive():
    """The same by a formula of a few lines: InfoNCE and the mean of 1 - cosine, all texts in one process."""
    loop = keeping(dropout=0.0)
    rows, encoder, base = make_parts(12)[1], loop.module.encoder, loop.base.encoder
    chosen = loop.load_batch(loop.feed.first).rows
    texts = [[of[row] for row in chosen] for of in (rows.anchors, rows.positives)]
    texts.append([text for row in chosen for text in rows.negatives[row]])
    tokens = [row for part in texts for row in encoder.tokenize(part, "document")]
    now = encoder.encode_tokens(tokens)
    with torch.no_grad():
        then = base.encode_tokens(tokens)
    query, documents = now[: len(chosen)], now[len(chosen) :]
    ranked = F.cross_entropy(20.0 * F.normalize(query) @ F.normalize(documents).T, torch.arange(len(chosen)))
    moved = (1 - (F.normalize(now) * F.normalize(then)).sum(dim=1)).mean()
    (ranked + WEIGHT * moved).backward()
    return float(moved.detach()), float((ranked + WEIGHT * moved).detach()), flat(loop)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_penalty_has_the_naive_gradient(naive, size):
    moved, loss, expected = naive
    assert moved > 1e-3
    for rank in run_ranks(size, both_ways) if size > 1 else [both_ways()]:
        for found in rank:
            np.testing.assert_allclose(found["report"].numpy(), [moved, loss], rtol=1e-6)
            assert found["grad"].norm() / expected.norm() == pytest.approx(1.0, abs=1e-6)
            assert torch.cosine_similarity(found["grad"], expected, dim=0) >= 1 - 1e-10


def both_ways():
    """Plain and with a gradient cache."""
    return [step(), step(cache_tokens=BUDGET)]


def test_the_base_stays_and_a_first_step_has_not_moved():
    encoder, rows, settings = make_parts(12, dropout=0.0, max_steps=2)
    loop = TrainStep(encoder, SUM, rows, settings)
    before = {name: value.clone() for name, value in loop.base.encoder.state_dict().items()}
    work = loop.load_batch(loop.feed.first)
    first, second = (loop.step(work, 0)["moved"] for _ in range(2))
    assert first == pytest.approx(0.0, abs=1e-6) and second > 1e-5
    assert all(torch.equal(value, before[name]) for name, value in loop.base.encoder.state_dict().items())
    assert not any(value.requires_grad for value in loop.base.encoder.parameters())


def test_a_larger_weight_keeps_the_vectors_nearer():
    def moved(weight: float) -> float:
        encoder, rows, settings = make_parts(16, dropout=0.0, learning_rate=3e-4, schedule="constant", warmup=0.0)
        loss = WeightedSum(losses=[Term(loss=InfoNCE()), Term(weight=weight, loss=BaseDistillation())])
        loop = TrainStep(encoder, loss, rows, settings)
        work = loop.load_batch(loop.feed.first)
        return [loop.step(work, 0)["moved"] for _ in range(8)][-1]

    assert moved(20.0) < 0.7 * moved(0.01)


def test_dropout_is_the_same_with_and_without_the_base():
    encoder, rows, settings = make_parts(12)
    alone, beside = (TrainStep(encoder, loss, rows, settings) for loss in (InfoNCE(), SUM))
    drawn = []
    for loop in (alone, beside):
        loop.module.train()
        torch.manual_seed(3)
        drawn.append(loop.embed(loop.load_batch(loop.feed.first), 0).query)
    torch.testing.assert_close(*drawn, rtol=0, atol=0)


@pytest.mark.parametrize("start", [0.0, 0.4])
@pytest.mark.parametrize("kind", [EMA, Mean])
def test_averages_follow_their_formula(kind, start):
    """Over ten steps of weights that are drawn at random, against sums written out."""
    module = torch.nn.Linear(3, 2)
    average = WeightAverage(module, kind(start=start) if kind is Mean else kind(start=start, decay=0.8), total=10)
    seen = [module.weight.detach().clone().double()]
    for number in range(10):
        with torch.no_grad():
            module.weight.copy_(torch.randn(2, 3, generator=torch.Generator().manual_seed(number)))
        seen.append(module.weight.detach().clone().double())
        average.update(number)
    first = int(10 * start)
    if kind is Mean:
        expected = torch.stack(seen[first + 1 :]).mean(dim=0)
    else:
        begin, later = (seen[0], seen[1:]) if start == 0 else (seen[first + 1], seen[first + 2 :])
        powers = [0.2 * 0.8 ** (len(later) - 1 - place) for place in range(len(later))]
        expected = 0.8 ** len(later) * begin + sum(p * w for p, w in zip(powers, later, strict=True))
    torch.testing.assert_close(average.values["weight"].double(), expected, rtol=1e-5, atol=1e-6)


def test_an_average_does_not_stall_in_half_precision():
    module = torch.nn.Linear(1, 1, bias=False).bfloat16()
    with torch.no_grad():
        module.weight.fill_(1.0)
    average = WeightAverage(module, EMA(decay=0.999), total=100)
    with torch.no_grad():
        module.weight.fill_(1.5)
    for number in range(100):
        average.update(number)
    assert float(average.values["weight"]) == pytest.approx(1.5 - 0.5 * 0.999**100, rel=1e-4)


def averaging(kind: EMA | Mean) -> TrainStep:
    encoder, rows, settings = make_parts(8, max_steps=6, epochs=6, learning_rate=1e-3, average=kind)
    return TrainStep(encoder, InfoNCE(learn_temperature=True), rows, settings)


def train(loop: TrainStep, start: int, end: int) -> None:
    for number, batch in loop.plan(start):
        if number < end:
            loop.step(loop.load_batch(batch), number)


@pytest.mark.parametrize("kind", [EMA(decay=0.7), Mean(start=0.3)])
def test_resume_is_exact_and_the_model_is_the_average(tmp_path: Path, kind):
    """Dropout is on; the checkpoint lies inside the averaged stretch."""
    whole, first, second = (averaging(kind) for _ in range(3))
    train(whole, 0, 6)
    train(first, 0, 4)
    first.state(Progress(4, "plan")).write(tmp_path / "middle")
    found = second.state(Progress(0, "plan")).read(tmp_path / "middle")
    train(second, found.step, 6)
    for name, value in whole.average.values.items():
        assert torch.equal(value, second.average.values[name]), name
        assert torch.equal(whole.average.trained[name], second.average.trained[name]), name
    whole.state(Progress(6, "plan")).write(tmp_path / "last")
    model = averaging(kind).module
    load_weights(model, tmp_path / "last")
    for name, value in model.named_parameters():
        if value.requires_grad:
            assert torch.equal(value, whole.average.values[name]), name
    differs = [
        name for name, value in whole.average.trained.items() if not torch.equal(value, whole.average.values[name])
    ]
    assert "scalars.log_scale" in differs and len(differs) > 10


def test_a_share_of_the_base_is_taken_of_the_average(tmp_path: Path):
    loop = averaging(EMA(decay=0.7))
    base = {name: value.detach().clone() for name, value in loop.module.named_parameters()}
    train(loop, 0, 3)
    loop.state(Progress(3, "plan")).write(tmp_path)
    other = averaging(EMA(decay=0.7)).module
    load_weights(other, tmp_path, alpha=0.25)
    name = next(name for name in loop.average.values if name.endswith("query.weight"))
    expected = 0.75 * base[name] + 0.25 * loop.average.values[name]
    torch.testing.assert_close(dict(other.named_parameters())[name].detach(), expected, rtol=0, atol=1e-7)


class Memory(RunStore):
    """A keeper that remembers what a validation saw and what was saved."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rows, self.saved = folder, [], []

    def log(self, row):
        self.rows.append(row)

    def save(self, metrics, state: TrainingState, **_):
        state.write(self.folder / str(metrics["step"]))
        self.saved.append((metrics, state.progress))


def test_validation_measures_the_model_that_is_saved(tmp_path: Path):
    encoder, rows, settings = make_parts(
        8, max_steps=4, epochs=4, learning_rate=1e-3, validations=2, average=EMA(decay=0.5)
    )
    loop = TrainStep(encoder, InfoNCE(), rows, settings)

    def validate(encoder: Encoder) -> dict[str, float]:
        return {"sum": float(sum(value.detach().double().sum() for value in encoder.parameters()))}

    keeper = Memory(tmp_path)
    Trainer(loop, keeper, validate, "plan").run()
    assert [(metrics["step"], progress) for metrics, progress in keeper.saved] == [
        (2, Progress(2, "plan", 16, 1, 8, 4, 13)),
        (4, Progress(4, "plan", 32, 1, 8, 4, 13)),
    ]
    last = validate(loop.module.encoder)["sum"]
    for metrics, _ in keeper.saved:
        saved = EmbedModule(make_parts(8)[0], {})
        load_weights(saved, tmp_path / str(metrics["step"]))
        assert validate(saved.encoder)["sum"] == pytest.approx(metrics["sum"], abs=1e-9)
    assert keeper.saved[-1][0]["sum"] != last, "the average is not the weights of the last step"
    unwatched = TrainStep(make_parts(8)[0], InfoNCE(), rows, settings)
    train(unwatched, 0, 4)
    for name, value in unwatched.module.named_parameters():
        assert torch.equal(value, dict(loop.module.named_parameters())[name]), f"{name} was not put back"


def mean_of_two():
    """The average of two ranks after three steps, as one row of numbers."""
    loop = averaging(Mean(start=0.0))
    train(loop, 0, 3)
    return torch.cat([value.reshape(-1) for value in loop.average.values.values()])


def test_every_rank_holds_the_same_average():
    one, two = run_ranks(2, mean_of_two)
    assert torch.equal(one, two)


def test_a_run_without_average_leaves_none(tmp_path: Path):
    loop = TrainStep(make_parts(8)[0], InfoNCE(), *make_parts(8)[1:])
    loop.state(Progress(0, "plan")).write(tmp_path)
    assert not (tmp_path / AVERAGE).exists()
