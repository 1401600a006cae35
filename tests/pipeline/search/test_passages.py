"""Searches by passages: documents by their best passage, which a hit shows, in every type of index."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.config import validate
from pipeline.core.errors import UserError
from pipeline.embedding import job as embedding
from pipeline.embedding.job import EmbedConfig
from pipeline.encoder.cross_encoder import CrossEncoderConfig, Reranker
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.encoder.passages import PassageCutter, PassagesConfig, passages
from pipeline.search.bm25_index import BM25Index
from pipeline.search.exact import TopK
from pipeline.search.fusion import mix_scores
from pipeline.search.job import IndexConfig, run
from pipeline.search.query import Searcher
from pipeline.storage.artifact import Artifact
from scripts.tripletail.commands import search as command
from tests.support.mining import reranker_directory

ENCODER = {"model": "gt:all-minilm-l6-v2", "layers": 2, "max_length": 32, "dtype": "float32", "backend": "torch"}
CUT = {"tokens": 20, "overlap": 4, "full_text": 0.25}
THINGS = ["kettle", "lamp", "bicycle", "sofa", "tripod", "scarf", "oven"]
FILLING = "It is sold with a warranty of two years. It can be repaired at home by anyone. "
TEXTS = [
    FILLING * (row % 5) + f"The {THINGS[row % 7]} number {row} is red. " + FILLING * (row % 3) for row in range(35)
]
QUERIES = ["a red lamp", "the bicycle of number 16", "repair at home", "oven"]


@pytest.fixture(scope="module")
def vectors(minilm: str, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("run")
    rows = {"id": [f"d{row}" for row in range(35)], "text": TEXTS, "title": [f"Nr {row}" for row in range(35)]}
    pq.write_table(pa.table(rows), folder / "in.parquet")
    given = {
        "input": str(folder / "in.parquet"), "out": str(folder / "vectors"), "encoder": ENCODER, "passages": CUT,
        "columns": ["title", "text"], "rows_per_shard": 9,
    }  # fmt: skip
    return embedding.run(validate(EmbedConfig, given))


def by_hand(query: str, k: int) -> list[tuple[float, str, str]]:
    """Scores, ids and best passages of the best documents."""
    encoder = Encoder.load(EncoderConfig.model_validate(ENCODER), "cpu")
    asked, cutter, hits = encoder.encode([query], "query")[0], PassageCutter(encoder, PassagesConfig(**CUT)), []
    for row, text in enumerate(TEXTS):
        cut = passages(text, cutter.cut([text])[0])
        scores = encoder.encode(cut, "document") @ asked
        best = int(np.argmax(scores))
        whole = float(encoder.encode([text], "document")[0] @ asked)
        hits.append((0.75 * float(scores[best]) + 0.25 * whole, f"d{row}", cut[best]))
    return sorted(hits, key=lambda hit: -hit[0])[:k]


@pytest.mark.parametrize("kind", ["none", "exact", "flat", "hnsw", "lance"])
def test_documents_are_found_by_their_best_passage(vectors: Artifact, tmp_path: Path, kind: str):
    path = vectors.path
    if kind != "none":
        pytest.importorskip("lance" if kind == "lance" else "faiss")
        settings = {"vectors": path, "out": str(tmp_path / "index"), "threads": 1, "index": {"type": kind}}
        index = run(validate(IndexConfig, settings))
        assert index.manifest.notes["passages"]["tokens"] == 20
        path = index.path
    searcher = Searcher(path)
    for query in QUERIES:
        hits, wanted = searcher(query, 6), by_hand(query, 6)
        assert [hit.doc_id for hit in hits] == [name for _, name, _ in wanted], query
        assert [hit.score for hit in hits] == pytest.approx([score for score, _, _ in wanted], abs=1e-4)
        assert [hit.passage for hit in hits] == [passage for _, _, passage in wanted]
        assert hits[0].title == f"Nr {hits[0].doc_id[1:]}" and hits[0].columns["passage_start"] >= 0
    assert len(searcher("lamp", 100)) == 35 and len({hit.doc_id for hit in searcher("lamp", 100)}) == 35


@pytest.mark.parametrize("kind", ["exact", "lance"])
def test_passages_and_words_of_whole_documents_are_mixed(vectors: Artifact, tmp_path: Path, kind: str):
    """The same scores as mixing by hand; a document that words alone found is shown by its first passage."""
    pytest.importorskip("lance" if kind == "lance" else "faiss")
    settings = {"vectors": vectors.path, "out": str(tmp_path / "index"), "index": {"type": kind}, "bm25": True}
    index = run(validate(IndexConfig, settings))
    assert index.rows("texts") == 35 and index.read("texts")["text"].to_pylist() == TEXTS
    words = BM25Index.of(TEXTS)
    mixed, lexical = Searcher(index.path, system={"type": "mix", "weight": 0.7}), Searcher(index.path, system="bm25")
    assert Searcher(index.path)("oven", 3) == Searcher(vectors.path)("oven", 3) or kind == "lance"
    for query in QUERIES:
        dense = {name: (score, passage) for score, name, passage in by_hand(query, 35)}
        rows = np.array([[int(name[1:]) for name in dense]])
        ranking = TopK(np.array([[score for score, _ in dense.values()]], np.float32), rows)
        wanted = mix_scores(ranking, words.top_k([query], 100), 0.7, 6)
        hits = mixed(query, 6)
        assert [hit.doc_id for hit in hits] == [f"d{row}" for row in wanted.rows[0]], query
        assert [hit.score for hit in hits] == pytest.approx(wanted.scores[0].tolist(), abs=1e-4)
        assert [hit.passage for hit in hits] == [dense[hit.doc_id][1] for hit in hits]
        scores, rows_of_words = words.search(query, 6)
        found = lexical(query, 6)
        assert [hit.doc_id for hit in found] == [f"d{row}" for row in rows_of_words]
        assert [hit.score for hit in found] == pytest.approx(scores.tolist())
        assert all(hit.columns["passage_start"] == 0 for hit in found)


def test_whole_documents_of_passages_are_reranked(vectors: Artifact, tmp_path: Path, minilm: str):
    """A cross-encoder scores the texts of whole documents; without them the search says which index has them."""
    cross = {"model": reranker_directory(tmp_path / "reranker", minilm), "dtype": "float32"}
    system = {"type": "rerank", "of": "mix", "cross_encoder": cross, "top": 8}
    plain = {"vectors": vectors.path, "index": {"type": "exact"}}
    index = run(validate(IndexConfig, {**plain, "out": str(tmp_path / "index"), "bm25": True}))
    scorer = Reranker(CrossEncoderConfig.model_validate(cross), "cpu")
    for query in QUERIES:
        hits = Searcher(index.path, system=system)(query, 5)
        first = [hit.doc_id for hit in Searcher(index.path, system="mix")(query, 8)]
        scores = dict(
            zip(sorted(first), scorer.score([query] * 8, [TEXTS[int(n[1:])] for n in sorted(first)]), strict=True)
        )
        wanted = sorted(scores, key=lambda name: (-scores[name], int(name[1:])))[:5]  # ties by row
        assert [hit.doc_id for hit in hits] == wanted
        assert all(hit.passage and hit.passage in TEXTS[int(hit.doc_id[1:])] for hit in hits)
    bare = run(validate(IndexConfig, {**plain, "out": str(tmp_path / "bare")}))
    with pytest.raises(UserError, match="holds no texts to rerank"):
        Searcher(bare.path, system={**system, "of": "dense"})


def test_passages_without_words_name_the_command_that_brings_them(vectors: Artifact, tmp_path: Path):
    settings = {"vectors": vectors.path, "out": str(tmp_path / "index"), "index": {"type": "exact"}}
    index = run(validate(IndexConfig, settings))
    with pytest.raises(UserError, match=r"holds no BM25.*--bm25 true"):
        Searcher(index.path, system="mix")


def test_the_command_prints_the_passage(vectors: Artifact, capsys: pytest.CaptureFixture[str]):
    command.main(["the bicycle of number 16", "--index", vectors.path, "--top_k", "2"])
    lines = capsys.readouterr().out.splitlines()
    (_, name, passage), *_ = by_hand("the bicycle of number 16", 1)
    assert name in lines[1] and lines[2].strip() == passage.strip()
