"""Every type of index that the registry names, on the same vectors: a new type is tested by its line there."""

import json
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.core.config import parse
from pipeline.core.errors import UserError
from pipeline.core.plugins import tag
from pipeline.mining.config import MineConfig
from pipeline.search import exact
from pipeline.search.approximate import recall
from pipeline.search.index import IndexType, VectorBlocks
from pipeline.search.job import IndexConfig
from pipeline.search.registry import AnyIndex, index_type
from pipeline.storage.vectors import l2_normalize

TYPES = get_args(get_args(AnyIndex)[0])
LIBRARIES = {"flat": "faiss", "hnsw": "faiss", "ivfpq": "faiss", "lance": "lance"}
SMALL: dict[str, dict[str, Any]] = {"ivfpq": {"nlist": 16, "nprobe": 12, "code_bytes": 16}}
RECALL = {"ivfpq": 0.6, "hnsw": 0.98}


class Points(VectorBlocks):
    """2,000 vectors around 40 centres, in four blocks."""

    dim, count = 32, 2000

    def __init__(self) -> None:
        rng = np.random.default_rng(4)
        centres = rng.normal(size=(40, 32))
        self.rows = l2_normalize(
            (centres[rng.integers(0, 40, 2000)] + 0.4 * rng.normal(size=(2000, 32))).astype(np.float32)
        )

    def __iter__(self):
        return iter(np.split(self.rows, 4))


@pytest.mark.parametrize("section", TYPES, ids=tag)
@pytest.mark.parametrize("folder", ["local", "memory://indexes"])
def test_every_type_finds_what_exact_search_finds(section: type[IndexType], folder: str, tmp_path: Path):
    name, points = tag(section), Points()
    if name in LIBRARIES:
        pytest.importorskip(LIBRARIES[name])
    kind = index_type({"type": name, **SMALL.get(name, {})})
    path = f"{tmp_path if folder == 'local' else folder}/{name}/{kind.file}"
    assert kind.build(points, path, 1) > 0
    index = kind.open(path, 1)
    assert (index.size, index.dim) == (2000, 32)
    scores, nearest = exact.top_k(points.rows[:100], [points.rows], 10)
    found_scores, rows = index.search(points.rows[:100], 10)
    hits, count = recall(rows, nearest)
    assert count == 1000 and hits >= 1000 * RECALL.get(name, 1.0)
    if not kind.approximate:
        np.testing.assert_allclose(found_scores, scores, atol=1e-5)


def test_a_sample_is_evenly_spaced():
    points = Points()
    assert np.array_equal(points.sample(500), points.rows[::4])
    assert np.array_equal(points.sample(300), points.rows[:: points.sample_step(300)])


def test_an_unknown_type_is_refused_with_the_nearest_name():
    for job, config in (("index", IndexConfig), ("mine", MineConfig)):
        with pytest.raises(UserError, match="no index is called 'hsnw'; did you mean hnsw"):
            parse(config, job, ["--index.type", "hsnw"])
    with pytest.raises(ValidationError):
        index_type({"type": "flat", "links": 4})


def test_both_jobs_take_their_types_from_the_registry():
    for config in (IndexConfig, MineConfig):
        for section in TYPES:
            assert type(config.model_validate({"index": {"type": tag(section)}}).index) is section


def test_the_settings_of_an_index_are_a_recipe_again():
    config, _ = parse(IndexConfig, "index", ["--index.type", "hnsw", "--index.m", "16"])
    settings = json.loads(config.model_dump_json())
    assert settings["index"] == {"type": "hnsw", "m": 16, "ef_construction": 200, "ef_search": 128}
    assert IndexConfig.model_validate(settings) == config


OWN = """
from pipeline.search.exact_index import Exact

class Halved(Exact):
    half: int = 2
"""


def test_a_users_own_index_is_named_by_its_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "own_index.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    kind = index_type({"type": "own_index:Halved", "half": 3})
    assert kind.model_dump() == {"type": "own_index:Halved", "half": 3}
    path = str(tmp_path / "index.npy")
    kind.build(Points(), path)
    assert kind.open(path).size == 2000
    del sys.modules["own_index"]
