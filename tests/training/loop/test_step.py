"""A step of the real encoder: the ways to save memory change nothing but memory, and float16 scales its loss."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.core.errors import UserError
from tests.support.loop import BUDGET, make_exact_loop, make_loop, make_parts
from training.loop.optimizer import Optimizer
from training.loop.step import LoopConfig, TrainStep
from training.losses.infonce import InfoNCE

ROOT = Path(__file__).resolve().parents[3]


def gradient(loop: TrainStep) -> torch.Tensor:
    """Gradient of the first batch in float64, with dropout."""
    loop.module.double()
    loop.module.train()
    work = loop.load_batch(loop.feed.first)
    torch.manual_seed(3)
    loop.backward(work, 0)
    return torch.cat([p.grad.reshape(-1) for p in loop.module.parameters() if p.grad is not None])


@pytest.fixture(scope="module")
def plain():
    return gradient(make_loop())


@pytest.mark.parametrize(
    ("ways", "tile"),
    [({"cache_tokens": BUDGET}, None), ({"gradient_checkpointing": True}, None), ({"cache_tokens": BUDGET}, 7)],
)
def test_saving_memory_changes_no_gradient(plain, ways, tile):
    loop = make_loop(**ways)
    loop.loss = loop.loss.model_copy(update={"tile": tile})
    found = gradient(loop)
    assert found.norm() / plain.norm() == pytest.approx(1.0, abs=1e-6)
    assert torch.cosine_similarity(found, plain, dim=0) >= 1 - 1e-10


def test_the_dropout_of_these_tests_does_something(plain):
    assert torch.cosine_similarity(gradient(make_loop(dropout=0.0)), plain, dim=0) < 0.999


def test_checkpointing_keeps_fewer_activations():
    def kept(**config) -> int:
        loop, sizes = make_loop(**config), []
        loop.module.train()
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            loop.encode(loop.load_batch(loop.feed.first).columns["positive"], [0] * 16)
        return sum(sizes)

    assert kept(gradient_checkpointing=True) < 0.2 * kept()


def test_a_model_without_checkpointing_is_named():
    loop = make_loop()
    encoder = loop.module.encoder
    encoder.transformer = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"loop\.gradient_checkpointing"):
        TrainStep(encoder, InfoNCE(), make_parts()[1], LoopConfig(batch_size=16, gradient_checkpointing=True))


PEAK = """
import sys
import torch
from pathlib import Path
from tests.support.loop import make_loop
torch.set_num_threads(1)
def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
rows, tokens = map(int, sys.argv[1:])
loop = make_loop(rows, 64, tokens or 8192, cache_tokens=tokens or None)
work = loop.load_batch(loop.feed.first)
before = peak()
loop.module.train()
loop.backward(work, 0)
print(peak() - before)
"""


def peak(rows: int, tokens: int) -> float:
    """MiB that a step of 64-token texts takes over what the model holds, in a process of its own; 0 tokens: plain."""
    command = [sys.executable, "-c", PEAK, str(rows), str(tokens)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


def test_memory_is_that_of_a_chunk():
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from /proc/self/status")
    plain, cached, doubled = peak(80, 0), peak(40, 1024), peak(80, 1024)
    assert doubled < 1.25 * cached, f"{doubled:.0f} MiB for twice the rows, {cached:.0f} MiB for the rows"
    assert doubled < plain / 2, f"{doubled:.0f} MiB in chunks, {plain:.0f} MiB plain"


def test_float16_trains_as_float32_does():
    reports = {}
    for precision in ("float32", "float16"):
        loop = make_loop(8, 6, precision=precision, dropout=0.0)
        work = loop.load_batch(loop.feed.first)
        reports[precision] = [loop.step(work, 0) for _ in range(2)]
    for wide, half in zip(*reports.values(), strict=True):
        assert half["scale"] == 65536.0 and "scale" not in wide
        assert half["loss"] == pytest.approx(wide["loss"], rel=2e-3)
        assert half["grad_norm"] == pytest.approx(wide["grad_norm"], rel=1e-2)


def small(precision: torch.dtype, bad: int = 1):
    module = torch.nn.Linear(3, 1, bias=False)
    return module, Optimizer(module, precision, weight_decay=0.0, max_grad_norm=1.0, max_bad_steps=bad)


def feed(module, optimizer, grad: float):
    """One step whose scaled gradient is what is given."""
    before = module.weight.detach().clone()
    optimizer.zero_grad()
    optimizer.scale_loss(module(torch.ones(1, 3)).sum()).backward()
    module.weight.grad.fill_(grad)
    report = optimizer.step(1, 0.1)
    return report, float((module.weight.detach() - before).abs().max())


def test_a_gradient_that_is_not_finite_moves_nothing_and_is_counted():
    module, optimizer = small(torch.float32)
    assert feed(module, optimizer, 1.0)[1] > 0.01
    assert feed(module, optimizer, math.inf)[1] == 0.0
    assert optimizer.bad_steps == 1
    with pytest.raises(UserError, match="step 1: the gradient is not finite, 2 times now"):
        feed(module, optimizer, math.nan)


def test_the_float16_scale_falls_before_a_step_is_bad():
    module, optimizer = small(torch.float16)
    scales = [feed(module, optimizer, math.inf)[0]["scale"] for _ in range(16)]
    assert scales == [2.0**k for k in range(16, 0, -1)] and optimizer.bad_steps == 0
    report, moved = feed(module, optimizer, math.inf)
    assert report["scale"] == 1.0 and moved == 0.0 and optimizer.bad_steps == 1
    report, moved = feed(module, optimizer, 0.25)
    assert report["grad_norm"] == pytest.approx(math.sqrt(3) * 0.25 / 0.5) and moved > 0.01


def test_a_bad_batch_is_counted_at_once_and_leaves_the_float16_scale():
    loop = make_exact_loop(poison=5, precision="float16", max_bad_steps=2)
    batch = loop.load_batch(loop.feed.first)
    before = [value.clone() for value in loop.module.parameters()]
    reports = [loop.step(batch, step) for step in range(2)]
    assert loop.optimizer.bad_steps == 2 and [report["scale"] for report in reports] == [65536.0, 65536.0]
    assert all(torch.equal(a, b) for a, b in zip(before, loop.module.parameters(), strict=True))
    with pytest.raises(UserError, match="3 times now"):
        loop.step(batch, 2)


def test_a_scale_that_is_too_high_falls_and_counts_nothing():
    module, optimizer = small(torch.float16)

    def backward() -> None:
        optimizer.zero_grad()
        optimizer.scale_loss(module(torch.full((1, 3), 2.0)).sum() * 2.0**20).backward()

    optimizer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    scales = []
    for step in range(20):
        backward()
        scales.append(optimizer.step(step, 0.1, backward)["scale"])
    assert optimizer.bad_steps == 0 and scales[:3] == [2.0**120, 2.0**119, 2.0**118] and scales[-1] == scales[-2]


def test_the_scale_is_part_of_the_state():
    module, optimizer = small(torch.float16)
    feed(module, optimizer, math.inf)
    other = small(torch.float16)[1]
    other.load_counters(optimizer.counters())
    assert other.scaler.get_scale() == 32768.0


def test_biases_norms_and_scalars_do_not_decay():
    module = torch.nn.ModuleDict({"linear": torch.nn.Linear(3, 2), "norm": torch.nn.LayerNorm(2)})
    module.register_parameter("scale", torch.nn.Parameter(torch.tensor(1.0)))
    groups = Optimizer(module, torch.float32, weight_decay=0.5, max_grad_norm=1.0, max_bad_steps=0).adamw.param_groups
    decays = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    found = {name: decays[id(parameter)] for name, parameter in module.named_parameters()}
    assert found == {"linear.weight": 0.5, "linear.bias": 0, "norm.weight": 0, "norm.bias": 0, "scale": 0}
