"""BM25 of an evaluation against one index over the whole corpus, however it is cut into chunks."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.core import schema
from pipeline.core.errors import UserError
from pipeline.evaluation.bm25_ranking import CountedCorpus
from pipeline.evaluation.bm25_tuning import EvaluatedBM25, choose, grid
from pipeline.evaluation.corpus import Corpus
from pipeline.evaluation.dataset import EvalDataset
from pipeline.evaluation.ranking import RankedQueries
from pipeline.evaluation.tuning import Tuning
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
    counted = CountedCorpus.count(QUERIES, chunks, config.language)
    ranking = counted.rank_with_progress(RankedQueries(np.arange(5), excluded), 12, pairs, config)
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
        CountedCorpus.count(["a"], corpus(tmp_path, ["the", "of"]).chunks(), "english")


def test_k1_and_b_are_those_that_rank_another_split_best(ray_session: None, tmp_path: Path):
    """A word said thrice in a long text, or once in a short one: which comes first is decided by k1 and b."""
    texts = ["apple apple apple of a tree in a garden by a river", "apple", *TEXTS[30:80]]
    of_corpus = corpus(tmp_path, texts)
    asked = EvalDataset(["t"], ["cars", "a text of a scored pair"])
    for wanted in ("d0", "d1"):
        judged = EvalDataset(["q"], ["apple"], {"q": {wanted: 1}})
        counted = CountedCorpus.count([*asked.texts, *judged.texts], of_corpus.chunks(), "english")
        config = EvaluatedBM25(tune=True, language="english")
        chosen, facts = choose(of_corpus, counted, asked, Tuning("dev", judged), config, "mrr@10")
        assert facts["scores"][facts["chosen"]] == max(facts["scores"].values()) == 1.0
        best = BM25Index.of(texts, chosen).search("apple", 1)[1]
        assert best.tolist() == [int(wanted[1])] and len(facts["scores"]) == 20 and min(facts["scores"].values()) < 1
    assert choose(of_corpus, counted, asked, Tuning.none(), EvaluatedBM25(k1=0.4), "mrr@10") == (BM25Config(k1=0.4), {})


def test_the_given_setting_is_tried_first():
    assert grid(BM25Config())[0] == BM25Config() and len(grid(BM25Config())) == 20 and len(grid(BM25Config(k1=3))) == 21
