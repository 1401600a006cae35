"""Late chunking: passages are means of the states that their tokens have in the whole text, window by window."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.errors import UserError
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.encoder.late_chunking import windows
from pipeline.encoder.passage_vectors import CutDocuments
from pipeline.encoder.passages import PassageCutter, PassagesConfig
from tests.support import zoo

TEXT = "It is a lamp. It shines at night. So it does! She sold it. Who is she? A shop, in town. " * 2


def load(layout: str, place: Path, **more: object) -> Encoder:
    path = zoo.make(layout, place)
    return Encoder.load(EncoderConfig.model_validate({"model": path, "dtype": "float32", **more}), "cpu")


@pytest.mark.parametrize("layout", ["bert, mean", "distiluse: distilbert, dense", "instructor: prompt not pooled"])
def test_passages_are_means_of_states_of_the_text(tmp_path: Path, layout: str):
    text = TEXT[:44]
    encoder = load(layout, tmp_path, prompts={"document": "about: "})
    cutter = PassageCutter(encoder, PassagesConfig(tokens=24, overlap=8, late=True))
    spans = cutter.cut([text])[0]
    (tokens, ends), skip = encoder.document_tokens([text])[0], encoder.prompt_length("document")
    assert len(tokens) <= 64 and len(spans) > 2
    with torch.inference_mode():
        states = encoder.transformer(input_ids=torch.tensor([tokens])).last_hidden_state[0]
    wanted = []
    for number, (start, end) in enumerate(spans):
        inside = [
            token
            for token, place in enumerate(ends.tolist())
            if (start < place <= end or (place <= 0 and number == 0)) and token >= (skip if number == 0 else 0)
        ]
        wanted.append(encoder._finish(states[inside].mean(dim=0, keepdim=True))[0].detach().numpy())
    vectors = CutDocuments.cut(cutter, [text]).vectors(encoder)
    scale = 1 / np.linalg.norm(wanted, axis=1, keepdims=True)
    assert np.abs(vectors - np.array(wanted) * scale).max() < 1e-5
    alone = CutDocuments.cut(PassageCutter(encoder, PassagesConfig(tokens=24, overlap=8)), [text]).vectors(encoder)
    assert (np.sum(vectors * alone, axis=1) < 0.9999).all(), "the passages around it change a passage"


def test_a_text_of_one_passage_has_the_vector_that_it_always_has(tmp_path: Path):
    encoder = load("bert, mean", tmp_path)
    cut = CutDocuments.cut(PassageCutter(encoder, PassagesConfig(tokens=32, late=True)), ["a lamp", TEXT, "shoes"])
    vectors, plain = cut.vectors(encoder), encoder.encode(["a lamp", "shoes"], "document")
    assert np.allclose(vectors[[0, -1]], plain, atol=1e-5)
    whole = encoder.encode(["a lamp", TEXT, "shoes"], "document")
    assert np.allclose(cut.vectors(encoder, whole), vectors, atol=1e-5)
    some = cut.of(np.array([False, True, True]))
    assert np.allclose(some.vectors(encoder), vectors[cut.owners > 0], atol=1e-5) and some.documents == 2


def test_a_longer_text_is_read_in_windows_of_whole_passages(tmp_path: Path):
    encoder = load("bert, mean", tmp_path)
    cutter = PassageCutter(encoder, PassagesConfig(tokens=24, overlap=4, late=True))
    texts = [TEXT * 2, "short", TEXT]
    spans = cutter.cut(texts)
    of_text = windows(encoder, texts, spans)
    assert [sum(len(w.ranges) for w in of_text if w.owner == owner) for owner in range(3)] == [len(s) for s in spans]
    assert all(len(window.tokens) <= 64 and window.ranges[-1][1] == len(window.tokens) for window in of_text)
    assert sum(window.owner == 0 for window in of_text) > 2
    assert all(first < last for window in of_text for first, last in window.ranges)


def test_other_encoders_are_refused(tmp_path: Path):
    for number, layout in enumerate(("bge: roberta, cls", "static", "router", "Qwen3-Embedding")):
        encoder = load(layout, tmp_path / str(number))
        with pytest.raises(UserError, match="vectors are not the mean of token states"):
            PassageCutter(encoder, PassagesConfig(tokens=16, late=True))
    short = load("bert, mean", tmp_path / "short", max_length=40)
    with pytest.raises(UserError, match="reads 40 tokens at once, less than two passages of 32"):
        PassageCutter(short, PassagesConfig(tokens=32, late=True))
