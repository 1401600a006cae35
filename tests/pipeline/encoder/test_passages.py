"""Passages: what a cut promises of any text and any tokenizer, and how fast it is on a long one."""

import re
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.core.errors import UserError
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.encoder.passages import PassageCutter, PassagesConfig, cut_text, passages
from tests.support import zoo

TOKEN = re.compile(r"\w{1,4}|[^\w\s]")
WORDS = st.sampled_from(["a", "lamp", "kettles", "incomprehensibilities", "e.g. so", "3.5", "Dr.", "(it", "火"])
ENDS = st.sampled_from([" ", " ", " ", ". ", "! ", '." ', "\n", "\n\n", ", ", "。", "  ", "...  "])
TEXTS = st.lists(st.tuples(WORDS, ENDS), max_size=60).map(lambda parts: "".join(word + end for word, end in parts))


def ends_of(text: str) -> np.ndarray:
    """Ends of tokens of at most four letters."""
    return np.array([match.end() for match in TOKEN.finditer(text)], np.int64)


def count(text: str) -> int:
    return len(TOKEN.findall(text))


@given(TEXTS, st.integers(2, 30), st.integers(0, 12))
@settings(max_examples=300, deadline=None)
@example("x" * 200, 3, 1)
@example("  \n a. B. ", 2, 1)
@example("", 5, 0)
def test_spans_cover_the_text_in_order(text: str, tokens: int, overlap: int):
    overlap = min(overlap, tokens - 1)
    spans = cut_text(text, ends_of(text), tokens, overlap)
    assert all(0 < count(text[start:end]) <= tokens or not text[start:end].strip() for start, end in spans)
    assert [start for start, _ in spans] == sorted({start for start, _ in spans})
    position = 0
    for start, end in spans:
        assert start <= position < end and count(text[start:position]) <= overlap
        position = end
    assert position == len(text)


def test_spans_end_with_sentences_then_words_then_tokens():
    text = "One two three. Four five e.g. six. Seven eight nine ten eleven twelve thirteen."
    cut = [text[start:end] for start, end in cut_text(text, np.array([m.end() for m in re.finditer(r"\w+", text)]), 8)]
    assert cut == ["One two three. Four five e.g. six. ", "Seven eight nine ten eleven twelve thirteen."]
    cut = [text[start:end] for start, end in cut_text(text, np.array([m.end() for m in re.finditer(r"\w+", text)]), 5)]
    assert cut == ["One two three. ", "Four five e.g. six. ", "Seven eight nine ten eleven ", "twelve thirteen."]
    assert cut_text("abcdefghij", np.arange(1, 11), 4) == [(0, 4), (4, 8), (8, 10)]


def test_an_overlap_begins_with_a_sentence_and_yields_to_one():
    text = "A b c. D e. F g. H i j k. L m."
    ends = np.array([m.end() for m in re.finditer(r"\w", text)])
    cut = [text[start:end].strip() for start, end in cut_text(text, ends, 7, 4)]
    assert cut == ["A b c. D e. F g.", "F g. H i j k.", "H i j k. L m."]
    long = "a b c d e f g h i j"
    cut = [long[start:end].strip() for start, end in cut_text(long, np.arange(1, 20, 2), 4, 2)]
    assert cut == ["a b c d", "c d e f", "g h i j"], "what is left of a sentence stays whole, too"
    near = "A b c. D e f g h."
    ends = np.array([m.end() for m in re.finditer(r"\w", near)])
    assert [near[start:end].strip() for start, end in cut_text(near, ends, 5, 3)] == ["A b c.", "D e f g h."]


def byte_level(path: Path) -> None:
    """A tokenizer of bytes and their pairs, as of GPT and Qwen, with the space in front of a word in its token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    fast = Tokenizer(models.BPE())
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<pad>", "</s>"], initial_alphabet=alphabet)
    fast.train_from_iterator(["a lamp and kettles are incomprehensibilities. It is so! "] * 9, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=fast, pad_token="<pad>", eos_token="</s>", model_max_length=64)
    wrapped.save_pretrained(path)


def sentence_pieces(path: Path) -> None:
    """A tokenizer of pieces over a whole text, as of T5 and XLM-R, with spaces as letters."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "</s>", "▁", "▁lamp", "▁a", "kettles", "in", "com", "lities", ".", "s", ". ▁I"]
    fast = Tokenizer(models.Unigram([(piece, -float(place)) for place, piece in enumerate(pieces)], unk_id=0))
    fast.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    fast.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=fast, unk_token="<unk>", pad_token="</s>", eos_token="</s>", model_max_length=64
    )
    wrapped.save_pretrained(path)


def across_words(path: Path) -> None:
    """Letters, and one token across a space: what follows the space is more tokens alone than it was in the text."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "</s>", *"abcdeghiklmnopst. ", "a ", "a b", "a bc"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    fast = Tokenizer(models.BPE(vocabulary, [("a", " "), ("a ", "b"), ("a b", "c")], unk_token="<unk>"))
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=fast, unk_token="<unk>", pad_token="</s>", eos_token="</s>", model_max_length=64
    )
    wrapped.save_pretrained(path)


def with_vectors_of_all_tokens(path: Path) -> None:
    """Give the model a vector of each of the tokenizer's tokens."""
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(path)
    model.resize_token_embeddings(max(len(AutoTokenizer.from_pretrained(path)), model.config.vocab_size))
    model.save_pretrained(path)


TOKENIZERS = {
    "characters": None,
    "across words": across_words,
    "byte level": byte_level,
    "sentence pieces": sentence_pieces,
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def cutter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PassageCutter:
    path = tmp_path_factory.mktemp("model")
    zoo.base("bert", path)
    if (write := TOKENIZERS[request.param]) is not None:
        write(path)
        with_vectors_of_all_tokens(path)
    prompts = {"document": "passage: "}
    encoder = Encoder.load(EncoderConfig(model=str(path), max_length=48, prompts=prompts, dtype="float32"), "cpu")
    return PassageCutter(encoder, PassagesConfig(tokens=40, overlap=8))


@given(st.lists(TEXTS, min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
@example(["é" * 100 + "\U0001f600" * 30])
@example(["a bc" * 50])
def test_passages_are_within_the_tokens_of_the_encoder(cutter: PassageCutter, texts: list[str]):
    for text, spans in zip(texts, cutter.cut(texts), strict=True):
        cut = passages(text, spans)
        assert max(cutter.encoder.whole_lengths(cut, "document"), default=0) <= 40
        assert [len(row) for row in cutter.encoder.tokenize(cut, "document")] == cutter.encoder.whole_lengths(
            cut, "document"
        )
        ends = [0, *(end for _, end in spans)]
        assert all(start <= end for (start, _), end in zip(spans, ends, strict=False)) and ends[-1] == len(text)


def test_every_kind_of_encoder_tells_where_tokens_end(tmp_path_factory: pytest.TempPathFactory, minilm: str):
    text = "Bluetooth earbuds, unbelievably cheap."
    encoder = Encoder.load(EncoderConfig(model=minilm, layers=1), "cpu")
    assert [text[:end].split()[-1] for end in encoder.token_ends([text])[0].tolist()][-2:] == ["cheap", "cheap."]
    for layout in ("model2vec", "router"):
        name = next(name for name in zoo.LAYOUTS if layout in name.lower())
        path = zoo.make(name, tmp_path_factory.mktemp("zoo"))
        of_kind = Encoder.load(EncoderConfig(model=path), "cpu")
        ends = of_kind.token_ends([text])[0]
        assert ends.tolist() == sorted(ends.tolist()) and ends[-1] == len(text)


def test_a_long_text_is_cut_fast(minilm: str):
    encoder = Encoder.load(EncoderConfig(model=minilm, layers=1, max_length=128), "cpu")
    text = "The kettle of 1.5 litres boils quickly, and the lamp is dimmed by hand. " * 2800
    hard = ". " * 30_000 + " " * 70_000 + "." * 50_000 + "x" * 50_000
    cutter = PassageCutter(encoder, PassagesConfig(tokens=128, overlap=24))
    started = time.perf_counter()
    spans = cutter.cut([text, hard])
    assert time.perf_counter() - started < 10
    assert len(spans[0]) > 300 and spans[0][-1][1] == len(text) and spans[1][-1][1] == len(hard)


def test_a_mistake_is_one_line(minilm: str):
    encoder = Encoder.load(EncoderConfig(model=minilm, layers=1, max_length=64, prompts={"document": "a b c d"}), "cpu")
    with pytest.raises(UserError, match=r"passages\.tokens 65: the encoder cuts documents at 64 tokens"):
        PassageCutter(encoder, PassagesConfig(tokens=65))
    with pytest.raises(UserError, match=r"passages\.tokens 9: leaves 3 beside prompt and special tokens"):
        PassageCutter(encoder, PassagesConfig(tokens=9))
    with pytest.raises(ValidationError, match="overlap 33 is more than half of a passage of 64 tokens"):
        PassagesConfig(tokens=64, overlap=33)
