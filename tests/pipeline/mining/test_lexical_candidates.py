"""Candidates by words: BM25 fused with the vectors, its scores, and a source of one's own."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.core.config import validate
from pipeline.core.errors import UserError
from pipeline.mining.bm25_source import Bm25
from pipeline.mining.config import MineConfig
from pipeline.mining.exclusions import AnchorBlock, CorpusPositions
from pipeline.mining.lexical_candidates import LexicalSource, build_index, load_index, search
from pipeline.search.bm25_index import BM25Index
from pipeline.search.exact import TopK
from pipeline.search.reciprocal_rank import ReciprocalRank
from pipeline.search.score_mix import ScoreMix
from pipeline.storage import shards
from pipeline.text.same_document import text_keys

TEXTS = ["red apple pie", "green pear", "apple tart with apple", "a car", "red car", "pear and apple cider"]


@pytest.mark.parametrize(
    ("system", "wanted"),
    [
        ("rrf", [[4, 3, 2], [5, -1, -1]]),  # row 2 is second by words, row 3 the nearest
        ({"type": "mix", "weight": 0}, [[3, 4, 1], [5, -1, -1]]),
        ({"type": "mix", "weight": 9}, [[4, 2, 3], [5, -1, -1]]),
        (None, [[3, 4, 1], [5, -1, -1]]),
    ],
)
def test_words_bring_candidates_and_score_all_of_them(tmp_path, system, wanted):
    folder = str(tmp_path / "words")
    corpus = tmp_path / "corpus.parquet"
    texts = [TEXTS[0], "  ", *TEXTS[1:], None]  # blank documents are no rows of the encoded corpus
    shards.commit(str(tmp_path), "corpus", pa.table({"text": texts}), {})
    source = Bm25(system=system)
    build_index(source, [str(corpus)], folder)
    index = load_index(source, folder)
    block = AnchorBlock(
        ["q", "r"], np.zeros((2, 2), np.float32), text_keys(["", ""]), np.array([0, 0, 1]), ["a", "b", "c"],
        text_keys(["", "", ""]), [None] * 3, ["red apple", "zebra"],
    )  # fmt: skip
    positions = CorpusPositions(np.array([0, -1, 1]), (np.array([0]), np.array([0])))
    dense = TopK(np.float32([[0.9, 0.8, 0.1], [0.5, -np.inf, -np.inf]]), np.array([[3, 4, 1], [5, -1, -1]]))
    rows, scores, positives = search(index, block, dense, positions, 3, source)
    expected = BM25Index.of(TEXTS).scores("red apple")
    assert rows.tolist() == wanted
    assert scores[0].tolist() == expected[rows[0]].tolist() and scores[1, 0] == 0 and np.isnan(scores[1, 1:]).all()
    assert positives[0] == expected[0] > 0 and np.isnan(positives[1]) and positives[2] == 0


class PrefixScorer:
    def __init__(self, texts: list[str]) -> None:
        self.texts = texts

    def scores(self, text: str) -> np.ndarray:
        return np.float32([len(text) * other.startswith(text) for other in self.texts])


class Prefix(LexicalSource):
    """A source of one's own: the length of a text that a document begins with."""

    def build(self, texts: Iterator[str], folder: str) -> None:
        (Path(folder) / "texts.json").write_text(json.dumps(list(texts)))

    def load(self, folder: str) -> PrefixScorer:
        return PrefixScorer(json.loads((Path(folder) / "texts.json").read_text()))


def test_a_source_of_ones_own_is_named_by_its_import_path(tmp_path):
    config = validate(MineConfig, {"lexical": {"type": f"{__name__}:Prefix", "system": {"type": "rrf", "constant": 5}}})
    assert isinstance(config.lexical, Prefix) and config.lexical.system == ReciprocalRank(constant=5)
    shards.commit(str(tmp_path), "corpus", pa.table({"text": TEXTS}), {})
    build_index(config.lexical, [str(tmp_path / "corpus.parquet")], str(tmp_path / "index"))
    block = AnchorBlock(
        ["q"], np.zeros((1, 2), np.float32), text_keys([""]), np.array([0]), ["a"], text_keys([""]), [None], ["red"]
    )
    positions = CorpusPositions(np.array([0]), (np.array([0]), np.array([0])))
    index = load_index(config.lexical, str(tmp_path / "index"))
    nearest = TopK(np.float32([[0.9, 0.8]]), np.array([[1, 3]]))
    rows, scores, positives = search(index, block, nearest, positions, 2, config.lexical)
    assert rows.tolist() == [[1, 4]] and scores.tolist() == [[0, 3]] and positives.tolist() == [3]


def test_bm25_is_the_source_where_none_is_named():
    assert validate(MineConfig, {"lexical": {"system": None}}).lexical == Bm25(system=None)
    assert validate(MineConfig, {"lexical": {}}).lexical.system == ScoreMix()
    with pytest.raises(UserError, match=r"no lexical source is called 'bm26'; did you mean bm25\?; choose from bm25"):
        validate(MineConfig, {"lexical": {"type": "bm26"}})
    rerank = {"type": "rerank", "cross_encoder": {"model": "m"}}
    with pytest.raises(UserError, match="candidates are scored anew by `cross_encoder`"):
        validate(MineConfig, {"lexical": {"system": rerank}})
    with pytest.raises(UserError, match=r"unknown setting 'lexical\.sistem'"):
        validate(MineConfig, {"lexical": {"sistem": "rrf"}})
