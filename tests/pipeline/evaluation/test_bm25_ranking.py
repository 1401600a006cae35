"""BM25 of an evaluation against one index over the whole corpus, however it is cut into chunks."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.core import schema
from pipeline.core.errors import UserError
from pipeline.evaluation.bm25_ranking import rank_corpus
from pipeline.evaluation.corpus import Corpus
from pipeline.evaluation.ranking import RankedQueries
from pipeline.search.bm25 import BM25Config
from pipeline.search.bm25_index import BM25Index
from pipeline.storage.artifact import begin

pytestmark = pytest.mark.ray
NOUNS = ["apples", "cars", "the pears", "chairs", "rivers", "museums", "trains"]
TEXTS = [f"{first} and {second} {first} of {third}" for first in NOUNS for second in NOUNS for third in NOUNS[:3]]
QUERIES = ["an apple", "the chair of a museum", "rivers", "apple apple train", "zebra", "a text of pairs alone: cars"]
NONE = (np.zeros(0, np.int64), np.zeros(0, np.int64))


def corpus(folder: Path, texts: list[str]) -> Corpus:
    draft = begin(str(folder / "data"), "build", {}, {"made": "here"}, overwrite=False)
    rows = [{"doc_id": f"d{row}", "text": text} for row, text in enumerate(texts)]
    table = pa.Table.from_pylist(rows, schema=schema.TABLES["corpus"])
    for part, first in enumerate(range(0, len(texts), 40)):
        draft.write("corpus", table.slice(first, 40), part)
    return Corpus(draft.finish(["corpus"]))


@pytest.mark.parametrize("rows", [11, 64, 1000])
def test_chunks_are_one_index(ray_session: None, tmp_path: Path, rows: int):
    config = BM25Config(k1=0.9, b=0.4)
    excluded = (np.array([0, 2, 2]), np.array([1, 90, 93]))
    pairs = (np.array([0, 5, 5, 3]), np.array([0, 146, 22, 70]))
    chunks = corpus(tmp_path, TEXTS).chunks(rows=rows)
    ranking = rank_corpus(QUERIES, RankedQueries(np.arange(5), excluded), chunks, 12, pairs, config)
    index = BM25Index.of(TEXTS, config)
    for query, text in enumerate(QUERIES[:5]):
        scores, wanted = index.search(text, 12, excluded=excluded[1][excluded[0] == query])
        filled = ranking.best.rows[query] >= 0
        assert ranking.best.rows[query][filled].tolist() == wanted.tolist()
        assert ranking.best.scores[query][filled].tolist() == scores.tolist()
    assert (ranking.best.rows[4] == -1).all() and (ranking.best.rows[:4] >= 0).all()
    assert ranking.similarities.tolist() == [index.scores(QUERIES[t])[r] for t, r in zip(*pairs, strict=True)]


def test_a_corpus_without_a_word_is_refused(ray_session: None, tmp_path: Path):
    with pytest.raises(UserError, match="no document holds a word that counts"):
        ranked = RankedQueries(np.arange(1), NONE)
        rank_corpus(["a"], ranked, corpus(tmp_path, ["the", "of"]).chunks(), 3, NONE, BM25Config())
