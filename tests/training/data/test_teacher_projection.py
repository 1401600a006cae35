"""A teacher's vectors in the student's width: wider ones keep what they can, narrower ones keep all."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.storage import artifact
from pipeline.storage.artifact import Artifact
from training.data.guide_vectors import GuideConfig, open_guide, read_vectors
from training.data.teacher_projection import fit_width, principal_directions


def stored(folder, vectors: np.ndarray, first: int = 0) -> str:
    draft = artifact.begin(str(folder), "embed", {}, {"encoder": "teacher"}, overwrite=False)
    for number, part in enumerate(np.array_split(vectors, 2)):
        ids = [f"t{first + number * len(part) + i}" for i in range(len(part))]
        column = pa.FixedSizeListArray.from_arrays(pa.array(part.astype(np.float16).ravel()), part.shape[1])
        draft.write("vectors", pa.table({"id": ids, "vector": column}), number)
    draft.finish(["vectors"])
    return str(folder)


def teacher(tmp_path, width: int, rank: int) -> tuple[GuideConfig, np.ndarray]:
    """Vectors of 40 queries and 60 documents, of length 1, in `rank` dimensions of `width`, with a little noise."""
    rng = np.random.default_rng(4)
    basis = np.linalg.qr(rng.normal(size=(width, rank)))[0]
    vectors = rng.normal(size=(100, rank)) @ basis.T + 0.01 * rng.normal(size=(100, width))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors.astype(np.float16)
    paths = stored(tmp_path / "q", vectors[:40]), stored(tmp_path / "d", vectors[40:], 40)
    return GuideConfig(queries=paths[0], documents=paths[1]), vectors.astype(np.float64)


def read(guide: GuideConfig) -> tuple[list[str], np.ndarray]:
    pieces = [read_vectors(item, name) for item in open_guide(guide).values() for name in item.files("vectors")]
    return [name for ids, _ in pieces for name in ids.to_pylist()], np.concatenate([v for _, v in pieces])


@pytest.mark.parametrize(("width", "dim", "apart"), [(48, 8, 0.02), (6, 8, 0.002)])
def test_inner_products_survive(tmp_path, capsys, width, dim, apart):
    guide, vectors = teacher(tmp_path, width, rank=6)
    names, projected = read(fit_width(guide, dim, str(tmp_path / "teacher")))
    assert names == [f"t{i}" for i in range(100)] and projected.shape == (100, dim)
    projected = projected.astype(np.float64)
    assert np.abs(projected @ projected.T - vectors @ vectors.T).max() < apart
    said = capsys.readouterr().err
    assert f"from {width} dimensions to {dim}" in said and ("by PCA, which keeps 9" in said) == (width > dim)


def test_no_projection_to_so_few_dimensions_is_nearer(tmp_path):
    """Eckart and Young: the error of the inner products is that of the singular values left out."""
    guide, vectors = teacher(tmp_path, 24, rank=20)
    directions, kept = principal_directions(open_guide(guide), 8)
    np.testing.assert_allclose(directions.T @ directions, np.eye(8), atol=1e-10)
    values = np.linalg.svd(vectors, compute_uv=False) ** 2
    assert kept == pytest.approx(values[:8].sum() / values.sum(), rel=1e-9)
    projected = vectors @ directions
    error = np.linalg.norm(projected @ projected.T - vectors @ vectors.T)
    assert error == pytest.approx(np.linalg.norm(values[8:]), rel=1e-6)
    assert (directions[np.abs(directions).argmax(axis=0), np.arange(8)] > 0).all(), "the sign is fixed"


def test_vectors_of_the_same_width_are_left_alone_and_others_made_once(tmp_path):
    guide, _ = teacher(tmp_path, 16, rank=6)
    assert fit_width(guide, 16, str(tmp_path / "teacher")) is guide
    assert not (tmp_path / "teacher").exists()
    first = fit_width(guide, 8, str(tmp_path / "teacher"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "teacher").rglob("*.parquet")}
    assert len(before) == 4 and fit_width(guide, 8, str(tmp_path / "teacher")) == first
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "teacher").rglob("*.parquet")}
    prints = {Artifact.open(path, "embed").manifest.fingerprint for path in first.model_dump().values()}
    fit_width(guide, 4, str(tmp_path / "teacher"))
    assert prints.isdisjoint(Artifact.open(p, "embed").manifest.fingerprint for p in first.model_dump().values())
