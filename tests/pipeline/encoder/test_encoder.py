"""The encoder: Sentence Transformers gives the same vectors for what we load and what we save."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pipeline.core.errors import UserError
from pipeline.encoder import token_batches
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.encoder.tokenizer import FastTokenizer

TEXTS = ["wireless headphones", "", "x", "Bluetooth earbuds with a charging case. " * 40, "running shoes"] * 5
PROMPTS = {"query": "search: ", "document": "passage: "}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "saved"
    encoder = Encoder.load(EncoderConfig(layers=2, max_length=64, prompts=PROMPTS, dtype="float32"), "cpu")
    encoder.save(path)
    return encoder, path


@pytest.mark.parametrize("role", ["query", "document"])
def test_sentence_transformers_agrees_prompts_included(saved, role):
    peer = pytest.importorskip("sentence_transformers")
    encoder, path = saved
    ours = encoder.encode(TEXTS, role)
    theirs = peer.SentenceTransformer(str(path), device="cpu").encode(TEXTS, prompt_name=role)
    assert ((ours * theirs).sum(axis=1)).min() >= 0.99999
    assert np.linalg.norm(ours, axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-5)


def test_excluded_prompts_agree_too(saved, tmp_path):
    peer = pytest.importorskip("sentence_transformers")
    path = tmp_path / "model"
    shutil.copytree(saved[1], path)
    config = json.loads((path / "1_Pooling" / "config.json").read_text())
    (path / "1_Pooling" / "config.json").write_text(json.dumps(config | {"include_prompt": False}))
    ours = Encoder.load(EncoderConfig(model=str(path), dtype="float32"), "cpu").encode(TEXTS, "query")
    theirs = peer.SentenceTransformer(str(path), device="cpu").encode(TEXTS, prompt_name="query")
    assert ((ours * theirs).sum(axis=1)).min() >= 0.99999
    assert (ours * saved[0].encode(TEXTS, "query")).sum(axis=1).min() < 0.999


def test_what_was_saved_loads_the_same(saved):
    encoder, path = saved
    again = Encoder.load(EncoderConfig(model=str(path), dtype="float32"), "cpu")
    assert np.array_equal(again.encode(TEXTS, "document"), encoder.encode(TEXTS, "document"))
    assert again.prompts == PROMPTS
    assert again.max_length == 64


def test_identity_changes_with_all_that_decides_a_vector(saved):
    path = str(saved[1])
    configs = [
        EncoderConfig(model=path, dtype="float32"),
        EncoderConfig(model=path, dtype="bfloat16"),
        EncoderConfig(model=path, dtype="float32", max_length=32),
        EncoderConfig(model=path, dtype="float32", prompts={"query": "other: "}),
        EncoderConfig(model=path, dtype="float32", layers=1),
    ]
    identities = [json.dumps(Encoder.load(config, "cpu").identity, sort_keys=True) for config in configs]
    assert len(set(identities)) == len(configs)


def test_a_remote_directory_holds_the_same_model(saved, tmp_path):
    encoder, _ = saved
    encoder.save("memory://models/tuned", "# A card\n")
    again = Encoder.load(EncoderConfig(model="memory://models/tuned", dtype="float32"), "cpu")
    assert np.array_equal(again.encode(TEXTS, "query"), encoder.encode(TEXTS, "query"))
    with pytest.raises(UserError, match="no such directory, or it is empty"):
        Encoder.load(EncoderConfig(model="memory://models/none"), "cpu")


@pytest.mark.parametrize(
    ("remove", "words"),
    [
        (["tokenizer.json", "tokenizer_config.json", "vocab.txt"], "has no tokenizer"),
        (["model.safetensors"], "has no *.safetensors"),
        (["config.json", "modules.json"], "holds no config.json"),
    ],
)
def test_broken_model_directories_are_named_in_one_line(saved, tmp_path, remove, words):
    path = tmp_path / "model"
    shutil.copytree(saved[1], path)
    for name in remove:
        (path / name).unlink(missing_ok=True)
    with pytest.raises(UserError, match=words.replace("*", r"\*")) as error:
        Encoder.load(EncoderConfig(model=str(path)), "cpu")
    assert "\n" not in str(error.value)


def test_missing_directory_and_too_long_are_refused(saved):
    with pytest.raises(UserError, match="no such directory"):
        Encoder.load(EncoderConfig(model="./nowhere/model"), "cpu")
    with pytest.raises(UserError, match="beyond the model's 512"):
        Encoder.load(EncoderConfig(max_length=1000), "cpu")


@pytest.mark.parametrize("budget", [64, 1000, 8192])
def test_chunks_partition_within_the_budget(budget):
    lengths = np.random.default_rng(0).integers(1, 60, 500)
    batches = token_batches.padded_batches(lengths, budget, min_tokens=256)
    assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    assert all(int(lengths[c].max()) * len(c) <= budget for c in batches)
    wide = [c for c in batches if int(lengths[c].max()) * len(c) > 256]
    assert all(token_batches.padding_share(lengths[c], [np.arange(len(c))]) <= 0.1 for c in wide)


def test_chunks_take_a_text_beyond_the_budget_alone():
    assert [c.tolist() for c in token_batches.padded_batches([5, 900, 5], 100)] == [[1], [0, 2]]
    assert token_batches.padded_batches([], 100) == []


def test_token_ids_are_those_of_the_tokenizer(minilm):
    """The fast way around transformers gives what its own call does, whatever was asked of the tokenizer between."""
    encoder = Encoder.load(EncoderConfig(model=minilm, max_length=16, prompts=PROMPTS), "cpu")
    texts = [*TEXTS, "[SEP] in a text [MASK]", "Ünïcödé 漢字 \u200b\ud83d", "tab\tand\nline", "x" * 500, "   "]
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    ids = encoder.tokenize(texts, "query")
    encoder.tokenizer(texts, truncation=True, max_length=5, padding=True)
    assert encoder.tokenize(texts, "query") == ids
    prompted = [PROMPTS["query"] + text for text in texts]
    assert ids == encoder.tokenizer(prompted, truncation=True, max_length=16, padding=False)["input_ids"]
    slow = FastTokenizer(WithoutFast(encoder.tokenizer), 16)
    assert slow.fast is None and slow(prompted) == ids


class WithoutFast:
    """A tokenizer that has no fast form."""

    def __init__(self, tokenizer):
        self.call = tokenizer

    def __call__(self, *args, **kwargs):
        return self.call(*args, **kwargs)


def test_threads_share_a_tokenizer(minilm):
    encoder = Encoder.load(EncoderConfig(model=minilm, max_length=64), "cpu")
    with ThreadPoolExecutor(4) as pool:
        parallel = list(pool.map(lambda part: encoder.tokenize(TEXTS[part:], "document"), range(20)))
    assert parallel == [encoder.tokenize(TEXTS[part:], "document") for part in range(20)]
