"""Ask for documents: the nearest to a text, from an index or straight from vectors, with what they carry along."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.core.errors import UserError
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.search import exact, lance_index
from pipeline.search.faiss_index import Floats, Rows, library
from pipeline.search.job import DATASET, INDEX, Stored
from pipeline.storage.artifact import MANIFEST, Artifact
from pipeline.storage.files import filesystem, join, read_json
from pipeline.storage.vectors import unit

TEXT, TITLE = ("text", "description"), ("title", "name")


@dataclass(frozen=True)
class Hit:
    """A document that was found: its cosine, id, and the other columns that its vectors carried."""

    score: float
    doc_id: str
    columns: dict[str, Any]

    @property
    def title(self) -> str:
        """What it is called, or the start of its text; empty where the vectors carried neither."""
        shown = next((self.columns[name] for name in (*TITLE, *TEXT) if self.columns.get(name)), "")
        return " ".join(str(shown).split())[:100]


class Searcher:
    """An index, or an artifact of vectors, that can be asked; the model is the one that it was made with."""

    def __init__(self, path: str, model: str | None = None) -> None:
        kind = _kind(path)
        self.artifact = Artifact.open(path, kind)
        notes = self.artifact.manifest.notes
        settings = dict(notes.get("model") or {}) | ({"model": model} if model else {})
        try:
            self.encoder = Encoder.load(EncoderConfig.model_validate(settings), "cpu")
        except ValidationError as error:
            raise UserError(f"{path}: does not say which model made it; name it by --model") from error
        if self.encoder.identity["weights"] != (notes.get("encoder") or {}).get("weights"):
            raise UserError(f"{path}: was made by another model than {self.encoder.path or model}; name it by --model")
        self.index = _read(path, notes) if kind == "index" else None

    def __call__(self, text: str, k: int = 10) -> list[Hit]:
        """Return the k nearest documents of a text, asked as a query."""
        query = unit(self.encoder.encode([text], "query"))
        scores, rows = self._nearest(query, k)
        held = rows[0] >= 0
        found = self._documents(rows[0][held])
        return [Hit(float(score), str(one.pop("id")), one) for score, one in zip(scores[0][held], found, strict=True)]

    def _nearest(self, query: Floats, k: int) -> tuple[Floats, Rows]:
        if self.index is not None:
            scores, rows = self.index.search(query[:, : self.index.d], k)
            return scores, rows
        stored = Stored(self.artifact, "vector")
        return exact.top_k(unit(query[:, : stored.dim]), stored, k)

    def _documents(self, rows: Rows) -> list[dict[str, Any]]:
        """Columns of these rows, in their order, without vectors."""
        if isinstance(self.index, lance_index.Opened):
            return self.index.take(rows)
        table = "documents" if self.index is not None else "vectors"
        names = [
            name
            for name in self.artifact.manifest.tables[table].columns
            if not name.startswith("vector") and name != "text_key"
        ]
        return take(self.artifact.files(table), rows, names)


def take(files: list[str], rows: Rows, names: list[str]) -> list[dict[str, Any]]:
    """Columns of rows that are numbered over all files, in the order asked for."""
    from pipeline.storage.shards import batches

    found: dict[int, dict[str, Any]] = {}
    first = 0
    for batch in batches(files, names):
        local = rows[(rows >= first) & (rows < first + batch.num_rows)]
        for row, values in zip(local, batch.take(local - first).to_pylist(), strict=True):
            found[int(row)] = values
        first += batch.num_rows
    return [found[int(row)] for row in rows]


def _kind(path: str) -> str:
    fs, root = filesystem(join(path, MANIFEST))
    if not fs.exists(root):
        raise UserError(f"{path}: is no artifact of index or embed; run `python -m scripts.index` first")
    return "index" if read_json(join(path, MANIFEST)).get("kind") == "index" else "embed"


def _read(path: str, notes: dict[str, Any]) -> Any:
    if notes["type"] == "lance":
        return lance_index.opened(lance_index.Lance.model_validate(notes["settings"]), join(path, DATASET))
    faiss = library()
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / INDEX
        fs, name = filesystem(join(path, INDEX))
        fs.get(name, str(local))
        return faiss.read_index(str(local))
