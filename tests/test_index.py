"""The index and search in it: near enough to exact, what answers show, and what is refused."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline import search
from pipeline.artifact import Artifact, Draft
from pipeline.config import validate
from pipeline.embed.columns import Format, calibrated, columns
from pipeline.encoder import Encoder, EncoderConfig
from pipeline.errors import UserError
from pipeline.index.ask import Searcher
from pipeline.index.job import IndexConfig, run
from pipeline.index.kinds import Flat, Hnsw, IvfPq, recall

NAMES = ("kettle", "lamp", "mug", "shoes", "scarf", "headphones", "bicycle", "hose", "tripod", "sofa", "oven", "tent")
WORDS = ("red", "wireless", "large", "cheap", "wooden", "steel", "soft", "old", "small")
ENCODER = EncoderConfig(layers=1, dtype="float32")
FORMATS = (Format(), Format(dtype="int8", dim=64))


@pytest.fixture(scope="module")
def vectors(tmp_path_factory, minilm) -> Artifact:
    """Vectors of 108 products, in two files, as the embedding job leaves them."""
    texts = [f"{word} {name}" for name in NAMES for word in WORDS]
    encoder = Encoder.load(ENCODER, "cpu")
    made = encoder.encode(texts, "document")
    ranges = calibrated(made, FORMATS, scaled=True)
    ids = pa.chunked_array([[f"p{row}" for row in range(len(texts))]])
    table = columns(ids, made, FORMATS, ranges, True).append_column("title", pa.array(texts))
    draft = Draft(str(tmp_path_factory.mktemp("run") / "vectors"), "embed", {}, {})
    draft.write("vectors", table.slice(0, 60), 0)
    draft.write("vectors", table.slice(60), 1)
    notes = {"encoder": encoder.identity, "model": ENCODER.model_dump(mode="json"), "calibration": ranges}
    return draft.finish(["vectors"], **notes)


def settings(vectors: Artifact, out: Path, **more) -> IndexConfig:
    return validate(IndexConfig, {"vectors": vectors.path, "out": str(out), "threads": 1} | more)


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_search_shows_the_nearest_documents_with_titles_and_scores(vectors, tmp_path, kind):
    pytest.importorskip("faiss")
    made = run(settings(vectors, tmp_path / "index", type={"type": kind}))
    assert made.manifest.notes["recall"] >= 0.99
    found, exact = Searcher(made.path)("wireless headphones", 5), Searcher(vectors.path)("wireless headphones", 5)
    assert found[0].title == "wireless headphones" and found[0].score == pytest.approx(1, abs=1e-5)
    assert [hit.doc_id for hit in found] == [hit.doc_id for hit in exact]
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in exact], abs=1e-5)
    assert run(settings(vectors, tmp_path / "index", type={"type": kind})).manifest == made.manifest


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
        run(settings(vectors, tmp_path / "b", type={"type": "ivfpq"}))
    with pytest.raises(UserError, match="is no artifact of index or embed"):
        Searcher(str(tmp_path))
    other = Encoder.load(ENCODER, "cpu")
    other.transformer.embeddings.word_embeddings.weight.data[:, 0] += 1
    other.save(tmp_path / "other")
    with pytest.raises(UserError, match="was made by another model"):
        Searcher(vectors.path, model=str(tmp_path / "other"))


@pytest.mark.parametrize("kind", [Flat(), Hnsw(), IvfPq(cells=16, probes=12, bytes=16)])
def test_every_kind_finds_what_exact_search_finds(kind):
    faiss = pytest.importorskip("faiss")
    from pipeline.index.kinds import Blocks, fill

    rng = np.random.default_rng(4)
    centres = rng.normal(size=(40, 32))
    points = search.unit((centres[rng.integers(0, 40, 2000)] + 0.4 * rng.normal(size=(2000, 32))).astype(np.float32))

    class Held(Blocks):
        dim, count = 32, 2000

        def __iter__(self):
            return iter(np.split(points, 4))

    index = fill(kind, Held(), 1)
    assert isinstance(index, faiss.Index) and index.ntotal == 2000
    _, exact = search.top_k(points[:100], [points], 10)
    assert recall(index.search(points[:100], 10)[1], exact) >= (0.6 if kind.type == "ivfpq" else 0.98)
    assert np.array_equal(Held().sample(500), points[::4])
