"""What is read of a file in an object store is what is asked for: no read-ahead of whole files."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.storage.files import filesystem, open_parquet, read_parquet, write_parquet
from pipeline.storage.shuffle import Shuffle
from tests.support.s3 import CountingStore, counting_store  # noqa: F401  a fixture

ROWS = 16_000


def rows(seed: int) -> pa.Table:
    """Rows whose texts do not pack well, about 4 MB."""
    rng = np.random.default_rng(seed)
    texts = [rng.bytes(120).hex() for _ in range(ROWS)]
    return pa.table(
        {"key": pa.array(rng.integers(0, 1 << 62, ROWS).astype(np.uint64)), "text": texts, "n": range(ROWS)}
    )


def size_of(path: str) -> int:
    fs, name = filesystem(path)
    return int(fs.size(name))


def test_a_bucket_costs_its_own_bytes(counting_store: CountingStore):  # noqa: F811
    shuffle = Shuffle(f"s3://{counting_store.bucket}/staging", 32)
    for part in range(2):
        shuffle.write("rows", f"{part}", rows(part), by="key")
    staged = sum(size_of(f"{shuffle.path}/rows/{part}.arrow") for part in range(2))
    with counting_store.counted() as store:
        read = [shuffle.read("rows", bucket, rows(0).schema) for bucket in range(32)]
    assert sum(map(len, read)) == 2 * ROWS
    assert store.sent <= 1.5 * staged, f"{store.sent:,} bytes for {staged:,} staged"
    assert store.reads <= 6 * 2 * 32 + 32, f"{store.reads} requests for 64 reads of a bucket of a file"


@pytest.mark.parametrize("column", ["n", "key"])
def test_a_column_or_a_footer_costs_its_own_bytes(counting_store: CountingStore, column: str):  # noqa: F811
    path = f"s3://{counting_store.bucket}/rows.parquet"
    write_parquet(path, rows(0), 4096)
    size = size_of(path)
    with counting_store.counted() as store, open_parquet(path) as parquet:
        assert parquet.metadata.num_rows == ROWS
    assert store.sent <= 66_000 and store.reads <= 2, f"{store.sent:,} bytes, {store.reads} requests"
    with counting_store.counted() as store:
        assert read_parquet(path, columns=[column]).equals(rows(0).select([column]))
    assert store.sent <= 0.1 * size, f"{store.sent:,} bytes for a column of a file of {size:,}"
    with counting_store.counted() as store:
        assert read_parquet(path).equals(rows(0))
    assert store.sent <= 1.1 * size and store.reads <= 12, f"{store.sent:,} bytes of {size:,}, {store.reads} requests"
