"""Smaller vectors: what int8 and bits give back, and that their rankings do not depend on how a corpus is cut."""

import numpy as np
import pytest

from pipeline.core.errors import UserError
from pipeline.evaluation import vector_variants
from pipeline.evaluation.vector_variants import OVERSAMPLING, Variant, VariantsConfig, signs
from pipeline.search.exact import top_k
from pipeline.storage.vectors import l2_normalize


def vectors(seed, count, dim=32):
    return l2_normalize(np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32))


def test_a_store_gives_int8_back_within_half_a_step():
    held, variant = vectors(0, 200), Variant(16, "int8")
    ranges = vector_variants.calibrate([variant], held)
    low, high = np.array(ranges["16"])
    back = variant.stored_documents(held, ranges)
    assert back.dtype == np.float32 and back.shape == (200, 16)
    assert (np.abs(back - l2_normalize(held[:, :16])) <= (high - low) / 255 / 2 + 1e-6).all()


def test_signs_count_the_hamming_distance():
    a, b = vectors(1, 1)[0], vectors(2, 1)[0]
    assert signs(a) @ signs(b) == 32 - 2 * np.count_nonzero((a > 0) != (b > 0))


def test_variants_of_a_model():
    planned = vector_variants.plan(VariantsConfig(), 384)
    assert [one.dim for one in planned if one.dtype == "float32"] == [192, 96, 48]
    assert [one.dim for one in planned if one.dtype == "int8"] == [384, 192, 96, 48]
    assert {(one.dtype, one.bytes) for one in planned if one.dim == 96} == {
        ("float32", 384),
        ("int8", 96),
        ("binary", 12),
    }
    chosen = vector_variants.plan(VariantsConfig(dims=[64, 512], dtypes=["float32"]), 384)
    assert chosen == [Variant(64, "float32")], "a model has no more dimensions than it has"
    assert vector_variants.plan(VariantsConfig(dims=[], dtypes=["float32"]), 384) == []
    assert vector_variants.plan(VariantsConfig(dims=[50], dtypes=["binary"]), 100) == [], "bits go eight a byte"


@pytest.mark.parametrize("variant", [Variant(32, "int8"), Variant(16, "float32"), Variant(32, "binary")])
def test_rankings_do_not_depend_on_the_pieces(variant):
    queries, corpus = vectors(3, 20), vectors(4, 500)
    corpus[250:] = corpus[:250]  # every document twice, so that ties must be broken
    ranges = vector_variants.calibrate([variant], corpus[:100])

    def ranked(cuts):
        found = vector_variants.empty(variant, 20, 10)
        for first, last in cuts:
            found.merge(vector_variants.rank(variant, queries, corpus[first:last], ranges, 10, first))
        return found.top(10)

    whole = ranked([(0, 500)])
    for cuts in ([(0, 3), (3, 260), (260, 500)], [(260, 500), (0, 260)]):
        other = ranked(cuts)
        assert (other.rows == whole.rows).all() and (other.scores == whole.scores).all()
    stored = variant.stored_documents(corpus, ranges)
    exact = top_k(variant.shortened_queries(queries), [stored], 10)
    if variant.dtype == "binary":
        near = top_k(signs(variant.shortened_queries(queries)), [stored], 10 * OVERSAMPLING)[1]
        assert all(set(rows) <= set(held) for rows, held in zip(whole.rows, near, strict=True))
        assert (np.diff(whole.scores, axis=1) <= 0).all()
        assert (whole.rows[:, 0] == exact[1][:, 0]).mean() > 0.8, "rescored by the query's own floats"
    else:
        assert (whole.rows == exact[1]).all()


def test_whole_vectors_lose_little_in_int8_and_more_in_bits():
    queries, corpus = vectors(5, 50), vectors(6, 400)
    exact = top_k(queries, [corpus], 10)[1]
    kept = {}
    for dtype in ("int8", "binary"):
        variant = Variant(32, dtype)
        ranges = vector_variants.calibrate([variant], corpus)
        rows = vector_variants.rank(variant, queries, corpus, ranges, 10, 0).top(10).rows
        kept[dtype] = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, rows, strict=True)])
    assert kept["int8"] > 0.95 > kept["binary"] > 0.4


def test_a_small_corpus_leaves_places_empty():
    found = vector_variants.empty(Variant(32, "binary"), 2, 10)
    found.merge(vector_variants.rank(Variant(32, "binary"), vectors(7, 2), vectors(8, 3), {}, 10, 0))
    top = found.top(10)
    assert (np.sort(top.rows[:, :3], axis=1) == [0, 1, 2]).all() and (top.rows[:, 3:] == -1).all()


def test_settings_of_variants():
    from pipeline.core.config import validate
    from pipeline.evaluation.config import EvaluateConfig

    assert validate(EvaluateConfig, {"variants": None}).resolved().variant_models == ()
    assert validate(EvaluateConfig, {}).resolved().variant_models == ("tuned",)
    assert validate(EvaluateConfig, {"models": {"a": "x", "b": "y"}}).resolved().variant_models == ("b",)
    with pytest.raises(UserError, match="'c' is not among the encoders; choose from base, tuned"):
        validate(EvaluateConfig, {"variants": {"models": ["c"]}}).resolved()
    with pytest.raises(UserError, match=r"variants\.dtypes"):
        validate(EvaluateConfig, {"variants": {"dtypes": ["int4"]}})
