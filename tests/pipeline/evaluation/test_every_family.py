"""Every layout of the zoo through the jobs: embed, index, search and evaluate give what Sentence Transformers gives.

Models are ranked in this process; one evaluation on Ray's actors has the same figures.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

from pipeline.core.config import validate
from pipeline.embedding import job as embedding
from pipeline.evaluation import job as evaluation
from pipeline.evaluation.config import EvaluateConfig
from pipeline.metrics.retrieval import retrieval
from pipeline.search import job as indexing
from pipeline.search.query import Searcher
from pipeline.storage.artifact import begin
from tests.pipeline.evaluation.test_job import rows
from tests.support import zoo
from tests.support.corpora import stay_in_process

peers = pytest.importorskip("sentence_transformers")
pytestmark = pytest.mark.ray
DOCUMENTS = {f"d{i}": " ".join(f"{word} {i}" for word in zoo.TEXTS[i % 7].split()[: 1 + i % 5]) for i in range(40)}
QUERIES = {f"q{i}": f"{list(DOCUMENTS.values())[3 * i][:20]} please" for i in range(12)}
QRELS = {query: {f"d{3 * i}": 2, f"d{(3 * i + 7) % 40}": 1} for i, query in enumerate(QUERIES)}
NAMES = {layout: f"m{number}" for number, layout in enumerate(zoo.LAYOUTS)}
ON_ACTORS = ["Qwen3-Embedding", "nomic_bert, truncated, dot", "router"]
Floats = npt.NDArray[np.float32]


class Shop(NamedTuple):
    """A run with its data, and the models by layout."""

    run: Path
    models: dict[str, str]

    def evaluate(self, layouts: list[str], out: str) -> dict[str, dict[str, float]]:
        """Scores of models by their names, without stored vectors."""
        models = {NAMES[layout]: {"model": self.models[layout], "dtype": "float32"} for layout in layouts}
        settings = {"run": str(self.run), "out": str(self.run / out), "models": models, "bm25": False}
        evaluation.run(validate(EvaluateConfig, settings))
        return json.loads((self.run / out / "metrics.json").read_text())["models"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Shop:
    run = tmp_path_factory.mktemp("shop")
    draft = begin(str(run / "data"), "build", {}, {"made": "here"}, overwrite=False)
    draft.write("corpus", rows("corpus", [{"doc_id": name, "text": text} for name, text in DOCUMENTS.items()]))
    asked = [{"query_id": name, "text": text, "split": "test"} for name, text in QUERIES.items()]
    draft.write("queries", rows("queries", asked))
    judged = [
        {"query_id": query, "doc_id": document, "relevance": grade, "split": "test"}
        for query, grades in QRELS.items()
        for document, grade in grades.items()
    ]
    draft.write("qrels", rows("qrels", judged))
    draft.finish(["corpus", "queries", "qrels"])
    return Shop(run, {layout: zoo.make(layout, tmp_path_factory.mktemp("zoo")) for layout in zoo.LAYOUTS})


@pytest.fixture(scope="module")
def evaluated(shop, ray_session) -> dict[str, dict[str, float]]:
    with pytest.MonkeyPatch.context() as patch:
        stay_in_process(patch)
        return shop.evaluate(list(zoo.LAYOUTS), "report")


def peer(path: str) -> tuple[Floats, Floats]:
    """Vectors of queries and documents, scaled to length 1 unless the model is made for the dot product."""
    model = peers.SentenceTransformer(path, device="cpu")
    sides = model.encode_query([*QUERIES.values()]), model.encode_document([*DOCUMENTS.values()])
    if model.similarity_fn_name == "dot":
        return sides
    return tuple(side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides)


@pytest.mark.parametrize("layout", zoo.LAYOUTS)
def test_a_layout_goes_through_the_jobs(shop, evaluated, ray_session, monkeypatch, tmp_path, layout):
    stay_in_process(monkeypatch)
    queries, documents = peer(shop.models[layout])
    scores = queries @ documents.T
    settings = {"data": str(shop.run / "data"), "encoder": {"model": shop.models[layout], "dtype": "float32"}}
    vectors = embedding.run(validate(embedding.EmbedConfig, settings | {"out": str(tmp_path / "vectors")}))
    table = pq.read_table(vectors.files("vectors"))
    found = np.array(table["vector"].to_pylist())
    lengths = np.linalg.norm(found, axis=1), np.linalg.norm(documents, axis=1)
    assert table["id"].to_pylist() == [*DOCUMENTS]
    assert ((found * documents).sum(axis=1) / lengths[0] / lengths[1]).min() >= 0.99999

    config = {"vectors": str(tmp_path / "vectors"), "out": str(tmp_path / "index"), "index": {"type": "flat"}}
    recall = indexing.run(validate(indexing.IndexConfig, config)).manifest.notes["recall"]
    assert recall > 0.98, "texts that truncation makes equal are found in any order"
    for place in ("vectors", "index"):
        searcher = Searcher(str(tmp_path / place))
        for row, text in enumerate([*QUERIES.values()][:4]):
            hits = searcher(text, 5)
            np.testing.assert_allclose([hit.score for hit in hits], np.sort(scores[row])[::-1][:5], rtol=1e-4)
            np.testing.assert_allclose(
                [scores[row, int(hit.doc_id[1:])] for hit in hits], [hit.score for hit in hits], rtol=1e-4
            )

    ranked = {query: [f"d{i}" for i in np.argsort(-row)] for query, row in zip(QUERIES, scores, strict=True)}
    for metric, values in retrieval(ranked, QRELS, ["ndcg@10", "mrr@10"]).items():
        assert evaluated[NAMES[layout]][metric] == pytest.approx(np.mean(list(values.values())), abs=1e-6)


def test_the_actors_of_ray_have_the_same_figures(shop, evaluated, ray_session):
    on_actors = shop.evaluate(ON_ACTORS, "on_actors")
    for layout in ON_ACTORS:
        here, there = evaluated[NAMES[layout]], on_actors[NAMES[layout]]
        assert here.keys() == there.keys()
        for metric in ("ndcg@10", "map", "recall@100"):
            assert there[metric] == pytest.approx(here[metric], abs=1e-6)
