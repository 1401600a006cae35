"""Stored vectors of another model are refused by looking at them."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.core.errors import UserError
from pipeline.evaluation.corpus_sample import Sample
from pipeline.evaluation.evaluator import check_same_model
from pipeline.storage import artifact
from pipeline.storage.vectors import l2_normalize

RNG = np.random.default_rng(3)
VECTORS = l2_normalize(RNG.standard_normal((40, 16)).astype(np.float32))
SAMPLE = Sample(rows=list(range(0, 40, 3)), texts=["text"] * 14)


def stored(folder, vectors: np.ndarray) -> str:
    draft = artifact.begin(str(folder), "embed", {}, {}, overwrite=True)
    assert isinstance(draft, artifact.Draft)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float32).ravel()), vectors.shape[1])
    draft.write("vectors", pa.table({"id": [f"d{row}" for row in range(len(vectors))], "vector": column}))
    draft.finish(["vectors"])
    return str(folder)


def test_vectors_of_the_same_model_pass_with_the_rounding_of_bfloat16(tmp_path):
    rounded = VECTORS + RNG.uniform(-1, 1, VECTORS.shape).astype(np.float32) * 2**-9 * np.abs(VECTORS)
    check_same_model(stored(tmp_path, rounded), SAMPLE, VECTORS[SAMPLE.rows])


def test_vectors_of_another_model_are_refused(tmp_path):
    other = l2_normalize(VECTORS + 0.3 * RNG.standard_normal(VECTORS.shape).astype(np.float32))
    with pytest.raises(UserError, match=r"document 'd\d+' has another vector .*cosine \d\.\d+\); run"):
        check_same_model(stored(tmp_path, other), SAMPLE, VECTORS[SAMPLE.rows])


def test_one_vector_in_the_wrong_row_is_refused_and_named(tmp_path):
    swapped = VECTORS.copy()
    swapped[[3, 4]] = swapped[[4, 3]]
    with pytest.raises(UserError, match="'d3'"):
        check_same_model(stored(tmp_path, swapped), SAMPLE, VECTORS[SAMPLE.rows])


def test_vectors_that_are_not_numbers_are_refused(tmp_path):
    broken = VECTORS.copy()
    broken[6] = np.nan
    with pytest.raises(UserError, match="another vector"):
        check_same_model(stored(tmp_path, broken), SAMPLE, VECTORS[SAMPLE.rows])
