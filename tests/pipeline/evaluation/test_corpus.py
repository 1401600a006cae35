"""Rows of a corpus are taken from where they are, and no further."""

import pyarrow as pa
import pytest

from pipeline.evaluation.corpus import Corpus
from pipeline.storage import artifact, shards


@pytest.fixture
def corpus(tmp_path) -> Corpus:
    draft = artifact.begin(str(tmp_path), "embed", {}, {}, overwrite=True)
    assert isinstance(draft, artifact.Draft)
    for part in range(4):
        draft.write("vectors", pa.table({"id": [f"d{part * 3 + row}" for row in range(3)]}), part)
    return Corpus(draft.finish(["vectors"]), "vectors", "id")


@pytest.mark.parametrize(("rows", "read"), [([], 0), ([1], 2), ([5, 0], 3), ([11], 4)])
def test_no_batch_is_read_far_behind_the_last_row(corpus, monkeypatch, rows, read):
    batches = []
    read_batches = shards.read_batches

    def spy(files, columns):
        for batch in read_batches(files, columns):
            batches.append(batch)
            yield batch

    monkeypatch.setattr(shards, "read_batches", spy)
    assert corpus.take(rows, ["id"]) == {row: {"id": f"d{row}"} for row in rows}
    assert len(batches) == read
