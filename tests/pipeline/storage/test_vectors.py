"""Vectors as columns: four kinds of numbers, fewer dimensions, and the readers that users have."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import UserError
from pipeline.embedding.reuse import KEY, EarlierVectors, text_keys
from pipeline.storage.vectors import (
    VectorFormat,
    check_formats,
    dequantize_int8,
    formatted_table,
    int8_ranges,
    l2_normalize,
    quantize_int8,
    to_matrix,
    truncate,
)

FORMATS = (
    VectorFormat(),
    VectorFormat(dtype="float16", dim=16),
    VectorFormat(dtype="int8"),
    VectorFormat(dtype="int8", dim=8),
    VectorFormat(dtype="binary"),
    VectorFormat(dtype="binary", dim=8),
)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return l2_normalize(np.random.default_rng(5).normal(size=(200, 32)).astype(np.float32) * np.linspace(1, 0.2, 32))


@pytest.fixture(scope="module")
def table(vectors) -> pa.Table:
    ids = pa.chunked_array([[f"d{row}" for row in range(len(vectors))]])
    return formatted_table(ids, vectors, FORMATS, int8_ranges(vectors, FORMATS, scaled=True), True)


def test_several_formats_come_out_of_one_pass(vectors, table):
    ranges = int8_ranges(vectors, FORMATS, scaled=True)
    assert table.column_names[1:] == [
        "vector", "vector_float16_16", "vector_int8", "vector_int8_8", "vector_binary", "vector_binary_8",
    ]  # fmt: skip
    kinds = [str(table.schema.field(name).type) for name in table.column_names[1:]]
    assert kinds == [
        "fixed_size_list<item: float>[32]", "fixed_size_list<item: halffloat>[16]",
        "fixed_size_list<item: int8>[32]", "fixed_size_list<item: int8>[8]",
        "fixed_size_list<item: uint8>[4]", "fixed_size_list<item: uint8>[1]",
    ]  # fmt: skip
    assert np.array_equal(to_matrix(table["vector"], ranges), vectors)
    assert np.abs(to_matrix(table["vector_float16_16"], ranges) - truncate(vectors, 16, scaled=True)).max() < 1e-3
    step = max(high - low for low, high in zip(*ranges["32"], strict=True)) / 255
    assert np.abs(to_matrix(table["vector_int8"], ranges) - vectors).max() <= step / 2 + 1e-6
    assert np.array_equal(to_matrix(table["vector_binary"], ranges), np.where(vectors > 0, 1, -1))
    assert np.linalg.norm(truncate(vectors, 8, scaled=True), axis=1) == pytest.approx(np.ones(200), abs=1e-6)


def test_quantised_numbers_are_those_of_sentence_transformers(vectors, table):
    peer = pytest.importorskip("sentence_transformers.quantization")
    ranges = np.array(int8_ranges(vectors, FORMATS, scaled=True)["32"], np.float32)
    theirs = peer.quantize_embeddings(vectors, "int8", ranges=ranges).astype(int)
    ours = quantize_int8(vectors, ranges).astype(int)
    assert np.abs(ours - theirs).max() <= 1  # they cut off where we round
    assert (
        np.abs(dequantize_int8(ours, ranges) - vectors).mean()
        < np.abs(dequantize_int8(theirs, ranges) - vectors).mean()
    )
    packed = peer.quantize_embeddings(vectors, "ubinary")
    assert np.array_equal(table["vector_binary"].combine_chunks().flatten().to_numpy().reshape(-1, 4), packed)


def test_what_a_model_cannot_give_is_refused():
    for forms, carried, said in (
        ([VectorFormat(dim=33)], [], "33 dimensions are more than the model's 32"),
        ([VectorFormat(), VectorFormat(dtype="binary", dim=12)], [], "12 dimensions are not a multiple of 8"),
        ([VectorFormat()], ["vector"], "more than one column 'vector'"),
        (
            [VectorFormat(), VectorFormat(dtype="int8"), VectorFormat(dtype="int8")],
            [],
            "more than one column 'vector_int8'",
        ),
    ):
        with pytest.raises(UserError, match=said):
            check_formats(forms, 32, carried)


def test_vectors_of_earlier_texts_are_found_in_any_file(tmp_path, table):
    texts = [f"text {row}" for row in range(200)]
    whole = table.append_column(KEY, pa.array(text_keys(texts)))
    for part in range(4):
        pq.write_table(whole.slice(part * 50, 50), tmp_path / f"{part}.parquet")
    earlier = EarlierVectors.read([str(tmp_path / f"{part}.parquet") for part in range(4)])
    asked = ["text 170", "new", "text 3", "text 60"]
    places = earlier.find(text_keys(asked))
    assert (places >= 0).tolist() == [True, False, True, True]
    assert earlier.take(places[places >= 0], ["vector"]).equals(whole.select(["vector"]).take([170, 3, 60]))


def test_pyarrow_duckdb_polars_and_faiss_read_the_files(tmp_path, table, vectors):
    path = tmp_path / "part.parquet"
    pq.write_table(table, path)
    assert pq.read_table(path)["vector"].type == pa.list_(pa.field("element", pa.float32()), 32)
    duckdb = pytest.importorskip("duckdb")
    query = f"SELECT id, list_dot_product(vector, vector), vector_int8[1] FROM '{path}' ORDER BY id LIMIT 1"
    ((name, length, code),) = duckdb.sql(query).fetchall()
    assert name == "d0" and length == pytest.approx(1, abs=1e-5) and -128 <= code <= 127
    faiss = pytest.importorskip("faiss")
    flat = pq.read_table(path)["vector"].combine_chunks().flatten().to_numpy().reshape(-1, 32)
    index = faiss.IndexFlatIP(32)
    index.add(flat)
    assert index.search(vectors[:5], 1)[1].ravel().tolist() == [0, 1, 2, 3, 4]
    signs = faiss.IndexBinaryFlat(32)
    signs.add(pq.read_table(path)["vector_binary"].combine_chunks().flatten().to_numpy().reshape(-1, 4))
    assert signs.search(np.packbits(vectors[:3] > 0, axis=1), 1)[0].ravel().tolist() == [0, 0, 0]
    polars = pytest.importorskip("polars")
    assert polars.read_parquet(path)["vector"].to_numpy().shape == (200, 32)
