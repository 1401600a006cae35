"""BM25 against bm25s, in any number of shards, in memory and on disk."""

import bm25s
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.config import validate
from pipeline.core.errors import UserError
from pipeline.evaluation.bm25_tuning import EvaluatedBM25
from pipeline.evaluation.config import EvaluateConfig
from pipeline.mining.bm25_source import Bm25
from pipeline.search.bm25 import FORMULAS, BM25Config
from pipeline.search.bm25_index import BM25Index
from pipeline.search.term_counts import CorpusStatistics, TermCounts
from pipeline.text.analyzer import Analyzer

DOCS = ["the cat sat", "the dog sat on the mat", "", "Cat, cat and dogs!", "x"]
PLAIN = BM25Config(language="none")
WORDS = ["red", "apple", "apples", "pear", "pie", "tart", "the", "car"]


@pytest.mark.parametrize("query", ["cat", "the dog", "Cat mat zebra", "x x cat"])
@pytest.mark.parametrize("method", FORMULAS)
@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.5, 0.0), (2.0, 1.0)])
def test_scores_are_those_of_bm25s(query, method, k1, b):
    config = BM25Config(language="none", method=method, k1=k1, b=b)
    peer = bm25s.BM25(k1=k1, b=b, method=method)
    analyzer = Analyzer("none")
    peer.index([analyzer.words(text) for text in DOCS], show_progress=False)
    words = [word for word in analyzer.words(query) if word in peer.vocab_dict]
    wanted = peer.get_scores(words)
    found = BM25Index.of(DOCS, config).scores(query)
    assert found == pytest.approx(wanted - wanted[2], abs=1e-5)  # document 2 is empty: what bm25l gives to all


def test_k1_and_b_that_count_each_word_once():
    scores = BM25Index.of(["cat cat cat", "cat dog"], BM25Config(language="none", k1=0)).scores("cat")
    assert scores[0] == scores[1] > 0


@given(
    docs=st.lists(st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join), min_size=1, max_size=12),
    query=st.lists(st.sampled_from([*WORDS, "zebra"]), max_size=4).map(" ".join),
    rows=st.integers(1, 13),
    method=st.sampled_from(list(FORMULAS)),
)
@settings(deadline=None)
def test_scores_do_not_depend_on_shards(docs, query, rows, method):
    config = BM25Config(method=method)
    one, shards = BM25Index.of(docs, config), BM25Index.of(docs, config, rows)
    assert len(shards.shards) == -(-len(docs) // rows)
    assert shards.scores(query).tolist() == one.scores(query).tolist()
    for ours, theirs in zip(shards.search(query, 3), one.search(query, 3), strict=True):
        assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize("rows", [1, 2, 50])
def test_an_index_on_disk_is_the_one_in_memory(tmp_path, rows):
    config = BM25Config(language="english", k1=0.9)
    BM25Index.write(iter(DOCS), str(tmp_path), config, rows)
    opened, one = BM25Index.load(str(tmp_path)), BM25Index.of(DOCS, config)
    assert opened.config == config and isinstance(opened.shards[0].weights, np.memmap)
    assert not list(tmp_path.glob("counts*"))
    for query in ("cats and a dog", "zebra"):
        assert opened.scores(query).tolist() == one.scores(query).tolist()
    assert opened.scores("cats and a dog")[3] > 0  # the stem of cat, Cat and dogs


def test_counts_of_a_vocabulary_are_those_of_all_words():
    everything, some = (TermCounts.count(DOCS, Analyzer("none"), words) for words in (None, ["cat", "zebra", "the"]))
    statistics = CorpusStatistics.add([everything.statistics])
    assert some.lengths.tolist() == everything.lengths.tolist() == [3, 6, 0, 4, 1]
    assert statistics.frequencies_of(some.terms).tolist() == np.diff(some.starts).tolist()
    assert sorted(np.diff(some.starts).tolist()) == [2, 2] and sorted(some.counts.tolist()) == [1, 1, 2, 2]


def test_ties_go_by_lower_row_and_strangers_find_nothing():
    index = BM25Index.of(["red apple", "green pear"] * 40)
    assert index.search("apple", 5)[1].tolist() == [0, 2, 4, 6, 8]
    assert index.search("apple", 3, excluded=np.array([0, 4]))[1].tolist() == [2, 6, 8]
    assert index.search("zebra", 5)[1].tolist() == []
    assert index.search("", 5)[1].tolist() == []
    assert BM25Index.of([]).search("apple", 5)[1].tolist() == []


def test_an_index_needs_a_word(tmp_path):
    with pytest.raises(UserError, match="no document holds a word that counts"):
        BM25Index.write(["", "!!", "the"], str(tmp_path), BM25Config())


def test_settings_are_checked_and_switched():
    assert validate(EvaluateConfig, {}).bm25 == EvaluatedBM25()
    assert validate(EvaluateConfig, {"bm25": False}).bm25 is None
    assert validate(EvaluateConfig, {"bm25": "true"}).bm25.plain() == BM25Config()
    assert Bm25(language="german", system=None).plain() == BM25Config(language="german")
    with pytest.raises(UserError, match=r"bm25\.language.*did you mean english\? choose from none, arabic, .*yiddish"):
        validate(EvaluateConfig, {"bm25": {"language": "englisch"}})
