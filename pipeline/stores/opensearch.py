"""OpenSearch: files for its bulk interface, an increment a run, beside the mapping of the index."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from pipeline.core.errors import UserError
from pipeline.stores.points import as_json
from pipeline.stores.store import DIGEST, KEY, Point, Shape, Store, Target

LEDGER, MAPPING = "ledger.parquet", "index.json"
_SPACES = {"cosine": "cosinesimil", "dot": "innerproduct"}


class OpenSearch(Store):
    """A folder of increments `000001/`, `000002/`, ..., each files of bulk actions: index, and delete for what is gone.

    PUT index.json once, then POST every file of each increment to `_bulk`, increments in their order. All actions of
    an increment may be sent again. An increment appears whole; what has been written so far is its ledger.
    """

    type: Literal["opensearch"] = "opensearch"
    path: str = Field(description="a folder on this machine")
    index: str = Field("documents", description="name of the index")

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"opensearch {self.path}"

    def check_installed(self) -> None:
        """Nothing is needed."""
        return None

    def open(self, shape: Shape) -> Target:
        """Make the folder and the mapping, or read the last increment's ledger."""
        folder = Path(self.path)
        folder.mkdir(parents=True, exist_ok=True)
        mapping, file = index_settings(shape), folder / MAPPING
        if not file.exists():
            if any(folder.iterdir()):
                raise UserError(f"publish: {self.label}: is not empty and holds no {MAPPING}; choose another folder")
            file.write_text(json.dumps(mapping, indent=2) + "\n", encoding="utf-8")
        if json.loads(file.read_text(encoding="utf-8")) != mapping:
            raise UserError(
                f"publish: {self.label}: is of vectors of another width or similarity; choose another folder"
            )
        return _Increment(folder, self.index)


def index_settings(shape: Shape) -> dict[str, Any]:
    """Body of `PUT /INDEX`: vectors by HNSW of Lucene, whose spaces are cosinesimil and innerproduct."""
    method = {"name": "hnsw", "engine": "lucene", "space_type": _SPACES[shape.similarity]}
    vector = {"type": "knn_vector", "dimension": shape.dim, "method": method}
    keywords = {name: {"type": "keyword"} for name in ("id", DIGEST)}
    return {"settings": {"index": {"knn": True}}, "mappings": {"properties": {**keywords, "vector": vector}}}


class _Increment(Target):
    """The increment that this run writes; the ledger in memory is what the index will hold after it."""

    def __init__(self, folder: Path, index: str) -> None:
        self.folder, self.index, self.files = folder, index, 0
        done = sorted(path for path in folder.iterdir() if path.name.isdigit())
        ledger = pq.read_table(done[-1] / LEDGER).to_pydict() if done else {KEY: [], DIGEST: []}
        self.ledger: dict[str, str] = dict(zip(ledger[KEY], ledger[DIGEST], strict=True))
        self.name = f"{int(done[-1].name) + 1 if done else 1:06d}"
        self.partial = folder / f"{self.name}.partial"
        shutil.rmtree(self.partial, ignore_errors=True)

    def _write(self, actions: Sequence[str]) -> None:
        self.partial.mkdir(exist_ok=True)
        file = self.partial / f"part-{self.files:05d}.ndjson"
        file.write_text("".join(f"{action}\n" for action in actions), encoding="utf-8")
        self.files += 1

    def digests(self, keys: Sequence[str]) -> dict[str, str]:
        """Digests of the ledger."""
        return {key: self.ledger[key] for key in keys if key in self.ledger}

    def upsert(self, points: Sequence[Point]) -> None:
        """Write a file of documents."""
        lines: list[str] = []
        for point in points:
            fields = {"id": point.id, DIGEST: point.digest, "vector": point.vector.tolist()}
            lines += [self._action("index", point.key), as_json({**point.payload, **fields})]
            self.ledger[point.key] = point.digest
        self._write(lines)

    def all_keys(self) -> Iterator[list[str]]:
        """Yield the keys of the ledger."""
        yield list(self.ledger)

    def delete(self, keys: Sequence[str]) -> None:
        """Write a file of deletions."""
        self._write([self._action("delete", key) for key in keys])
        for key in keys:
            del self.ledger[key]

    def _action(self, name: str, key: str) -> str:
        return json.dumps({name: {"_index": self.index, "_id": key}}, ensure_ascii=False)

    def count(self) -> int:
        """Documents that the index holds after this increment."""
        return len(self.ledger)

    def finish(self) -> None:
        """Write the ledger and give the increment its name, by which it is there whole; nothing written is none."""
        if not self.files:
            return
        rows = pa.table(
            {KEY: pa.array(self.ledger.keys(), pa.string()), DIGEST: pa.array(self.ledger.values(), pa.string())}
        )
        pq.write_table(rows, self.partial / LEDGER)
        self.partial.rename(self.folder / self.name)
