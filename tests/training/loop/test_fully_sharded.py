"""Ranks that share the weights (FSDP2) train as ranks do that hold them whole, and go on from their checkpoints."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from pydantic import TypeAdapter, ValidationError

from pipeline.core.errors import UserError
from pipeline.encoder.encoder import Encoder, EncoderConfig
from tests.support import zoo
from tests.support.loop import make_parts
from tests.support.ranks import run_ranks
from tests.training.losses.test_sharded_gradients import counted
from training.loop.checkpoint import OPTIMIZER, WEIGHTS, Progress, find_damage, load_weights
from training.loop.embed_module import EmbedModule
from training.loop.fully_sharded import FullySharded, SharedEncoder, blocks
from training.loop.lora import LoraConfig, attach_adapters
from training.loop.step import LoopConfig, TrainStep
from training.loop.tensor_files import local_rows, part_name
from training.losses.any_loss import AnyLoss

CONTRASTIVE = {"type": "infonce", "learn_temperature": True}
KEEPING = {"type": "weighted_sum", "losses": [{"loss": CONTRASTIVE}, {"loss": {"type": "base_distillation"}}]}
TEXTS = ["one", "", "two words", "a text of five words", "and another one which is longer than all", "six"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """A small BERT with random weights."""
    return zoo.base("bert", tmp_path_factory.mktemp("bert"))


def make(model: str, parallel: str, *, loss=CONTRASTIVE, lora=False, dtype=torch.float64, **config) -> TrainStep:
    """A loop over rows whose texts do not fit into one pass; the rates are high, so that steps show."""
    settings = {"dropout": 0.0, "learning_rate": 1e-3, "batch_size": 16, "max_steps": 4, "epochs": 4} | config
    encoder, rows, loop = make_parts(24, 12, budget=96, model=model, parallel=parallel, **settings)
    if lora:
        attach_adapters(encoder, LoraConfig(rank=4), 7)
    return TrainStep(encoder.to(dtype), TypeAdapter(AnyLoss).validate_python(loss), rows, loop)


def whole(value: torch.Tensor) -> torch.Tensor:
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def train(loop: TrainStep, start: int, end: int, validated: bool = False) -> list[dict[str, float]]:
    reports = []
    for step, ref in loop.plan(start):
        if step == end:
            break
        reports.append(loop.step(loop.load_batch(ref), step))
        if validated:
            reports[-1]["first"] = loop.validate(lambda encoder: float(encoder.encode(TEXTS, "query")[3, 0]))
    return reports


WAYS = {
    "plain": {},
    "cached": {"cache_tokens": 64},
    "checkpointing": {"gradient_checkpointing": True},
    "dropout by slot": {"dropout": 0.1, "dropout_by_slot": True, "slots": 4, "cache_tokens": 64},
    "average": {"average": {"type": "ema", "decay": 0.7}},
    "the base is kept": {"loss": KEEPING},
    "adapters": {"lora": True},
}


def compare(model: str, way: str) -> dict[str, float]:
    """Three steps of both placements: how far their weights and figures are apart, and how far the weights went."""
    shared, copied = make(model, "fsdp", **WAYS[way]), make(model, "ddp", **WAYS[way])
    before = {name: value.detach().clone() for name, value in copied.module.named_parameters()}
    found, wanted = (train(loop, 0, 3, validated=True) for loop in (shared, copied))
    for ours, theirs in zip(found, wanted, strict=True):
        assert list(ours) == list(theirs)
        for figure in set(ours) - {"accuracy"}:  # equal texts rank in either order
            np.testing.assert_allclose(ours[figure], theirs[figure], rtol=1e-7, atol=1e-9, err_msg=f"{way} {figure}")
    after = {name: whole(value.detach()) for name, value in shared.module.named_parameters()}
    values = dict(copied.module.named_parameters())
    apart = torch.stack([(after[name] - value).norm() for name, value in values.items()]).norm()
    moved = torch.stack([(before[name] - value).norm() for name, value in values.items()]).norm()
    return {"apart": float(apart), "moved": float(moved)}


def compare_all(model: str) -> dict[str, dict[str, float]]:
    return {way: compare(model, way) for way in WAYS}


@pytest.mark.parametrize("size", [2, 4])
def test_weights_after_steps_are_those_of_ranks_that_hold_them_whole(model: str, size: int):
    """Their norms, clipping, validations in between and the average too, with texts that take several passes."""
    for rank in run_ranks(size, compare_all, model):
        for way, figures in rank.items():
            assert figures["moved"] > 0.01, way
            assert figures["apart"] <= 1e-6 * figures["moved"], f"{way}: {figures}"


FAMILIES = {"qwen3": "cached", "gemma3": "plain", "modernbert": "cached", "albert": "cached", "t5": "plain"}


def compare_families(models: dict[str, str]) -> dict[str, dict[str, float]]:
    found = {}
    for family, model in models.items():
        found[family] = compare(model, FAMILIES[family])
        loop = make(model, "fsdp", **WAYS[FAMILIES[family]])
        with counted() as reductions:
            train(loop, 0, 1)
        found[family] |= {"reductions": len(reductions), "parts": len(blocks(loop.module.encoder.transformer)) + 1}
    return found


def test_other_families_share_their_weights_too(tmp_path: Path):
    """Decoders, sliding windows, layers that share one block (ALBERT), positions that only the first block has (T5)."""
    models = {family: zoo.base(family, tmp_path / family) for family in FAMILIES}
    for rank in run_ranks(2, compare_families, models):
        for family, figures in rank.items():
            assert figures["moved"] > 0.01 and figures["apart"] <= 1e-6 * figures["moved"], f"{family}: {figures}"
            assert figures["reductions"] == figures["parts"] == (1 if family == "albert" else 3), family


def one_step(model: str) -> dict[str, int]:
    """What a step costs, and what this rank holds."""
    loop = make(model, "fsdp", dtype=torch.float32, cache_tokens=64)
    with counted() as reductions:
        train(loop, 0, 1)
    mine = sum(local_rows(value).numel() for value in loop.module.parameters())
    moments = sum(local_rows(value).numel() for value in loop.optimizer.tensors().values())
    return {
        "reductions": len(reductions),
        "blocks": len(blocks(loop.module.encoder.transformer)),
        "mine": mine,
        "moments": moments,
        "all": sum(value.numel() for value in loop.module.parameters()),
    }


def test_a_step_reduces_once_and_a_rank_holds_its_share(model: str):
    for rank in run_ranks(2, one_step, model):
        assert rank["blocks"] == 2 and rank["reductions"] == rank["blocks"] + 1, "each block and the rest, once"
        assert rank["mine"] < 0.51 * rank["all"] and rank["moments"] < 2 * 0.51 * rank["all"]


def in_half_precision(model: str) -> dict[str, float]:
    """Precisions of a step in bfloat16, and how its loss differs from that of whole weights."""
    loop, seen = make(model, "fsdp", dtype=torch.float32, precision="bfloat16"), []
    part = blocks(loop.module.encoder.transformer)[0]
    part.register_forward_pre_hook(lambda module, _: seen.append({str(p.dtype) for p in module.parameters()}))
    found, wanted = train(loop, 0, 2), train(make(model, "ddp", dtype=torch.float32, precision="bfloat16"), 0, 2)
    kept = {str(value.dtype) for value in [*loop.module.parameters(), *loop.optimizer.tensors().values()]}
    assert seen and all(some == {"torch.bfloat16"} for some in seen) and kept == {"torch.float32"}
    return {"apart": abs(found[1]["loss"] - wanted[1]["loss"]) / wanted[1]["loss"]}


def test_blocks_compute_in_half_precision_and_shards_stay_in_float32(model: str):
    assert all(rank["apart"] < 0.02 for rank in run_ranks(2, in_half_precision, model))


def adapt_a_base_in_half_precision(model: str) -> dict[str, float]:
    """Two steps of adapters on a frozen base in bfloat16, in both placements: how far their losses are apart."""
    losses, kinds = [], set()
    for parallel in ("fsdp", "ddp"):
        encoder, rows, loop = make_parts(24, 12, model=model, parallel=parallel, dropout=0.0, batch_size=16)
        encoder.transformer.to(torch.bfloat16)
        attach_adapters(encoder, LoraConfig(rank=4), 7)
        step = TrainStep(encoder, TypeAdapter(AnyLoss).validate_python(CONTRASTIVE), rows, loop)
        losses.append([report["loss"] for report in train(step, 0, 2)])
        kinds |= {(value.requires_grad, str(value.dtype)) for value in step.module.parameters()}
    assert kinds == {(True, "torch.float32"), (False, "torch.bfloat16")}
    return {"apart": max(abs(ours / theirs - 1) for ours, theirs in zip(*losses, strict=True))}


def test_adapters_on_a_base_in_half_precision_are_shared_with_it(model: str):
    assert all(rank["apart"] < 0.01 for rank in run_ranks(2, adapt_a_base_in_half_precision, model))


def encode_together(model: str) -> None:
    """Vectors of texts that only some ranks have, next to those of an encoder of one's own."""
    alone = make_parts(24, 12, model=model)[0].double()
    placed = FullySharded(
        make_parts(24, 12, budget=16, model=model)[0].double(), {}, torch.float64, torch.device("cpu")
    )
    shared = placed.text_encoder(placed.model)
    assert isinstance(shared, SharedEncoder) and shared.similarity == alone.similarity
    for texts in ([TEXTS, []], [[], TEXTS[:1]], [[""], TEXTS], [[], []], [TEXTS[:2], TEXTS[1:]]):
        mine = texts[dist.get_rank()]
        found = shared.encode(mine, "document")
        assert found.shape == (len(mine), alone.dim)
        np.testing.assert_allclose(found, alone.encode(mine, "document"), rtol=0, atol=1e-6)


def test_all_ranks_encode_together_whatever_texts_each_has(model: str):
    run_ranks(2, encode_together, model)


NAMES = ("LayerNorm.weight", "scalars.log_scale", "1.attention.self.query.weight")


def next_gradient(loop: TrainStep, step: int) -> dict[str, torch.Tensor]:
    work = next(loop.load_batch(ref) for number, ref in loop.plan(step) if number == step)
    loop.module.train()
    loop.backward(work, step)
    named = dict(loop.module.named_parameters())
    return {name: whole(value.grad).clone() for name, value in named.items() if name.endswith(NAMES)}


def stop_and_go_on(model: str, folder: str) -> dict[str, torch.Tensor]:
    """Two steps, a checkpoint, two more; another loop goes on from there. Returns the third step's gradient."""
    config = {"average": {"type": "mean", "start": 0.0}, "dtype": torch.float32}
    first, second, third = (make(model, "fsdp", **config | {"dropout": rate}) for rate in (0.1, 0.1, 0.0))
    train(first, 0, 2)
    first.state(Progress(2, "plan")).write(Path(folder))
    dist.barrier()
    train(first, 2, 4)
    assert second.state(Progress(0, "plan")).read(Path(folder)).step == 2
    train(second, 2, 4)
    for name, value in first.module.named_parameters():
        assert torch.equal(local_rows(value), local_rows(dict(second.module.named_parameters())[name])), name
    for name, value in first.average.values.items():
        assert torch.equal(local_rows(value), local_rows(second.average.values[name])), name
    third.state(Progress(0, "plan")).read(Path(folder))
    return next_gradient(third, 2)


def go_on(model: str, folder: str, parallel: str) -> dict[str, torch.Tensor]:
    """The gradient of the third step, and what the optimiser makes of it."""
    loop = make(model, parallel, average={"type": "mean", "start": 0.0}, dtype=torch.float32)
    loop.state(Progress(0, "plan")).read(Path(folder))
    found = next_gradient(loop, 2)
    train(loop, 2, 3)
    named = dict(loop.module.named_parameters())
    weights = {f"after/{name}": whole(value.detach()) for name, value in named.items() if name.endswith(NAMES)}
    return found | weights


def agree(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    for name, value in wanted.items():
        assert (found[name] - value).norm() <= 2e-5 * value.norm(), name


def test_a_run_goes_on_as_it_was_and_with_another_number_of_ranks(model: str, tmp_path: Path):
    """Bit for bit with as many ranks; by rounding alone with more, with one, and with ranks that hold weights whole."""
    wanted = run_ranks(2, stop_and_go_on, model, str(tmp_path))[0]
    assert all(value.norm() > 0 for value in wanted.values()) and len(wanted) > 5
    files = {part_name(name, rank, 2) for name in (WEIGHTS, OPTIMIZER, "average.safetensors") for rank in (0, 1)}
    assert {path.name for path in tmp_path.iterdir()} == files | {"state.json"} and find_damage(tmp_path) == ""
    alone = go_on(model, str(tmp_path), "fsdp")
    agree(alone, wanted)
    for size, parallel in ((4, "fsdp"), (2, "ddp")):
        for rank in run_ranks(size, go_on, model, str(tmp_path), parallel):
            agree(rank, alone)
    final = EmbedModule(make_parts(24, 12, model=model)[0], {"log_scale": 0.0})
    load_weights(final, tmp_path)
    loop = make(model, "ddp", average={"type": "mean", "start": 0.0}, dtype=torch.float32)
    loop.state(Progress(0, "plan")).read(tmp_path)
    for name, value in final.named_parameters():
        if value.requires_grad:
            assert torch.equal(value, loop.average.values[name]), name
    (tmp_path / part_name(WEIGHTS, 1, 2)).unlink()
    assert find_damage(tmp_path) == f"{part_name(WEIGHTS, 1, 2)} is missing"


def test_ranks_that_share_weights_go_on_from_those_that_held_them_whole(model: str, tmp_path: Path):
    loop = make(model, "ddp", average={"type": "mean", "start": 0.0}, dtype=torch.float32)
    train(loop, 0, 2)
    loop.state(Progress(2, "plan")).write(tmp_path)
    wanted = go_on(model, str(tmp_path), "ddp")
    for rank in run_ranks(2, go_on, model, str(tmp_path), "fsdp"):
        agree(rank, wanted)


@pytest.mark.parametrize(("family", "count"), [("bert", 3), ("qwen3", 3), ("t5", 3), ("albert", 0)])
def test_the_blocks_of_a_transformer_are_its_layers(tmp_path: Path, family: str, count: int):
    encoder = Encoder.load(EncoderConfig(model=zoo.base(family, tmp_path), dtype="float32"), "cpu")
    found = blocks(encoder.transformer)
    assert len(found) == count and len({type(part) for part in found}) == min(count, 1)


def test_what_cannot_be_shared_is_refused_in_one_line(tmp_path: Path):
    encoder = Encoder.load(EncoderConfig(model=zoo.make("static", tmp_path)), "cpu")
    with pytest.raises(UserError, match=r"loop.parallel fsdp: .* set ddp"):
        FullySharded(encoder, {}, torch.float32, torch.device("cpu"))
    for config, words in (
        ({"compile": True}, "leave one of them out"),
        ({"precision": "float16"}, "takes precision bfloat16 or float32"),
        ({"parallel": "zero"}, "'ddp' or 'fsdp'"),
    ):
        with pytest.raises(ValidationError, match=words):
            LoopConfig(**{"parallel": "fsdp", **config})
