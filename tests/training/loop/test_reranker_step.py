"""The step of a reranker: the gradient of one process on any number of ranks, and exact resume."""

from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter

from tests.support.loop import MemoryStore
from tests.support.ranks import run_ranks
from tests.support.rerankers import load, make_step
from training.loop.trainer import Trainer
from training.losses.registry import RerankerLoss

LOSSES = {
    "listwise": {"type": "listwise"},
    "list_net": {"type": "list_net", "temperature": 0.7},
    "binary_cross_entropy": {"type": "bce", "pos_weight": 3.0},
    "margin_mse": {"type": "margin_mse"},
    "kl": {"type": "kl"},
}


def loss_of(name: str):
    return TypeAdapter(RerankerLoss).validate_python(LOSSES[name]).follow("dot", unit_length=False)


def gradients(folder: str, minilm: str, cases: list[tuple[str, int | None]], parts: int):
    """Loss and gradient, in float64, of a batch of 14 rows dealt to the first `parts` ranks; others have none."""
    found = []
    for name, cache in cases:
        step = make_step(load(Path(folder), minilm).double(), loss_of(name), cache_tokens=cache)
        step.module.train()
        whole = step.feed.rank_rows
        step.feed.rank_rows = lambda ref, rank, ranks, deal=whole: deal(ref, rank, parts)
        batch = step.load_batch(step.feed.first)
        report = step.backward(batch, 0)
        grads = [value.grad.reshape(-1) for value in step.module.parameters()]
        found.append({"loss": report["loss"], "rows": len(batch.rows), "grad": torch.cat(grads)})
    return found


@pytest.mark.parametrize(("size", "parts"), [(2, 2), (3, 3), (3, 2)])
def test_ranks_give_the_one_process_gradient(tmp_path, minilm, size, parts):
    load(tmp_path, minilm)
    whole = gradients(str(tmp_path), minilm, [(name, None) for name in LOSSES], 1)
    cases = [(name, cache) for cache in (None, 48) for name in LOSSES]
    ranks = run_ranks(size, gradients, str(tmp_path), minilm, cases, parts)
    rows = [rank[0]["rows"] for rank in ranks]
    assert (rows[-1] == 0) == (parts < size) and (size == 2 or len(set(rows)) > 1), "three ranks have unequal rows"
    for number, steps in enumerate(zip(*ranks, strict=True)):
        expected = whole[number % len(whole)]
        assert sum(step["rows"] for step in steps) == expected["rows"] == 14
        assert expected["grad"].norm() > 1e-4, f"{cases[number]}: no gradient to compare"
        for step in steps:
            assert step["loss"] == pytest.approx(expected["loss"], rel=1e-5)
            torch.testing.assert_close(step["grad"], expected["grad"], rtol=1e-7, atol=1e-9)


def test_chunks_change_no_gradient_with_dropout(tmp_path, minilm):
    found = []
    for ways in ({}, {"gradient_checkpointing": True}):
        step = make_step(load(tmp_path, minilm), loss_of("listwise"), dropout=0.2, **ways)
        step.module.double().train()
        torch.manual_seed(3)
        step.backward(step.load_batch(step.feed.first), 0)
        found.append(torch.cat([value.grad.reshape(-1) for value in step.module.parameters()]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-12)


def test_a_score_depends_on_the_pair_alone(tmp_path, minilm):
    """Scores of a step are those of the same texts by themselves: joined, padded and batched otherwise."""
    model = load(tmp_path, minilm)
    step = make_step(model, loss_of("listwise"), batch_negatives=0)
    step.module.eval()
    work = step.load_batch(step.feed.first)
    with torch.no_grad():
        batch = step.embed(work, 0)
    rows = step.readable_rows(work)
    positive = [float(model.score([row["query"]], [row["positive"]])[0]) for row in rows]
    negative = [float(model.score([row["query"]], [text])[0]) for row in rows for text in row["negatives"]]
    torch.testing.assert_close(batch.positive[:, 0], torch.tensor(positive), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(batch.negative[:, 0], torch.tensor(negative), rtol=1e-4, atol=1e-5)
    assert torch.equal(batch.query, torch.ones(14, 1)) and torch.equal(batch.score, torch.ones(14))


class Killed(Exception):
    """The end of a process."""


class DyingStore(MemoryStore):
    """A store whose process ends right after the checkpoint of step 4."""

    def save(self, metrics, state, **how):
        super().save(metrics, state, **how)
        if metrics["step"] == 4:
            raise Killed


def test_a_run_that_is_killed_goes_on_with_the_same_bits(tmp_path, minilm):
    def trainer(store: MemoryStore) -> Trainer:
        store.folder.mkdir(exist_ok=True)
        settings = {"epochs": 6, "learning_rate": 1e-3, "dropout": 0.1, "validations": 3}
        return Trainer(
            make_step(load(tmp_path, minilm), loss_of("binary_cross_entropy"), **settings), store, None, "plan"
        )

    whole = trainer(MemoryStore(tmp_path / "whole"))
    whole.run()
    assert whole.store.steps == [2, 4, 6]
    with pytest.raises(Killed):
        trainer(DyingStore(tmp_path / "parts")).run()
    parts = trainer(MemoryStore(tmp_path / "parts"))
    parts.run()
    assert parts.store.steps == [6], "it went on after step 4"
    ends = (made.train_step.module.named_parameters() for made in (whole, parts))
    for (name, one), (_, two) in zip(*ends, strict=True):
        assert torch.equal(one, two), name
