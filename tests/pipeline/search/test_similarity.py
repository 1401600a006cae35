"""A model made for the dot product is ranked by it in validation, evaluation, mining's vectors, indexes and search."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.core.errors import UserError
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.evaluation.ranking import encode_texts
from pipeline.search.job import IndexConfig, run
from pipeline.search.query import Searcher
from pipeline.storage.artifact import Draft
from pipeline.storage.vectors import VectorFormat, comparable, formatted_table, l2_normalize
from tests.support import zoo
from training.loop.validation import RetrievalValidation

pytest.importorskip("sentence_transformers")
LAYOUT = "nomic_bert, truncated, dot"
DOCUMENTS = [" ".join(f"{word} {i}" for word in zoo.TEXTS[i % 7].split()[: 1 + i % 5]) for i in range(60)]


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> dict:
    path = zoo.make(LAYOUT, tmp_path_factory.mktemp("dot"))
    return {"model": path, "dtype": "float32", "backend": "torch"}


@pytest.fixture(scope="module")
def encoder(settings) -> Encoder:
    return Encoder.load(EncoderConfig(**settings), "cpu")


def ranked(encoder: Encoder, text: str) -> tuple[list[int], list[int]]:
    """Documents by falling inner product, and by falling cosine."""
    query, documents = encoder.encode([text], "query"), encoder.encode(DOCUMENTS, "document")
    dots = documents @ query[0]
    return (-dots).argsort().tolist(), (-dots / np.linalg.norm(documents, axis=1)).argsort().tolist()


def test_an_index_and_a_search_rank_by_the_dot_product(settings, encoder, tmp_path):
    vectors = encoder.encode(DOCUMENTS, "document")
    ids = pa.chunked_array([[f"d{row}" for row in range(len(DOCUMENTS))]])
    draft = Draft(str(tmp_path / "vectors"), "embed", {}, {})
    draft.write("vectors", formatted_table(ids, vectors, (VectorFormat(),), {}, encoder.normalize), 0)
    draft.finish(["vectors"], encoder=encoder.identity, model=EncoderConfig(**settings).model_dump(mode="json"))
    run(IndexConfig(vectors=str(tmp_path / "vectors"), out=str(tmp_path / "index"), index={"type": "exact"}))
    dots, cosines = ranked(encoder, "running shoes")
    assert dots[:10] != cosines[:10], "the two rank otherwise"
    for place in ("vectors", "index"):
        hits = Searcher(str(tmp_path / place))("running shoes", 10)
        assert [int(hit.doc_id[1:]) for hit in hits] == dots[:10]
        assert hits[0].score == pytest.approx(
            float((vectors @ encoder.encode(["running shoes"], "query")[0]).max()), abs=1e-4
        )


def test_evaluation_and_validation_compare_by_the_dot_product(settings, encoder):
    _, extra, sample, (identity, dim, _) = encode_texts(EncoderConfig(**settings), zoo.TEXTS[:3], DOCUMENTS[:2], [], 1)
    np.testing.assert_allclose(extra, encoder.encode(DOCUMENTS[:2], "document"), rtol=1e-5)
    assert (identity["similarity"], dim, len(sample)) == ("dot", 24, 0)
    dots, cosines = ranked(encoder, "running shoes")
    document = next(row for row in range(60) if (dots.index(row) < 10) != (cosines.index(row) < 10))
    judged = {"q": {f"d{document}": 1}}
    nothing = (np.zeros(0, np.int64), np.zeros(0, np.int64))
    corpus = {f"d{row}": text for row, text in enumerate(DOCUMENTS)}
    validation = RetrievalValidation({"q": "running shoes"}, corpus, judged, nothing, "")
    assert (validation(encoder)["ndcg@10"] > 0) == (dots.index(document) < 10)


def test_similarities_are_named_and_others_refused(settings):
    vectors = np.asarray([[3.0, 4.0]], np.float32)
    np.testing.assert_array_equal(comparable(vectors, "dot"), vectors)
    np.testing.assert_array_equal(comparable(vectors, "cosine"), l2_normalize(vectors))
    with pytest.raises(UserError, match="similarity 'maxsim' is not supported; choose from cosine, dot"):
        comparable(vectors, "maxsim")
    assert Encoder.load(EncoderConfig(**settings, similarity="cosine"), "cpu").similarity == "cosine"
