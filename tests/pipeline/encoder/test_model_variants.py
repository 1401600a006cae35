"""Models in less usual forms, prompts by any name, a shorter width: each as Sentence Transformers has it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from pipeline.core.errors import UserError
from pipeline.encoder.encoder import Encoder, EncoderConfig
from tests.support import zoo
from tests.support.loop import make_parts
from training.loop.step import LoopConfig, TrainStep
from training.losses.infonce import InfoNCE

peers = pytest.importorskip("sentence_transformers")


def load(path: str | Path, **settings) -> Encoder:
    return Encoder.load(EncoderConfig(model=str(path), dtype="float32", backend="torch", **settings), "cpu")


def peer(path: str | Path, **settings):
    return peers.SentenceTransformer(str(path), device="cpu", **settings)


def nearest(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The lowest cosine of two sets of vectors."""
    assert ours.shape == theirs.shape
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return float(((ours * theirs).sum(axis=1) / lengths).min())


def test_a_role_takes_a_prompt_by_any_name_and_the_others_stay(tmp_path: Path):
    path = zoo.make("EmbeddingGemma", tmp_path)
    encoder = load(path, prompt_names={"query": "STS"})
    theirs = peer(path)
    assert nearest(encoder.encode(zoo.TEXTS, "query"), theirs.encode(zoo.TEXTS, prompt_name="STS")) > 0.99999
    assert nearest(encoder.encode(zoo.TEXTS, "document"), theirs.encode_document(zoo.TEXTS)) > 0.99999
    assert nearest(encoder.encode(zoo.TEXTS, "query"), theirs.encode_query(zoo.TEXTS)) < 0.9999
    encoder.save(tmp_path / "saved")
    saved = peer(tmp_path / "saved")
    assert saved.prompts == theirs.prompts | {"query": theirs.prompts["STS"]}
    assert nearest(encoder.encode(zoo.TEXTS, "query"), saved.encode_query(zoo.TEXTS)) > 0.99999


def test_a_prompt_that_stands_for_another_is_saved_where_sentence_transformers_looks_for_it(tmp_path: Path):
    path = Path(zoo.make("bert, mean", tmp_path))
    (path / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"passage": "passage: "}}))
    encoder = load(path)
    encoder.save(tmp_path / "saved")
    saved = peer(tmp_path / "saved")
    assert saved.prompts == {"query": "", "document": "passage: ", "passage": "passage: "}
    assert nearest(encoder.encode(zoo.TEXTS, "document"), saved.encode_document(zoo.TEXTS)) > 0.99999


@pytest.mark.parametrize("causal", [True, False])
def test_a_plain_causal_language_model_gives_its_last_token(tmp_path: Path, causal: bool):
    path = Path(zoo.base("llama", tmp_path / "plain"))
    zoo.edit(path / "config.json", architectures=["LlamaForCausalLM"], is_causal=causal)
    encoder, theirs = load(path), peer(path)
    assert encoder.pooling == theirs[1].pooling_mode == ("lasttoken" if causal else "mean")
    assert nearest(encoder.encode(zoo.TEXTS, "query"), theirs.encode_query(zoo.TEXTS)) > 0.99999
    encoder.save(tmp_path / "saved")
    assert nearest(encoder.encode(zoo.TEXTS, "query"), peer(tmp_path / "saved").encode_query(zoo.TEXTS)) > 0.99999


@pytest.mark.parametrize("split", [True, False])
def test_special_tokens_in_a_text_are_split_as_the_tokenizer_says(tmp_path: Path, split: bool):
    path = Path(zoo.make("bert, mean", tmp_path))
    zoo.edit(path / "tokenizer_config.json", split_special_tokens=split)
    texts = ["a lamp [SEP] a desk", "[CLS]"]
    assert nearest(load(path).encode(texts, "query"), peer(path).encode_query(texts)) > 0.99999
    assert (load(path).whole_lengths(texts, "query") == [13, 3]) == (not split)


def test_a_model_whose_configuration_asks_for_tuples_is_as_any_other(tmp_path: Path):
    path = Path(zoo.make("bert, mean", tmp_path))
    expected = load(path).encode(zoo.TEXTS, "query")
    zoo.edit(path / "config.json", return_dict=False, output_hidden_states=True)
    assert nearest(load(path).encode(zoo.TEXTS, "query"), expected) > 0.99999


@pytest.mark.parametrize("layout", ["bert, mean", "static"])
def test_a_token_without_a_vector_is_named(tmp_path: Path, layout: str):
    path = Path(zoo.make(layout, tmp_path))
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.add_tokens(["desk lamp"])
    tokenizer.save(str(path / "tokenizer.json"))
    encoder = load(path)
    assert len(encoder.encode(["a lamp"], "document")) == 1
    with pytest.raises(UserError, match=f"text 'a desk lamp': has token 'desk lamp', number {zoo.VOCABULARY}, but"):
        encoder.encode(["a desk lamp"], "document")


def test_a_width_that_is_asked_for_is_that_of_the_peer_and_is_saved(tmp_path: Path):
    path = zoo.make("EmbeddingGemma", tmp_path)
    encoder = load(path, truncate_dim=8)
    assert encoder.dim == 8 and encoder.identity["truncate_dim"] == "8"
    assert (
        nearest(encoder.encode(zoo.TEXTS, "document"), peer(path, truncate_dim=8).encode_document(zoo.TEXTS)) > 0.9999
    )
    encoder.save(tmp_path / "saved")
    assert nearest(encoder.encode(zoo.TEXTS, "document"), peer(tmp_path / "saved").encode_document(zoo.TEXTS)) > 0.9999


def train(encoder: Encoder) -> None:
    """Two steps."""
    settings = LoopConfig(batch_size=8, max_steps=2, learning_rate=1e-2, precision="float32", epochs=2)
    step = TrainStep(encoder, InfoNCE(), make_parts(12, 12)[1], settings)
    for index, ref in step.plan(0):
        step.step(step.load_batch(ref), index)


def test_a_folder_that_is_an_adapter_alone_is_trained_and_saved_whole(tmp_path: Path):
    path = Path(zoo.make("adapter", tmp_path))
    (path / "modules.json").unlink()
    (path / "config_sentence_transformers.json").unlink()
    shutil.rmtree(path / "1_Pooling")
    encoder = load(path)
    assert nearest(encoder.encode(zoo.TEXTS, "document"), peer(path).encode(zoo.TEXTS)) > 0.99999
    before = encoder.encode(zoo.TEXTS, "document")
    train(encoder)
    assert nearest(encoder.encode(zoo.TEXTS, "document"), before) < 0.9999
    encoder.save(tmp_path / "saved")
    assert nearest(encoder.encode(zoo.TEXTS, "document"), peer(tmp_path / "saved").encode(zoo.TEXTS)) > 0.99999


def test_model2vec_as_it_stands_on_the_hub(tmp_path: Path):
    """Tensors under the key `embeddings` and a list of modules, without any other file of settings."""
    place = tmp_path / "potion"
    place.mkdir()
    torch.manual_seed(5)
    save_file({"embeddings": torch.randn(zoo.VOCABULARY, zoo.WIDTH)}, place / "model.safetensors")
    zoo.tokenizer().backend_tokenizer.save(str(place / "tokenizer.json"))
    kinds = [("0", ".", "StaticEmbedding"), ("1", "1_Normalize", "Normalize")]
    listed = [
        {"idx": i, "name": name, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (name, path, kind) in enumerate(kinds)
    ]
    (place / "modules.json").write_text(json.dumps(listed))
    assert nearest(load(place).encode(zoo.TEXTS, "document"), peer(place).encode(zoo.TEXTS)) > 0.99999


def test_files_that_may_decide_a_vector_are_carried_over_and_copies_for_other_runtimes_are_not(tmp_path: Path):
    path = Path(zoo.make("bert, mean", tmp_path))
    for name in ("vocab_extra.txt", "own/code.py", "onnx/model.onnx", "openvino/openvino_model.xml"):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text("kept?")
    load(path).save(tmp_path / "saved")
    names = {file.relative_to(tmp_path / "saved").as_posix() for file in (tmp_path / "saved").rglob("*")}
    assert {"vocab_extra.txt", "own/code.py"} <= names
    assert not {"onnx/model.onnx", "openvino/openvino_model.xml"} & names, "they hold the weights from before"


def test_a_revision_is_of_a_model_on_the_hub(tmp_path: Path):
    with pytest.raises(
        UserError, match=r"encoder\.revision v2: .* is a directory; a revision is of a model on the hub"
    ):
        load(zoo.make("bert, mean", tmp_path), revision="v2")
