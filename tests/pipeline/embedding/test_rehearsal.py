"""The end of an embedding job on two texts: what cannot be written, read or fitted is found before the first shard."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.core.errors import UserError
from pipeline.embedding import rehearsal
from pipeline.embedding.worker import EmbedTask
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.storage import disk_space, shards
from pipeline.storage.vectors import VectorFormat


@pytest.fixture(scope="module")
def encoder(minilm) -> Encoder:
    return Encoder.load(EncoderConfig(model=minilm, layers=1), "cpu")


@pytest.fixture
def task(minilm, tmp_path: Path) -> EmbedTask:
    formats = (VectorFormat(), VectorFormat(dtype="float16", dim=64), VectorFormat(dtype="binary"))
    config = EncoderConfig(model=minilm, layers=1)
    return EmbedTask(config, "document", "id", "text", (), str(tmp_path / "vectors"), formats, False, False)


def test_two_texts_and_none_are_written_and_read_and_nothing_is_left(task, encoder, tmp_path, monkeypatch):
    written = []
    commit = shards.commit
    monkeypatch.setattr(shards, "commit", lambda *given: (written.append(given[2]), commit(*given)))
    rehearsal.rehearse(task, encoder, {}, 1000, str(tmp_path))
    assert [table.num_rows for table in written] == [2, 0]
    assert written[0].column_names == ["id", "vector", "vector_float16_64", "vector_binary"]
    assert list(tmp_path.iterdir()) == []


def test_what_is_read_differently_stops_the_job(task, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(rehearsal, "read_parquet", lambda path: pa.table({"id": ["other"]}))
    with pytest.raises(UserError, match="what was written there is not what is read"):
        rehearsal.rehearse(task, encoder, {}, 1000, str(tmp_path))


def test_vectors_that_are_not_finite_stop_the_job(task, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(Encoder, "encode", lambda self, texts, role: np.full((len(texts), 384), np.nan, np.float32))
    with pytest.raises(UserError, match="gives vectors that are not finite"):
        rehearsal.rehearse(task, encoder, {}, 1000, str(tmp_path))


def test_a_disk_that_is_too_small_is_named_with_what_is_needed(task, encoder, tmp_path, monkeypatch):
    usage = disk_space.shutil.disk_usage("/")._replace(free=3 << 20)
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"10,000 vectors need about 8\.\d MiB, and 3\.0 MiB are free there"):
        rehearsal.rehearse(task, encoder, {}, 10_000, str(tmp_path))
    rehearsal.rehearse(task, encoder, {}, 1000, str(tmp_path))
    disk_space.require_space("memory://bucket/x", 1e30, "everything")  # a store names no end


def test_nothing_is_rehearsed_where_nothing_is_missing(task, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(Encoder, "encode", None)
    rehearsal.rehearse(task, encoder, {}, 0, str(tmp_path))
