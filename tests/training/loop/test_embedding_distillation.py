"""Distillation of embeddings: a small student comes nearer to its teacher, whose vectors were stored; it resumes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.core.errors import UserError
from pipeline.encoder.encoder import Encoder, EncoderConfig
from tests.support.loop import MemoryStore, make_parts
from training.data.guide_vectors import Guide
from training.data.rows import Rows
from training.loop.checkpoint import CheckpointConfig
from training.loop.step import TrainStep
from training.loop.trainer import Trainer
from training.losses.any_loss import check_rows
from training.losses.embedding_mse import EmbeddingMSE
from training.losses.infonce import InfoNCE
from training.losses.loss import Loss, local_batch
from training.losses.matryoshka import Matryoshka
from training.losses.relative_distillation import RelativeDistillation

LOSSES = [EmbeddingMSE(), RelativeDistillation(tile=7)]


def taught(loss: Loss, **config) -> tuple[TrainStep, Rows, np.ndarray]:
    """Two layers that learn from all six; the vectors of the teacher are those of its texts, one without."""
    student, rows, settings = make_parts(16, 12, **{"dropout": 0.1, "learning_rate": 5e-4, **config})
    teacher = Encoder.load(EncoderConfig(max_length=12, dtype="float32", backend="torch"), "cpu")
    negatives = [text for row in rows.negatives for text in row]
    vectors = np.concatenate(
        [teacher.encode(rows.anchors, "query"), teacher.encode([*rows.positives, *negatives], "document")]
    )
    stored = np.concatenate([vectors, np.full((1, vectors.shape[1]), np.nan, np.float32)]).astype(np.float16)
    index = np.arange(48)
    index[5] = 48
    guide = Guide(stored, index[:16], index[16:32], [index[i : i + 1] for i in range(32, 48)])
    return TrainStep(student, loss, replace(rows, guide=guide), settings), rows, vectors


def apart(loop: TrainStep, rows: Rows, vectors: np.ndarray) -> tuple[float, float]:
    """Mean 1 - cosine to the teacher, and root mean square difference of the cosines of all pairs."""
    encoder, negatives = loop.module.encoder, [text for row in rows.negatives for text in row]
    ours = np.concatenate(
        [encoder.encode(rows.anchors, "query"), encoder.encode([*rows.positives, *negatives], "document")]
    )
    return 1 - float((ours * vectors).sum(axis=1).mean()), float(
        ((ours @ ours.T - vectors @ vectors.T) ** 2).mean() ** 0.5
    )


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.type)
def test_a_student_comes_nearer_to_its_teacher(loss):
    loop, rows, vectors = taught(loss, max_steps=30, epochs=30, schedule="constant")
    before, first, last = apart(loop, rows, vectors), None, {}
    for step, ref in loop.plan(0):
        last = loop.step(loop.load_batch(ref), step)
        first = first or last
    after = apart(loop, rows, vectors)
    measure = 0 if isinstance(loss, EmbeddingMSE) else 1
    assert after[measure] < 0.6 * before[measure] and last["loss"] < 0.6 * first["loss"]
    assert 0.9 < last["taught"] < 1, "one text has no vector"
    if measure == 0:
        assert first["teacher_cosine"] < last["teacher_cosine"] < 1


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.type)
def test_a_run_that_goes_on_is_the_run_that_never_stopped(loss, tmp_path: Path):
    config = {"max_steps": 4, "epochs": 4, "validations": 0}
    whole, _, _ = taught(loss, **config)
    Trainer(whole, MemoryStore(tmp_path / "all"), None, "plan", checkpoints=CheckpointConfig(steps=2)).run()
    (tmp_path / "all" / "4").rename(tmp_path / "4")
    second, _, _ = taught(loss, **config)
    store = MemoryStore(tmp_path / "all")
    Trainer(second, store, None, "plan", checkpoints=CheckpointConfig(steps=2)).run()
    assert store.steps == [4]
    for name, value in whole.module.named_parameters():
        assert torch.equal(value, dict(second.module.named_parameters())[name]), name


def batch_of(width: int, guide_width: int):
    torch.manual_seed(2)
    vectors = [torch.randn(6, width, requires_grad=True) for _ in range(2)]
    guide = [torch.randn(6, guide_width).half() for _ in range(2)]
    return local_batch(*vectors, query_guide=guide[0], positive_guide=guide[1]), vectors, guide


def test_the_formulas():
    batch, (query, positive), guide = batch_of(8, 8)
    student, teacher = torch.cat([query, positive]), torch.cat(guide).float()
    torch.testing.assert_close(EmbeddingMSE(normalize=False)(batch, {}).loss, F.mse_loss(student, teacher))
    expected = F.mse_loss(F.normalize(student, dim=1), F.normalize(teacher, dim=1))
    torch.testing.assert_close(EmbeddingMSE()(batch, {}).loss, expected)
    wide, (query, positive), guide = batch_of(8, 20)
    cosines = [
        F.normalize(x, dim=1) @ F.normalize(x, dim=1).T
        for x in (torch.cat([query, positive]), torch.cat(guide).float())
    ]
    for tile in (None, 1, 5, 99):
        torch.testing.assert_close(RelativeDistillation(tile=tile)(wide, {}).loss, F.mse_loss(*cosines))


def test_a_teacher_of_another_width_is_refused_and_padding_is_not():
    with pytest.raises(UserError, match="the teacher's vectors are 20 wide, the model's 8"):
        EmbeddingMSE()(batch_of(8, 20)[0], {})
    batch, _, guide = batch_of(6, 6)
    padded = replace(batch, query_guide=F.pad(guide[0], (0, 2)), positive_guide=F.pad(guide[1], (0, 2)))
    torch.testing.assert_close(EmbeddingMSE()(padded, {}).loss, EmbeddingMSE()(batch, {}).loss)
    with pytest.raises(UserError, match="8 wide"):
        EmbeddingMSE()(replace(batch, query_guide=F.pad(guide[0], (0, 2), value=1.0), positive_guide=None), {})


def test_what_a_recipe_lacks_is_named():
    with pytest.raises(UserError, match="embedding_mse: needs vectors of a teacher; give guide"):
        check_rows(EmbeddingMSE(), ["pairs"])
    with pytest.raises(UserError, match=r"guide: no loss uses it.*embedding_mse, relative_distillation"):
        check_rows(InfoNCE(), ["pairs"], guided=True)
    check_rows(EmbeddingMSE(), ["pairs", "labelled"], guided=True)
    with pytest.raises(UserError, match="the training rows have no vectors of a teacher"):
        RelativeDistillation()(local_batch(torch.ones(2, 4), torch.ones(2, 4)), {})
    with pytest.raises(ValueError, match="under matryoshka take relative_distillation"):
        Matryoshka(loss=EmbeddingMSE(), dims=[4])
