"""Static encoders: the format of Sentence Transformers both ways, made out of a transformer, trained by the loop."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from pipeline.core.errors import UserError
from pipeline.encoder.distillation import distill, principal_components, sif_weights
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.encoder.static_encoder import StaticTable
from tests.support import zoo

TEXTS = ["wireless headphones", "", "Bluetooth earbuds with a charging case. " * 40, "running shoes", "x"] * 3


@pytest.fixture(scope="module")
def saved(tmp_path_factory, minilm):
    encoder = Encoder.load(EncoderConfig(layers=1, dtype="float32"), "cpu")
    static = distill(encoder, 64, "embeddings")
    path = tmp_path_factory.mktemp("static") / "model"
    static.save(path)
    return path


def load(path, **settings) -> Encoder:
    return Encoder.load(EncoderConfig(model=str(path), **settings), "cpu")


def test_sentence_transformers_loads_ours_and_agrees(saved):
    peer = pytest.importorskip("sentence_transformers")
    ours, theirs = load(saved).encode(TEXTS, "document"), peer.SentenceTransformer(str(saved), device="cpu")
    assert np.abs(ours - theirs.encode(TEXTS)).max() < 1e-6
    assert not ours[1].any() and np.linalg.norm(ours[0]) == pytest.approx(1, abs=1e-6)


def test_we_load_theirs(saved, tmp_path):
    peer = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    table = torch.randn(30522, 16, generator=torch.Generator().manual_seed(1))
    module = StaticEmbedding(Tokenizer.from_file(str(saved / "tokenizer.json")), embedding_weights=table)
    theirs = peer.SentenceTransformer(modules=[module], device="cpu")
    theirs.save(str(tmp_path / "theirs"))
    ours = load(tmp_path / "theirs")
    assert np.abs(ours.encode(TEXTS, "query") - theirs.encode(TEXTS)).max() < 1e-5
    assert ours.dim == 16 and not ours.normalize


def test_length_and_prompts_travel_with_the_directory(saved, tmp_path):
    first = load(saved, max_length=8, prompts={"query": "find: "})
    first.save(tmp_path / "cut")
    again = load(tmp_path / "cut")
    assert again.max_length == 8 and again.prompts["query"] == "find: "
    assert np.array_equal(again.encode(TEXTS, "query"), first.encode(TEXTS, "query"))
    assert again.identity["weights"] != load(saved).identity["weights"]  # the tokenizer cuts elsewhere
    assert max(map(len, again.tokenize(TEXTS, "document"))) == 8


def test_gradients_reach_the_tokens_of_the_texts_alone(saved):
    encoder = load(saved)
    tokens = encoder.tokenize(["kettle lamp", "mug"], "document")
    encoder.encode_tokens(tokens).sum().backward()
    touched = encoder.transformer.embedding.weight.grad.abs().sum(1).nonzero().ravel().tolist()
    assert sorted(touched) == sorted({token for row in tokens for token in row})


def test_leading_tokens_can_be_left_out(saved):
    table = StaticTable(torch.eye(4))
    assert table([[0, 1, 2], [3]], [1, 0]).tolist() == [[0, 0.5, 0.5, 0], [0, 0, 0, 1]]


def test_the_trainer_trains_it_with_its_losses(saved):
    from training.data.rows import rows_from
    from training.loop.step import LoopConfig, TrainStep
    from training.losses.infonce import InfoNCE

    encoder, rows = load(saved), range(32)
    table = pa.table(
        {
            "anchor_id": [f"q{row}" for row in rows],
            "anchor": [f"kettle {row}" for row in rows],
            "positive_id": [f"p{row}" for row in rows],
            "positive": [f"lamp number {row}" for row in rows],
        }
    )
    loop = TrainStep(encoder, InfoNCE(), rows_from(table, {}), LoopConfig(batch_size=16, epochs=6, learning_rate=0.05))
    losses = [loop.step(loop.load_batch(batch), step)["loss"] for step, batch in loop.plan(0)]
    assert losses[-1] < 0.7 * losses[0]


def test_distillation_keeps_what_is_near(minilm):
    encoder = Encoder.load(EncoderConfig(layers=1, dtype="float32"), "cpu")
    static = distill(encoder, 128, "embeddings")
    wool, sheep, bolt = static.encode(["woolen sheep", "lamb wool", "steel bolts"], "document")
    assert wool @ sheep > wool @ bolt
    with pytest.raises(UserError, match="dim 500 is more than the model's 384"):
        distill(encoder, 500, "embeddings")


def test_principal_directions_and_weights():
    rng = np.random.default_rng(2)
    points = rng.normal(size=(500, 3)).astype(np.float32) * [5, 1, 0.1]
    turned = principal_components(points, 2)
    assert turned.shape == (500, 2) and turned[:, 0].std() == pytest.approx(points[:, 0].std(), rel=1e-3)
    light = sif_weights(1000)
    assert (np.diff(light) > 0).all() and 0 < light[0] < light[-1] < 1


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"embeddings": torch.ones(9, 4), "weights": torch.ones(8)}, r"embeddings \[9, 4\], weights \[8\]"),
        (
            {"embeddings": torch.ones(9, 4), "mapping": torch.full((30,), 9)},
            r"do not fit together \(embeddings \[9, 4\]",
        ),
        ({"embeddings": torch.ones(9)}, r"are no table of a vector a token \(embeddings \[9\]\)"),
    ],
)
def test_weights_that_do_not_fit_together_are_one_line(tmp_path, tensors, words):
    path = Path(zoo.make("model2vec", tmp_path))
    save_file(tensors, path / "model.safetensors")
    with pytest.raises(UserError, match=words) as error:
        load(path)
    assert "\n" not in str(error.value)
