"""A published corpus: its origin, licence and files, and the function that makes the tables of a recipe out of them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

Outputs = dict[str, pa.Table | Path]
"""What a corpus becomes, by file name: a table to write as Parquet, or a file to copy as it is."""

DOCUMENT = pa.schema({"doc_id": pa.string(), "title": pa.string(), "text": pa.string(), "category": pa.string()})
QUERY = pa.schema({"query_id": pa.string(), "text": pa.string()})
JUDGMENT = pa.schema({"query_id": pa.string(), "doc_id": pa.string(), "relevance": pa.int64()})
PAIR = pa.schema({"anchor": pa.string(), "positive": pa.string()})


@dataclass(frozen=True)
class Download:
    """One file of a corpus: what to call it, its address, its digest and its size in bytes (about).

    `sha256` is of the bytes of the file, or, with `unpacked`, of what they hold (see `download.digest`): the bytes of
    an archive that a server packs on demand may change while its members do not.
    """

    name: str
    url: str
    sha256: str
    size: int
    unpacked: bool = False
    mirrors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Corpus:
    """One published corpus. `prepare` gets the folder of the downloads and returns the files of `folder` by name."""

    name: str
    folder: str
    task: str
    origin: str
    licence: str
    downloads: tuple[Download, ...]
    prepare: Callable[[Path], Outputs]
    note: str = ""


def github(repository: str, commit: str, path: str, sha256: str, size: int, name: str = "") -> Download:
    """Describe one file of a GitHub repository at one commit."""
    url = f"https://raw.githubusercontent.com/{repository}/{commit}/{path}"
    return Download(name or Path(path).name, url, sha256, size)


def rows_table(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Make a table of rows; columns that the schema does not name are left out."""
    return pa.Table.from_pylist([{name: row[name] for name in schema.names} for row in rows], schema=schema)


def split_tables(kind: str, rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> Outputs:
    """Divide rows by their `split` into `KIND.train.parquet` and `KIND.dev.parquet`; rows of no split are left out."""
    rows = list(rows)
    parts = {split: [row for row in rows if row["split"] == split] for split in ("train", "dev")}
    return {f"{kind}.{split}.parquet": rows_table(part, schema) for split, part in parts.items() if part}
