"""Rules over columns say row by row what the rules of one text say, whatever the text."""

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.sources.reading.splits import SplitConfig
from pipeline.text import columns
from pipeline.text.normalize import hash64, html_to_text, identifier, key, normalise, shorten

PIECES = [
    *"ab <&>;#x1\t\n\r\x00\x0b\x0c\x1c\x7f\x85\xa0\xad\u00e9\u00df\u0130\u200b\u2019\u3000\ufb01\ufeff\ufffe\U0001f600"
]
PIECES += list("\u00bd\u00b3\u00b4\u2460\u211d")
PIECES += ["&#11;", "&#x1c;", "&#1;", "&amp;", "<p>", "</p>", "<br/>", "<script>", "  "]
TEXT = st.one_of(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.text(max_size=12)).map(identifier)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.none() | TEXT, max_size=8), st.integers(0, 3))
@example(["<p>&#11;</p>", "a", None], 0)  # was refused by lxml
def test_columns_follow_the_rules_of_text(texts: list[str | None], skipped: int):
    column = pa.array(texts, pa.string()).slice(skipped)
    texts = texts[skipped:]
    for whole, one in [
        (columns.normalise_column, normalise),
        (columns.html_to_text_column, html_to_text),
        (columns.strip_column, str.strip),
        (lambda c: columns.shorten_column(c, 5), lambda text: shorten(text, 5)),
    ]:
        assert whole(column).to_pylist() == [text if text is None else one(text) for text in texts]
    said, column = [text for text in texts if text is not None], column.drop_null()
    keys = columns.key_column(column)
    assert keys.to_pylist() == [key(text) for text in said]
    assert columns.key_prefixes(keys).tolist() == [int.from_bytes(key(text)[:8], "little") for text in said]
    assert columns.ids_from_keys(keys, "q").to_pylist() == [f"q-{key(text).hex()[:16]}" for text in said]
    assert columns.hash64_column(column, "a", 1).tolist() == [hash64("a", 1, text) for text in said]


@pytest.mark.parametrize("shares", [(0.8, 0.1, 0.1), (0.5, 0.5, 0), (0, 0.5, 0.5), (1, 0, 0)])
def test_columns_of_groups_fall_into_the_splits_of_each_group(shares: tuple[float, float, float]):
    config = SplitConfig(train=shares[0], dev=shares[1], test=shares[2], seed=3)
    names = [f"group {number}" for number in range(500)]
    assert config.assigned(pa.array(names)).to_pylist() == [config.assign(name) for name in names]
