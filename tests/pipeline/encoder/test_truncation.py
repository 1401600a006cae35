"""What truncation cuts off is counted on whole texts, by role, and said."""

import pytest

from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.encoder.truncation import Truncation, describe
from tests.support import zoo

TEXTS = ["a red coat, size 42", "x", "running shoes", ""]


@pytest.mark.parametrize("layout", ["bge: roberta, cls", "Qwen3-Embedding", "static", "router"])
@pytest.mark.parametrize("role", ["query", "document"])
def test_whole_lengths_are_those_of_an_encoder_that_cuts_nothing(tmp_path, layout, role):
    path = zoo.make(layout, tmp_path)
    short, long = (Encoder.load(EncoderConfig(model=path, max_length=length), "cpu") for length in (4, zoo.LENGTH))
    whole = [len(row) for row in long.tokenize(TEXTS, role)]
    assert max(whole) > 4 and short.whole_lengths(TEXTS, role) == whole
    assert [len(row) for row in short.tokenize(TEXTS, role)] == [min(4, length) for length in whole]
    measured = Truncation.measure(short, TEXTS * 40, role)  # more than one batch
    assert (measured.texts, measured.tokens) == (160, 40 * sum(whole))
    assert measured.cut_texts == 40 * sum(length > 4 for length in whole)
    assert measured.cut_tokens == 40 * sum(max(0, length - 4) for length in whole)


def test_shares_and_sentences():
    some = Truncation("document", 128, texts=1000, cut_texts=980, tokens=200_000, cut_tokens=70_000)
    assert some.note()["text_share"] == 0.98 and some.note()["token_share"] == 0.35
    assert some.sentence() == (
        "98% of the documents are cut at 128 tokens, with them 35% of all tokens (in a sample of 1,000); "
        "a larger encoder.max_length keeps more, as far as the model reaches, "
        "and `passages` of embed and evaluate keep all"
    )
    few = Truncation("query", 32, texts=500, cut_texts=5, tokens=5000, cut_tokens=20)
    assert few.sentence() == "1% of the queries are cut at 32 tokens, with them 0% of all tokens (in a sample of 500)"
    none = Truncation("query", 32, texts=500, cut_texts=0, tokens=5000, cut_tokens=0)
    assert describe(none.note()) == "none of the queries is cut at 32 tokens (in a sample of 500)"
    assert Truncation("query", 32, 0, 0, 0, 0).text_share == 0.0
