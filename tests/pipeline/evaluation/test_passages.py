"""Rankings by passages in an evaluation: against scores computed by hand, as parts of systems, in tables and words."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from lxml import html

from pipeline.core import schema
from pipeline.core.config import validate
from pipeline.core.errors import UserError
from pipeline.embedding import job as embedding
from pipeline.embedding.job import EmbedConfig
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.encoder.passages import PassageCutter, PassagesConfig, passages
from pipeline.evaluation.config import EvaluateConfig
from pipeline.evaluation.corpus import Corpus
from pipeline.evaluation.job import run
from pipeline.evaluation.passages import PassageRanking
from pipeline.evaluation.ranking import RankedQueries
from pipeline.evaluation.stored_passages import PassageTable, rank_stored, stored_passages
from pipeline.search.exact import TopK
from pipeline.search.fusion import mix_scores
from pipeline.storage.artifact import Artifact, begin

ENCODER = {"model": "gt:all-minilm-l6-v2", "layers": 2, "max_length": 32, "dtype": "float32"}
THINGS = ["lamp", "kettle", "bicycle", "sofa", "tripod", "scarf", "oven", "mug", "hose", "shoe"]
FILLING = "It is sold with a warranty of two years. It can be repaired at home by anyone. "


def texts() -> list[str]:
    """Documents of one to seven passages, which name a thing at the end."""
    return [FILLING * (row % 5) + f"This {THINGS[row % 10]} is number {row}." for row in range(40)]


def artifact(folder: Path) -> Artifact:
    rows = {
        "corpus": [{"doc_id": f"d{row}", "text": text, "source": "s"} for row, text in enumerate(texts())],
        "queries": [
            {"query_id": f"q{row}", "text": f"the {THINGS[row % 10]} of number {row}", "source": "s", "split": "test"}
            for row in range(0, 40, 3)
        ],
        "qrels": [
            {"query_id": f"q{row}", "doc_id": f"d{row}", "relevance": 1, "split": "test"} for row in range(0, 40, 3)
        ],
    }
    rows["queries"][2]["text"] = texts()[7]  # a query that is a document
    draft = begin(str(folder / "data"), "build", {}, {"made": "here"}, overwrite=False)
    for table, of_table in rows.items():
        draft.write(table, pa.Table.from_pylist(of_table, schema=schema.TABLES[table]))
    return draft.finish(list(rows))


def wanted_scores(share: float, queries: list[str], tokens: int, overlap: int) -> np.ndarray:
    """Scores [Q, N] of the documents, from vectors of the whole texts and of passages one by one."""
    encoder = Encoder.load(EncoderConfig.model_validate(ENCODER), "cpu")
    asked, documents = encoder.encode(queries, "query"), texts()
    spans = PassageCutter(encoder, PassagesConfig(tokens=tokens, overlap=overlap)).cut(documents)
    best = [
        (asked @ encoder.encode(passages(text, cut), "document").T).max(axis=1)
        for text, cut in zip(documents, spans, strict=True)
    ]
    return (1 - share) * np.stack(best, axis=1) + share * asked @ encoder.encode(documents, "document").T


@pytest.mark.ray
def test_documents_are_ranked_by_their_best_passage(ray_session: None, minilm: str, tmp_path: Path):
    data = artifact(tmp_path)
    settings = {
        "run": str(tmp_path), "models": {"base": ENCODER}, "variants": None, "num_actors": 2,
        "passages": [{"tokens": 24, "full_text": 0, "name": "best"}, {"tokens": 24, "overlap": 8}],
        "systems": [{"type": "mix", "weight": 0.5}],
    }  # fmt: skip
    done = run(validate(EvaluateConfig, settings))
    found = json.loads(Path(done.path, "metrics.json").read_text())
    assert list(found["models"]) == [
        *("bm25", "base", "base-best", "base-passages"), *("base-mix", "base-best-mix", "base-passages-mix"),
    ]  # fmt: skip
    assert found["models"]["base-best"]["passages"] == {
        "model": "base", "tokens": 24, "overlap": 0, "full_text": 0.0, "late": False,
    }  # fmt: skip

    queries = data.read("queries")
    ids = queries["query_id"].to_pylist()
    rankings: dict[str, TopK] = {}
    for name in found["models"]:
        rows = pq.read_table(Path(done.path, "runs", f"{name}.parquet")).to_pylist()
        best = TopK.empty(len(ids), 100)
        for row in rows:
            place = ids.index(row["query_id"]), row["rank"] - 1
            best.scores[place], best.rows[place] = row["score"], int(row["doc_id"][1:])
        rankings[name] = best
    for name, share, overlap in (("base-best", 0.0, 0), ("base-passages", 0.5, 8)):
        wanted = wanted_scores(share, queries["text"].to_pylist(), 24, overlap)
        for query, (scores, rows) in enumerate(zip(rankings[name].scores, rankings[name].rows, strict=True)):
            kept = rows[rows >= 0]
            left_out = {7} if query == 2 else set()
            assert set(kept.tolist()) == set(range(40)) - left_out
            assert np.allclose(scores[: len(kept)], wanted[query][kept], atol=1e-4)
    mixed = mix_scores(rankings["base-passages"], rankings["bm25"], 0.5, 100)
    assert rankings["base-passages-mix"].rows.tolist() == mixed.rows.tolist()

    tested = {(test["model"], test["baseline"]) for test in found["comparisons"] if test["metric"] == "ndcg@10"}
    assert {("base-best", "base"), ("base-passages-mix", "base-passages"), ("base-passages-mix", "bm25")} <= tested
    text = html.document_fromstring(Path(done.path, "report.html").read_text()).text_content()
    assert "base ranks documents by their best passage of at most 24 tokens, 8 of which may repeat, with the" in text
    assert found["models"]["base-best"]["mrr@10"] > found["models"]["base"]["mrr@10"]


@pytest.mark.ray
def test_stored_passages_are_ranked_as_embedded_ones(ray_session: None, minilm: str, tmp_path: Path):
    data = artifact(tmp_path)
    cut = {"tokens": 24, "overlap": 8}
    stored = embedding.run(
        validate(EmbedConfig, {"run": str(tmp_path), "encoder": ENCODER, "passages": cut, "rows_per_shard": 13})
    )
    settings = {
        "run": str(tmp_path), "models": {"base": ENCODER}, "variants": None, "num_actors": 1, "bm25": False,
        "passages": [cut, {**cut, "full_text": 0.25, "name": "others"}],
    }  # fmt: skip
    by_vectors = run(validate(EvaluateConfig, settings))
    by_texts = run(validate(EvaluateConfig, {**settings, "out": str(tmp_path / "b"), "vectors": str(tmp_path / "no")}))
    for name in ("base", "base-passages", "base-others"):
        one, other = (pq.read_table(Path(report.path, "runs", f"{name}.parquet")) for report in (by_vectors, by_texts))
        assert one.drop_columns("score").equals(other.drop_columns("score"))
        assert np.abs(one["score"].to_numpy() - other["score"].to_numpy()).max() < 1e-5

    encoder = Encoder.load(EncoderConfig.model_validate(ENCODER), "cpu")
    identity, corpus = encoder.identity, Corpus(data)
    assert stored_passages(stored.path, data, corpus, identity, PassageRanking(**cut)) is not None
    for other in ({**cut, "tokens": 25}, {**cut, "full_text": 0.0}, {**cut, "late": True}):
        assert stored_passages(stored.path, data, corpus, identity, PassageRanking(**other)) is None
    assert stored_passages(stored.path, data, corpus, identity | {"weights": "x"}, PassageRanking(**cut)) is None
    table = PassageTable(stored)
    assert table.order() == corpus.order()
    ranked = RankedQueries(np.arange(3), (np.array([1]), np.array([30])))
    vectors = ray.put(encoder.encode([f"the {THINGS[row]} of number {row}" for row in range(3)], "query"))
    whole = rank_stored(vectors, table.document_chunks(10**6), ranked, 7)
    for rows in (1, 11):
        chunks = table.document_chunks(rows)
        assert len(chunks) > 5 and sum(chunk.rows for chunk in chunks) == stored.rows("vectors")
        parts = rank_stored(vectors, chunks[::-1], ranked, 7)
        assert parts.rows.tolist() == whole.rows.tolist() and parts.scores.tolist() == whole.scores.tolist()


@pytest.mark.ray
def test_passages_that_the_encoder_cannot_read_are_refused_at_once(ray_session: None, minilm: str, tmp_path: Path):
    artifact(tmp_path)
    settings = {"run": str(tmp_path), "models": {"base": ENCODER}, "passages": {"tokens": 64}}
    with pytest.raises(UserError, match=r"passages\.tokens 64: the encoder cuts documents at 32 tokens"):
        run(validate(EvaluateConfig, settings))


def test_names_are_their_own(minilm: str):
    with pytest.raises(UserError, match="two are called 'passages'"):
        validate(EvaluateConfig, {"passages": [{}, {"tokens": 64}]})
    with pytest.raises(UserError, match="passages and a system are both called 'mix'"):
        validate(EvaluateConfig, {"passages": {"name": "mix"}, "systems": ["mix"]})
    models = {"base": {"model": minilm}}
    chosen = {"passages": {}, "systems": [{"type": "mix", "models": ["base-passages"]}], "models": models}
    assert validate(EvaluateConfig, chosen).resolved().systems[0].models == ["base-passages"]
    with pytest.raises(UserError, match=r"systems\.models: 'base-pages' .* choose from base, base-passages"):
        wrong = {**chosen, "systems": [{"type": "mix", "models": ["base-pages"]}]}
        validate(EvaluateConfig, wrong).resolved()
