"""Approximate search: candidates of an index, scored exactly."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.search.approximate import approximate, approximate_recall
from pipeline.search.exact import top_k
from pipeline.search.index import FileVectors
from pipeline.search.registry import index_type
from pipeline.storage import shards
from pipeline.storage.vectors import l2_normalize, vectors_table


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Vector files of clustered documents, the vectors, and anchors near them."""
    folder = tmp_path_factory.mktemp("vectors")
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 24))
    vectors = l2_normalize((centres[rng.integers(0, 40, 1500)] + 0.6 * rng.normal(size=(1500, 24))).astype(np.float32))
    vectors = vectors.astype(np.float16).astype(np.float32)
    anchors = l2_normalize((vectors[rng.integers(0, 1500, 60)] + 0.1 * rng.normal(size=(60, 24))).astype(np.float32))
    files = []
    for first in (0, 700, 1100):
        last = {0: 700, 700: 1100, 1100: 1500}[first]
        names = pa.chunked_array([[f"d{row}" for row in range(first, last)]])
        shards.commit(str(folder), f"part-{first}", vectors_table(names, vectors[first:last], "float16"), {})
        files.append(str(folder / f"part-{first}.parquet"))
    return files, vectors, anchors.astype(np.float16).astype(np.float32)


INDEXES = [
    {"type": "ivfpq", "nlist": 30, "nprobe": 12, "code_bytes": 12},
    {"type": "hnsw", "m": 16, "ef_construction": 60, "ef_search": 80},
    {"type": "lance", "index_type": "ivf_hnsw_sq", "num_partitions": 4},
]


@pytest.mark.parametrize("settings", INDEXES, ids=lambda settings: settings["type"])
def test_an_index_finds_nearly_all_in_exact_order_and_never_what_is_barred(corpus, tmp_path, settings):
    pytest.importorskip("lance" if settings["type"] == "lance" else "faiss", reason="the extra is not installed")
    files, vectors, anchors = corpus
    kind, path = index_type(settings), str(tmp_path / "index")
    kind.build(FileVectors(files), path, 1)
    index = kind.open(path, 1)
    assert (index.size, index.dim) == (1500, 24)
    exact = top_k(anchors, [vectors], 12)
    barred = (np.repeat(np.arange(60), 3), exact[1][:, :3].ravel())
    for holes in (None, barred):
        hit, there = approximate_recall(index, anchors, files, 12, holes)
        assert there == 720 and hit / there > 0.9
        best = approximate(index, anchors, files, 12, holes)
        rows = best.rows
        scores = np.einsum("akd,ad->ak", vectors[rows].astype(np.float64), anchors.astype(np.float64))
        assert best.scores.tolist() == scores.astype(np.float32).tolist()
        assert (rows >= 0).all() and (np.diff(scores.astype(np.float32), axis=1) <= 0).all()
        assert all(len(set(row)) == 12 for row in rows.tolist())
    assert not (set(zip(*barred, strict=True)) & {(a, r) for a, row in enumerate(rows.tolist()) for r in row})
    assert approximate(index, anchors[:2], files, 2000).rows.shape == (2, 2000)
