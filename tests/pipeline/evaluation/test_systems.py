"""Systems of an encoder and BM25: their rankings, the choice of a weight on other queries, their tests and words."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lxml import html

from pipeline.core import schema
from pipeline.core.config import validate
from pipeline.core.errors import UserError
from pipeline.embedding.job import EmbedConfig
from pipeline.embedding.job import run as embed
from pipeline.evaluation.config import EvaluateConfig
from pipeline.evaluation.corpus import Corpus
from pipeline.evaluation.dataset import EvalDataset
from pipeline.evaluation.job import run
from pipeline.evaluation.ranking import RankedQueries
from pipeline.evaluation.tuning import Tuning
from pipeline.search.exact import TopK
from pipeline.search.fusion import fuse_ranks, mix_scores
from pipeline.search.job import IndexConfig
from pipeline.search.job import run as build_index
from pipeline.search.query import Searcher
from pipeline.search.reciprocal_rank import ReciprocalRank
from pipeline.search.score_mix import GRID, ScoreMix
from pipeline.search.system import System
from pipeline.storage.artifact import Artifact, begin
from tests.support.mining import reranker_directory

THINGS = ["lamp", "kettle", "bicycle", "sofa", "tripod", "scarf", "oven", "mug", "hose", "shoe"]
COLOURS = ["red", "blue", "green", "black", "white", "yellow", "grey", "orange"]
FACTS = ["is sold with a warranty of two years", "was made for use out of doors", "can be repaired at home"]


def artifact(folder: Path, dev: int) -> Artifact:
    """A build artifact of 80 things: one is asked for by a query of split test or, the first `dev`, of split dev."""
    names = [f"{colour} {thing}" for thing in THINGS for colour in COLOURS]
    rows: dict[str, list[dict[str, object]]] = {"corpus": [], "queries": [], "qrels": []}
    for number, name in enumerate(names):
        split = "dev" if number < dev else "test"
        rows["corpus"].append({"doc_id": f"d{number}", "text": f"The {name} {FACTS[number % 3]}.", "source": "s"})
        rows["queries"].append({"query_id": f"q{number}", "text": f"a {name} please", "source": "s", "split": split})
        rows["qrels"].append({"query_id": f"q{number}", "doc_id": f"d{number}", "relevance": 1, "split": split})
    rows["queries"][0]["text"] = rows["corpus"][5]["text"]  # a query that is a document
    draft = begin(str(folder / "data"), "build", {}, {"made": "here"}, overwrite=False)
    for table, of_table in rows.items():
        draft.write(table, pa.Table.from_pylist(of_table, schema=schema.TABLES[table]))
    return draft.finish(list(rows))


class Second(System):
    """A system of one's own: BM25 alone."""

    def rank(self, dense: TopK, lexical: TopK, k: int) -> TopK:
        return TopK(lexical.scores[:, :k], lexical.rows[:, :k])

    def describe(self) -> str:
        return "BM25 alone"


def by_hand(report: Path, name: str, dataset: EvalDataset, rows: dict[str, int]) -> TopK:
    """A ranking as the report's run of a model has it."""
    table = pq.read_table(report / "runs" / f"{name}.parquet")
    best = TopK.empty(len(dataset.query_ids), 100)
    for row in table.to_pylist():
        place = dataset.query_ids.index(row["query_id"]), row["rank"] - 1
        best.scores[place], best.rows[place] = row["score"], rows[row["doc_id"]]
    return best


@pytest.mark.ray
def test_systems_of_a_run(ray_session: None, minilm: str, tmp_path: Path):
    data = artifact(tmp_path, dev=60)
    own = f"{__name__}:Second"
    settings = {
        "run": str(tmp_path), "models": {"base": {"model": minilm, "layers": 1, "dtype": "float32"}}, "variants": None,
        "systems": ["mix", {"type": "rrf", "constant": 10}, {"type": "mix", "weight": 3, "name": "words"}, own],
    }  # fmt: skip
    done = run(validate(EvaluateConfig, settings))
    found = json.loads(Path(done.path, "metrics.json").read_text())
    assert list(found["models"]) == ["bm25", "base", "base-mix", "base-rrf", "base-words", "base-second"]

    report, corpus = Path(done.path), Corpus(data)
    rows = {f"d{number}": number for number in range(len(corpus))}
    asked = EvalDataset(query_ids=[f"q{number}" for number in range(60, 80)])
    dense, words = (by_hand(report, name, asked, rows) for name in ("base", "bm25"))
    chosen = found["models"]["base-mix"]["system"]
    wanted = {
        "base-mix": mix_scores(dense, words, chosen["weight"], 100),
        "base-words": mix_scores(dense, words, 3, 100),
        "base-rrf": fuse_ranks([dense, words], 10, 100),
        "base-second": words,
    }
    for name, ranking in wanted.items():
        assert by_hand(report, name, asked, rows).rows.tolist() == ranking.rows.tolist(), name

    tuning = chosen["tuning"]
    assert (tuning["split"], tuning["queries"], tuning["metric"]) == ("dev", 60, "ndcg@10")
    assert len(tuning["scores"]) == len(GRID) and chosen["weight"] in GRID
    best = tuning["scores"][ScoreMix(weight=chosen["weight"]).describe()]
    assert best == max(tuning["scores"].values())
    assert found["models"]["base-words"]["system"]["tuning"] == {}

    tested = {(test["model"], test["baseline"]) for test in found["comparisons"] if test["metric"] == "ndcg@10"}
    systems = ["base-mix", "base-rrf", "base-words", "base-second"]
    assert tested == {("bm25", "base")} | {(name, part) for name in systems for part in ("base", "bm25")}
    family = [test["p_holm"] for test in found["comparisons"] if test["metric"] == "ndcg@10"]
    assert len(family) == 9
    text = html.document_fromstring((report / "report.html").read_text()).text_content()
    assert f"those of BM25 times {chosen['weight']:g} (the best of 7 settings on 60 queries of split dev" in text
    assert "base-rrf against bm25" in text and "base-second against bm25" in text


@pytest.mark.ray
def test_a_search_in_an_index_is_the_ranking_of_the_evaluation(ray_session: None, minilm: str, tmp_path: Path):
    artifact(tmp_path, dev=60)
    encoder = {"model": minilm, "layers": 1, "dtype": "float32"}
    embed(validate(EmbedConfig, {"run": str(tmp_path), "encoder": encoder}))
    settings = {"run": str(tmp_path), "models": {"base": encoder}, "variants": None, "max_queries": 4}
    rerank = {"type": "rerank", "of": {"type": "mix", "weight": 0.7}, "top": 30}
    rerank["cross_encoder"] = {"model": reranker_directory(tmp_path / "reranker", minilm, 1), "dtype": "float32"}
    settings |= {"systems": [{"type": "mix", "weight": 0.7}, "rrf", rerank], "bm25": {"k1": 0.9}}
    done = run(validate(EvaluateConfig, settings))
    index = build_index(validate(IndexConfig, {"run": str(tmp_path), "index": {"type": "exact"}, "bm25": {"k1": 0.9}}))
    for name, system in {
        "base": "dense", "bm25": "bm25", "base-mix": {"type": "mix", "weight": 0.7}, "base-rrf": "rrf",
        "base-rerank": rerank,
    }.items():  # fmt: skip
        search = Searcher(index.path, system=system)
        rows = pq.read_table(Path(done.path) / "runs" / f"{name}.parquet").to_pylist()
        for number in range(60, 64):
            wanted = [row for row in rows if row["query_id"] == f"q{number}"][:40]
            found = search(f"a {[f'{c} {t}' for t in THINGS for c in COLOURS][number]} please", 40)
            assert [hit.doc_id for hit in found] == [row["doc_id"] for row in wanted], (name, number)
            assert [hit.score for hit in found] == pytest.approx([row["score"] for row in wanted], abs=1e-5)
            assert found[0].columns["text"].startswith("The ")
    sentence = "those of BM25 times 0.7; of these the first 30 in the order of "
    assert sentence in (Path(done.path) / "report.html").read_text()


@pytest.mark.ray
def test_a_weight_is_the_default_where_there_is_nothing_to_choose_on(ray_session: None, minilm: str, tmp_path: Path):
    artifact(tmp_path, dev=20)
    encoder = {"model": minilm, "layers": 1, "dtype": "float32"}
    settings = {"run": str(tmp_path), "models": {"base": encoder}, "variants": None, "systems": ["mix"]}
    done = run(validate(EvaluateConfig, settings))
    facts = json.loads(Path(done.path, "metrics.json").read_text())["models"]["base-mix"]["system"]
    assert facts["weight"] is None and facts["tuning"] == {"reason": "split dev has 20 judged queries, 50 are needed"}
    assert "times 0.5 (the default, since split dev has 20" in Path(done.path, "report.html").read_text()


def test_tuning_is_of_another_split_and_leaves_out_the_query_itself(tmp_path: Path):
    data = artifact(tmp_path, dev=60)
    tuning = Tuning.read(data, Corpus(data), "dev", "test")
    assert len(tuning.dataset.query_ids) == 60 and [side.tolist() for side in tuning.dataset.excluded] == [[0], [5]]
    same = Tuning.read(data, Corpus(data), "dev", "dev")
    assert same.queries is None and same.reason == "split dev is the one that is evaluated"
    dataset = EvalDataset(["x", "y"], ["X", "Y", "of a pair"], excluded=(np.array([1]), np.array([7])))
    ranked = RankedQueries.of(dataset, tuning.queries)
    assert ranked.texts.tolist() == [0, 1, *range(3, 63)]
    assert [side.tolist() for side in ranked.excluded] == [[1, 2], [7, 5]]
    alone = RankedQueries.of(dataset)
    assert alone.texts.tolist() == [0, 1] and [side.tolist() for side in alone.excluded] == [[1], [7]]


def test_a_choice_ignores_what_is_given():
    assert ScoreMix().choices()[0].weight == 0.5 and len(ScoreMix().choices()) == len(GRID)
    assert ScoreMix(weight=1.5).choices() == [] and ReciprocalRank().choices() == ()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"systems": ["mxi"]}, r"no system is called 'mxi'; did you mean mix\?; choose from mix, rerank, rrf"),
        ({"systems": ["mix", {"type": "mix", "weight": 1}]}, "two are called 'mix'"),
        ({"systems": [{"type": "mix", "weigth": 1}]}, r"unknown setting 'systems\.0\.weigth'; did you mean"),
        ({"systems": [{"type": "rrf", "top": 500}]}, r"setting 'systems\.0\.top' is 500"),
    ],
)
def test_a_mistake_is_one_line(settings, words):
    with pytest.raises(UserError, match=words):
        validate(EvaluateConfig, settings)


def test_systems_need_bm25_and_their_encoders(minilm: str):
    models = {"base": {"model": minilm}}
    with pytest.raises(UserError, match=r"systems: are made of an encoder and BM25; leave `bm25: false` out"):
        validate(EvaluateConfig, {"models": models, "bm25": False, "systems": ["mix"]}).resolved()
    with pytest.raises(UserError, match=r"systems\.models: 'tuned' is not among the encoders; choose from base"):
        validate(EvaluateConfig, {"models": models, "systems": [{"type": "mix", "models": ["tuned"]}]}).resolved()
