"""Rows of data larger than memory: what their tasks open."""

import pickle
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.encoder.encoder import EncoderConfig
from pipeline.storage import shards
from pipeline.storage.shuffle import Shuffle
from tests.support.rows import made, pair
from training.data import bulk_rows
from training.data.bulk_columns import STAGED
from training.data.epoch import run_in_process


def test_a_task_opens_the_file_of_its_block_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = made(tmp_path, "build", pairs=[pair(f"q{row}", f"d{row}") for row in range(30)])
    (file,) = data.files("pairs")
    for number in range(1, 4):
        (copy := Path(file).with_name(f"part-{number:05d}.parquet")).write_bytes(Path(file).read_bytes())
        data.manifest.tables["pairs"].files.append(f"pairs/{copy.name}")
    monkeypatch.setattr(bulk_rows, "BLOCK_ROWS", 20)
    staging = Shuffle(str(tmp_path / "staging"), 1)
    bulk = bulk_rows.BulkRows(["pairs"], data, None, EncoderConfig(), staging, str(tmp_path / "rows"))
    bulk = bulk.count_rows(run_in_process)
    assert len(bulk.blocks) == 8
    task = pickle.loads(pickle.dumps(bulk.stage_rows))  # as Ray sends it, once for all tasks of a step
    opened, open_parquet = [], shards.open_parquet

    @contextmanager
    def noted(path: str) -> Any:
        opened.append(path)
        with open_parquet(path) as parquet:
            yield parquet

    monkeypatch.setattr(shards, "open_parquet", noted)
    for block in range(8):
        opened.clear()
        task(block)
        assert opened == [bulk.blocks[block].shard.path]
    rows = staging.read("rows", 0, STAGED)
    assert rows["table_row"].to_pylist() == list(range(120))
