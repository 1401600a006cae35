"""Token ids of long texts are those of the whole text, though only its first words are tokenised."""

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.encoder.text_prefix import prefix, splits_at_spaces
from pipeline.encoder.tokenizer import FastTokenizer

WORDS = ["wireless", "headphones", "shoes", "Ünïcödé", "don't", "10,000", "x²", "漢字", "e\u0301", "[SEP]", "▁"]
WORDS += ["<s>", "---", "½", "🎧🎧", "a\u00a0b"]
SAMPLE = [" ".join(WORDS[i % 7 :] + WORDS[: i % 11]) for i in range(200)]


def byte_level() -> Tokenizer:
    fast = Tokenizer(models.BPE())
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    fast.train_from_iterator(
        SAMPLE, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=["</s>"])
    )
    fast.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 0)])
    return fast


def unigram() -> Tokenizer:
    fast = Tokenizer(models.Unigram())
    fast.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    fast.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    fast.train_from_iterator(
        SAMPLE, trainers.UnigramTrainer(vocab_size=120, unk_token="<unk>", special_tokens=["<unk>", "<s>"])
    )
    fast.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return fast


def across_words() -> Tokenizer:
    """As Llama's: spaces are letters like others, and tokens may hold several words."""
    fast = Tokenizer(models.BPE())
    fast.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    fast.train_from_iterator(["red coat " * 9] * 20, trainers.BpeTrainer(vocab_size=60))
    return fast


class Loaded:
    """What FastTokenizer asks of a tokenizer."""

    truncation_side = "right"
    split_special_tokens = False

    def __init__(self, fast: Tokenizer) -> None:
        self.backend_tokenizer = fast


@pytest.fixture(scope="module")
def tokenizers(minilm):
    bert = Tokenizer.from_file(f"{minilm}/tokenizer.json")
    return {"bert": bert, "byte level": byte_level(), "unigram": unigram(), "across words": across_words()}


def whole(fast: Tokenizer, texts: list[str], max_length: int) -> list[list[int]]:
    """Ids of whole texts."""
    plain = Tokenizer.from_str(fast.to_str())
    plain.no_padding()
    plain.enable_truncation(max_length)
    return [encoding.ids for encoding in plain.encode_batch(texts)]


spaces = st.sampled_from([" ", " ", " ", "  ", "\n", "\t", " \n ", "\u00a0", "\u2003", ""])
pieces = st.one_of(st.sampled_from(WORDS), st.text(max_size=12))
long_texts = st.lists(st.tuples(pieces, spaces), max_size=80).map(lambda parts: "".join(a + b for a, b in parts))


@pytest.mark.parametrize("kind", ["bert", "byte level", "unigram", "across words"])
@settings(max_examples=60, deadline=None)
@given(texts=st.lists(long_texts, min_size=1, max_size=4), max_length=st.integers(4, 24))
@example(texts=["x" * 5000, " " * 5000, "", "a " * 2000, "\u0301" * 900 + " b"], max_length=8)
def test_ids_are_those_of_the_whole_text(tokenizers, kind, texts, max_length):
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    made = FastTokenizer(Loaded(tokenizers[kind]), max_length)
    assert made.by_prefix == (kind != "across words")
    assert made(texts) == whole(tokenizers[kind], texts, max_length)


def test_a_tokenizer_whose_tokens_hold_several_words_takes_the_whole_text(tokenizers):
    assert not splits_at_spaces(tokenizers["across words"])
    spaced = byte_level()
    spaced.add_tokens(["red coat"])
    assert not splits_at_spaces(spaced)
    unsplit = byte_level()
    unsplit.pre_tokenizer = pre_tokenizers.ByteLevel(use_regex=False)
    assert not splits_at_spaces(unsplit)


@pytest.mark.parametrize(
    ("text", "length", "expected"),
    [
        ("one two three", 8, "one two"),
        ("one two", 50, "one two"),
        ("onetwothree", 4, "onetwothree"),
        ("a  b c", 3, "a"),
    ],
)
def test_a_prefix_ends_with_a_word(text, length, expected):
    assert prefix(text, length) == expected


def test_a_long_text_costs_what_is_kept_of_it(minilm):
    encoder = Encoder.load(EncoderConfig(model=minilm, layers=1, max_length=128), "cpu")
    text = "How long does the delivery of wireless headphones take? " * 4000
    encoder.tokenize([text[:2000]], "document")
    started = time.perf_counter()
    for _ in range(5):
        assert len(encoder.tokenize([text], "document")[0]) == 128
    by_prefix = time.perf_counter() - started
    plain = FastTokenizer(encoder.tokenizer, 128)
    plain.by_prefix = False
    started = time.perf_counter()
    assert plain([text]) == encoder.tokenize([text], "document")
    assert by_prefix / 5 < (time.perf_counter() - started) / 4
