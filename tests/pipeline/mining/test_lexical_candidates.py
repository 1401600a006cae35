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
from pipeline.mining.lexical_candidates import LexicalSource, build_index, fuse_rankings, load_index, search
from pipeline.search.bm25_index import BM25Index
from pipeline.storage import shards
from pipeline.text.same_document import text_keys


def test_fusion_is_its_formula():
    fused = fuse_rankings(np.array([4, 9, 2, -1]), np.array([2, 7, 4]), 4, 60)
    score = {4: 1 / 61 + 1 / 63, 9: 1 / 62, 2: 1 / 63 + 1 / 61, 7: 1 / 62}
    assert fused.tolist() == sorted(score, key=lambda row: (-score[row], row)) == [2, 4, 7, 9]
    assert fuse_rankings(np.array([-1, -1, -1]), np.array([5]), 3, 60).tolist() == [5, -1, -1]


TEXTS = ["red apple pie", "green pear", "apple tart with apple", "a car", "red car", "pear and apple cider"]


@pytest.mark.parametrize("fuse", [True, False])
def test_words_bring_candidates_and_score_all_of_them(tmp_path, fuse):
    folder = str(tmp_path / "words")
    corpus = tmp_path / "corpus.parquet"
    texts = [TEXTS[0], "  ", *TEXTS[1:], None]  # blank documents are no rows of the encoded corpus
    shards.commit(str(tmp_path), "corpus", pa.table({"text": texts}), {})
    source = Bm25(fuse=fuse)
    build_index(source, [str(corpus)], folder)
    index = load_index(source, folder)
    block = AnchorBlock(
        ["q", "r"], np.zeros((2, 2), np.float32), text_keys(["", ""]), np.array([0, 0, 1]), ["a", "b", "c"],
        text_keys(["", "", ""]), [None] * 3, ["red apple", "zebra"],
    )  # fmt: skip
    positions = CorpusPositions(np.array([0, -1, 1]), (np.array([0]), np.array([0])))
    dense = np.array([[3, 4, 1], [5, -1, -1]])
    rows, scores, positives = search(index, block, dense, positions, 3, source)
    expected = BM25Index.of(TEXTS).scores("red apple")
    assert rows.tolist() == ([[4, 3, 2], [5, -1, -1]] if fuse else dense.tolist())
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
    config = validate(MineConfig, {"lexical": {"type": f"{__name__}:Prefix", "constant": 5}})
    assert isinstance(config.lexical, Prefix) and config.lexical.constant == 5
    shards.commit(str(tmp_path), "corpus", pa.table({"text": TEXTS}), {})
    build_index(config.lexical, [str(tmp_path / "corpus.parquet")], str(tmp_path / "index"))
    block = AnchorBlock(
        ["q"], np.zeros((1, 2), np.float32), text_keys([""]), np.array([0]), ["a"], text_keys([""]), [None], ["red"]
    )
    positions = CorpusPositions(np.array([0]), (np.array([0]), np.array([0])))
    index = load_index(config.lexical, str(tmp_path / "index"))
    rows, scores, positives = search(index, block, np.array([[1, 3]]), positions, 2, config.lexical)
    assert rows.tolist() == [[1, 4]] and scores.tolist() == [[0, 3]] and positives.tolist() == [3]


def test_bm25_is_the_source_where_none_is_named():
    assert validate(MineConfig, {"lexical": {"fuse": False}}).lexical == Bm25(fuse=False)
    with pytest.raises(UserError, match=r"no lexical source is called 'bm26'; did you mean bm25\?; choose from bm25"):
        validate(MineConfig, {"lexical": {"type": "bm26"}})
    with pytest.raises(UserError, match=r"unknown setting 'lexical\.fused'"):
        validate(MineConfig, {"lexical": {"fused": False}})
