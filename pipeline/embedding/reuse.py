"""Vectors of texts that have not changed, looked up by the hash of the text; 16 bytes of memory each."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.storage.files import open_parquet, read_parquet
from pipeline.text.normalize import hash64

KEY = "text_key"
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EarlierVectors:
    """An index of earlier vectors: the texts' keys [n], sorted, and the file and row of each."""

    files: list[str]
    keys: Ints
    file: npt.NDArray[np.int32]
    row: npt.NDArray[np.int32]

    @classmethod
    def read(cls, files: Sequence[str]) -> "EarlierVectors":
        """Read the keys of files of vectors."""
        keys, file, row = [np.empty(0, np.int64)], [np.empty(0, np.int32)], [np.empty(0, np.int32)]
        for number, path in enumerate(files):
            with open_parquet(path) as parquet:
                file_keys = parquet.read(columns=[KEY])[KEY].to_numpy()
            keys.append(file_keys)
            file.append(np.full(len(file_keys), number, np.int32))
            row.append(np.arange(len(file_keys), dtype=np.int32))
        all_keys = np.concatenate(keys)
        order = np.argsort(all_keys, kind="stable")
        return cls(list(files), all_keys[order], np.concatenate(file)[order], np.concatenate(row)[order])

    def find(self, keys: Ints) -> Ints:
        """Return the positions of keys in the index; -1 where there is none."""
        if not len(self.keys):
            return np.full(len(keys), -1, np.int64)
        at = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        return np.where(self.keys[at] == keys, at, -1)

    def take(self, positions: Ints, names: Sequence[str]) -> pa.Table:
        """Read columns of the vectors at some positions, in their order."""
        file, row = self.file[positions], self.row[positions]
        order = np.argsort(file, kind="stable")
        parts = [
            _table(self.files[number]).select(list(names)).take(pa.array(row[order][file[order] == number]))
            for number in np.unique(file)
        ]
        back = np.argsort(order, kind="stable")
        return pa.concat_tables(parts).take(pa.array(back))


@lru_cache(maxsize=4)
def _table(path: str) -> pa.Table:
    return read_parquet(path)


def text_keys(texts: Sequence[str]) -> Ints:
    """Hash texts into keys [n] int64."""
    return np.array([hash64(text) for text in texts], np.uint64).view(np.int64)
