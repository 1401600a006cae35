"""States of AdamW in bfloat16: half the memory, rounding right on average, the course of float32, exact resume."""

from pathlib import Path

import pytest
import torch

from tests.support import zoo
from tests.support.loop import make_parts
from tests.support.ranks import run_ranks
from training.loop.bfloat16_adamw import BFloat16AdamW, round_at_random
from training.loop.checkpoint import Progress
from training.loop.step import TrainStep
from training.loop.tensor_files import local_rows
from training.losses.infonce import InfoNCE


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return zoo.base("bert", tmp_path_factory.mktemp("bert"))


def make(model: str, **config) -> TrainStep:
    settings = {"dropout": 0.0, "learning_rate": 1e-3, "batch_size": 16, "epochs": 6, "optimizer_states": "bfloat16"}
    encoder, rows, loop = make_parts(24, 12, model=model, **settings | config)
    return TrainStep(encoder, InfoNCE(learn_temperature=True), rows, loop)


def train(loop: TrainStep, start: int, end: int) -> list[float]:
    return [loop.step(loop.load_batch(ref), step)["loss"] for step, ref in loop.plan(start) if step < end]


def weights(loop: TrainStep) -> torch.Tensor:
    full = [getattr(value, "full_tensor", lambda v=value: v)() for value in loop.module.parameters()]
    return torch.cat([value.detach().reshape(-1) for value in full])


def test_values_are_rounded_to_a_neighbour_and_right_on_average():
    exact = torch.tensor([1.0, 1.001, -3.0001, 1e-30, 0.0, 65504.7])
    random = torch.Generator().manual_seed(1)
    values = round_at_random(exact.repeat(20_000, 1), random)
    assert values.dtype == torch.bfloat16
    for column, value in zip(values.float().T, exact, strict=True):
        assert len(column.unique()) <= 2 and ((column - value).abs() <= value.abs() / 128).all()
        assert column.double().mean() == pytest.approx(float(value), rel=1e-4)
    rounded = exact.to(torch.bfloat16)
    assert torch.equal(round_at_random(rounded.float(), random), rounded), "what bfloat16 has stays"


def test_the_second_moment_falls_where_rounding_to_the_nearest_holds_it():
    weight = torch.nn.Parameter(torch.zeros(4096))
    adamw = BFloat16AdamW([{"params": [weight]}])
    for size in [1.0] + [1e-3] * 500:
        weight.grad = torch.full_like(weight, size)
        adamw.step()
    values, expected = adamw.state[weight]["exp_avg_sq"].float().mean(), 1e-3 * 0.999**500
    assert values == pytest.approx(expected, rel=0.02)
    nearest = torch.tensor(1e-3).to(torch.bfloat16)
    assert (nearest * 0.999).to(torch.bfloat16) == nearest


def test_a_run_takes_half_the_memory_and_the_course_of_float32(model: str):
    narrow, wide = make(model), make(model, optimizer_states="float32")
    before, losses = weights(wide), [train(loop, 0, 9) for loop in (narrow, wide)]
    assert losses[0] == pytest.approx(losses[1], rel=5e-3)
    moved = [weights(loop) - before for loop in (narrow, wide)]
    assert torch.cosine_similarity(*moved, dim=0) > 0.995
    sizes = [sum(v.nbytes for k, v in loop.optimizer.tensors().items() if "exp" in k) for loop in (narrow, wide)]
    assert sizes[0] * 2 == sizes[1]


def test_a_run_goes_on_exactly(model: str, tmp_path: Path):
    full, first, second = (make(model) for _ in range(3))
    train(full, 0, 6)
    train(first, 0, 3)
    first.state(Progress(3, "plan")).write(tmp_path)
    second.state(Progress(0, "plan")).read(tmp_path)
    train(second, 3, 6)
    assert torch.equal(weights(full), weights(second))


def on_ranks(model: str, folder: str) -> dict[str, torch.Tensor]:
    """Weights of both placements after six steps; shared ones go on from their own checkpoint in between."""
    copied, shared, again = (make(model, parallel=parallel) for parallel in ("ddp", "fsdp", "fsdp"))
    train(copied, 0, 6)
    train(shared, 0, 3)
    shared.state(Progress(3, "plan")).write(Path(folder))
    torch.distributed.barrier()
    again.state(Progress(0, "plan")).read(Path(folder))
    train(shared, 3, 6)
    train(again, 3, 6)
    moments = [local_rows(value) for name, value in again.optimizer.tensors().items() if "exp" in name]
    assert {value.dtype for value in moments} == {torch.bfloat16}
    return {"copied": weights(copied), "shared": weights(shared), "again": weights(again)}


def test_ranks_round_alike_and_share_states(model: str, tmp_path: Path):
    before = weights(make(model))
    one, two = run_ranks(2, on_ranks, model, str(tmp_path))
    assert torch.equal(one["copied"], two["copied"]), "ranks that hold a weight whole keep it equal"
    assert torch.equal(one["again"], one["shared"])
    assert torch.cosine_similarity(one["shared"] - before, one["copied"] - before, dim=0) > 0.995
