"""The index and search in it: near enough to exact, what answers show, and what is refused."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.core.config import validate
from pipeline.core.errors import UserError
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.search import exact as search
from pipeline.search.index import ArtifactVectors
from pipeline.search.job import IndexConfig, run
from pipeline.search.lance_index import Lance
from pipeline.search.query import Searcher
from pipeline.storage.artifact import Artifact, Draft
from pipeline.storage.vectors import VectorFormat, formatted_table, int8_ranges, l2_normalize

NAMES = ("kettle", "lamp", "mug", "shoes", "scarf", "headphones", "bicycle", "hose", "tripod", "sofa", "oven", "tent")
WORDS = ("red", "wireless", "large", "cheap", "wooden", "steel", "soft", "old", "small")
ENCODER = EncoderConfig(layers=1, dtype="float32")
FORMATS = (VectorFormat(), VectorFormat(dtype="int8", dim=64))


@pytest.fixture(scope="module")
def vectors(tmp_path_factory, minilm) -> Artifact:
    """Vectors of 108 products, in two files, as the embedding job leaves them."""
    texts = [f"{word} {name}" for name in NAMES for word in WORDS]
    encoder = Encoder.load(ENCODER, "cpu")
    made = encoder.encode(texts, "document")
    ranges = int8_ranges(made, FORMATS, scaled=True)
    ids = pa.chunked_array([[f"p{row}" for row in range(len(texts))]])
    table = formatted_table(ids, made, FORMATS, ranges, True).append_column("title", pa.array(texts))
    draft = Draft(str(tmp_path_factory.mktemp("run") / "vectors"), "embed", {}, {})
    draft.write("vectors", table.slice(0, 60), 0)
    draft.write("vectors", table.slice(60), 1)
    notes = {"encoder": encoder.identity, "model": ENCODER.model_dump(mode="json"), "calibration": ranges}
    return draft.finish(["vectors"], **notes)


def settings(vectors: Artifact, out: Path, **more) -> IndexConfig:
    return validate(IndexConfig, {"vectors": vectors.path, "out": str(out), "threads": 1} | more)


@pytest.mark.parametrize("kind", ["exact", "flat", "hnsw"])
def test_search_shows_the_nearest_documents_with_titles_and_scores(vectors, tmp_path, kind):
    pytest.importorskip("faiss")
    made = run(settings(vectors, tmp_path / "index", index={"type": kind}))
    assert made.manifest.notes["recall"] >= 0.99
    found, exact = Searcher(made.path)("wireless headphones", 5), Searcher(vectors.path)("wireless headphones", 5)
    assert found[0].title == "wireless headphones" and found[0].score == pytest.approx(1, abs=1e-5)
    assert [hit.doc_id for hit in found] == [hit.doc_id for hit in exact]
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in exact], abs=1e-5)
    assert run(settings(vectors, tmp_path / "index", index={"type": kind})).manifest == made.manifest


def test_columns_of_codes_and_fewer_dimensions_can_be_indexed(vectors, tmp_path):
    pytest.importorskip("faiss")
    made = run(settings(vectors, tmp_path / "index", column="vector_int8_64"))
    assert made.manifest.notes["dim"] == 64
    assert Searcher(made.path)("wireless headphones", 1)[0].title == "wireless headphones"


def test_what_does_not_fit_is_refused(vectors, tmp_path):
    pytest.importorskip("faiss")
    with pytest.raises(UserError, match=r"no column of vectors 'title'; it has vector, vector_int8_64"):
        run(settings(vectors, tmp_path / "a", column="title"))
    with pytest.raises(UserError, match="needs 256 vectors to learn its codes from, there are 108"):
        run(settings(vectors, tmp_path / "b", index={"type": "ivfpq"}))
    with pytest.raises(UserError, match="is no artifact of index or embed"):
        Searcher(str(tmp_path))
    other = Encoder.load(ENCODER, "cpu")
    other.transformer.embeddings.word_embeddings.weight.data[:, 0] += 1
    other.save(tmp_path / "other")
    with pytest.raises(UserError, match="was made by another model"):
        Searcher(vectors.path, model=str(tmp_path / "other"))


def many(folder: Path, count: int = 600) -> Artifact:
    """Vectors around 20 centres, in files and row groups of uneven sizes."""
    rng = np.random.default_rng(7)
    made = rng.normal(size=(20, 32))[rng.integers(0, 20, count)] + 0.3 * rng.normal(size=(count, 32))
    ids = pa.chunked_array([[f"d{row}" for row in range(count)]])
    table = formatted_table(ids, l2_normalize(made.astype(np.float32)), (VectorFormat(),), {}, True)
    table = table.append_column("title", pa.array([f"title {row}" for row in range(count)]))
    draft = Draft(str(folder / "many"), "embed", {}, {})
    draft.write("vectors", table.slice(0, 250), 0)
    draft.write("vectors", table.slice(250), 1)
    return draft.finish(["vectors"], encoder={}, model={})


@pytest.mark.parametrize("index", ["none", "ivf_pq", "ivf_hnsw_sq"])
def test_a_lance_dataset_finds_what_exact_search_finds(tmp_path, index):
    """Its rows are the documents of the vectors, in their order, with true cosines."""
    lance = pytest.importorskip("lance")
    found = many(tmp_path)
    kind = {"type": "lance", "index_type": index, "num_partitions": 4, "num_sub_vectors": 16}
    made = run(settings(found, tmp_path / "index", index=kind))
    assert made.manifest.notes["recall"] >= (1.0 if index == "none" else 0.95)
    place = str(tmp_path / "index" / "index.lance")
    held, given = lance.dataset(place).to_table(), found.read("vectors")
    assert held["row"].to_pylist() == list(range(600))
    for name in ("id", "title"):
        assert held[name].to_pylist() == given[name].to_pylist()
    vectors = np.concatenate(list(ArtifactVectors(found, "vector")))
    np.testing.assert_array_equal(np.stack(held["vector"].to_numpy()), vectors)

    asked = Lance.model_validate(kind).open(place)
    scores, rows = asked.search(vectors[:5], 3)
    assert rows[:, 0].tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", vectors[:5], vectors[rows]), atol=1e-5)
    if index == "none":
        exact, nearest = search.top_k(vectors[:5], ArtifactVectors(found, "vector"), 3)
        assert np.array_equal(rows, nearest)
        np.testing.assert_allclose(scores, exact, atol=1e-5)
    assert [one["title"] for one in asked.documents(rows[:, 0])] == [f"title {row}" for row in range(5)]


def test_a_lance_dataset_is_asked_like_any_index(vectors, tmp_path):
    pytest.importorskip("lance")
    made = run(settings(vectors, tmp_path / "index", index={"type": "lance"}))
    found, exact = Searcher(made.path)("wireless headphones", 5), Searcher(vectors.path)("wireless headphones", 5)
    assert [(hit.doc_id, hit.title) for hit in found] == [(hit.doc_id, hit.title) for hit in exact]
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in exact], abs=1e-5)
    few = Searcher(made.path)("wireless headphones", 500)
    assert len(few) == 108
    assert run(settings(vectors, tmp_path / "index", index={"type": "lance"})).manifest == made.manifest
    with pytest.raises(UserError, match=r"index.index_type ivf_pq: needs 256 vectors, there are 108; choose none"):
        run(settings(vectors, tmp_path / "b", index={"type": "lance", "index_type": "ivf_pq"}))
    with pytest.raises(UserError, match=r"index.num_sub_vectors 7: does not divide the width 32 of the vectors"):
        run(
            settings(
                many(tmp_path), tmp_path / "c", index={"type": "lance", "index_type": "ivf_pq", "num_sub_vectors": 7}
            )
        )


def test_a_lance_dataset_on_an_object_store_is_brought_here_to_be_asked(vectors):
    pytest.importorskip("lance")
    made = run(settings(vectors, "memory://lance/index", index={"type": "lance"}))
    assert made.manifest.notes["recall"] == 1.0
    assert Searcher("memory://lance/index")("wireless headphones", 1)[0].title == "wireless headphones"
