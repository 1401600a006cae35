"""Queries: the documents nearest to a text, from an index or straight from vectors, with what goes with them."""

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from pipeline.core.errors import UserError
from pipeline.core.schema import PASSAGE
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.search.exact import Floats, Rows
from pipeline.search.index import ArtifactVectors, DocumentIndex, ExactSearch, SearchIndex
from pipeline.search.job import document_columns
from pipeline.search.passage_documents import PassageDocuments
from pipeline.search.registry import index_type
from pipeline.storage import shards
from pipeline.storage.artifact import MANIFEST, Artifact
from pipeline.storage.files import filesystem, join, read_json
from pipeline.storage.vectors import comparable, similarity_of

TEXT, TITLE = ("text", "description", "passage"), ("title", "name")


@dataclass(frozen=True)
class Hit:
    """A document that was found: its similarity to the query, its id, and the other columns of its row."""

    score: float
    doc_id: str
    columns: dict[str, Any]

    @property
    def title(self) -> str:
        """Its title or name, or the start of its text; empty where its row holds neither."""
        text = next((self.columns[name] for name in (*TITLE, *TEXT) if self.columns.get(name)), "")
        return " ".join(str(text).split())[:100]

    @property
    def passage(self) -> str | None:
        """The text of its best passage; None where whole documents were embedded."""
        return self.columns.get(PASSAGE.names[0])


class Searcher:
    """Search in an artifact of the index job or of the embedding job, with the model that made its vectors.

        Searcher("runs/shop/index")("wireless headphones", k=5)

    Raises UserError for a path that is neither, and where `model`, or the model that the artifact names, is another
    one than made the vectors.
    """

    def __init__(self, path: str, model: str | None = None) -> None:
        self.artifact = Artifact.open(path, _kind(path))
        notes = self.artifact.manifest.notes
        settings = dict(notes.get("model") or {}) | ({"model": model} if model else {})
        try:
            self.encoder = Encoder.load(EncoderConfig.model_validate(settings), "cpu")
        except ValidationError as error:
            raise UserError(f"{path}: does not say which model made it; name it by --model") from error
        if self.encoder.identity["weights"] != (notes.get("encoder") or {}).get("weights"):
            raise UserError(f"{path}: was made by another model than {self.encoder.path or model}; name it by --model")
        self.index = _open(self.artifact)
        self.passages = PassageDocuments.open(self.artifact)

    def __call__(self, text: str, k: int = 10) -> list[Hit]:
        """Return the k documents nearest to a text, which is encoded as a query; best first.

        Where passages were embedded, a document is as near as its best one, whose columns the hit has.
        """
        query: Floats = comparable(
            self.encoder.encode([text], "query")[:, : self.index.dim],
            similarity_of(self.artifact.manifest.notes.get("encoder")),
        )
        scores, rows = self._nearest(query, k)
        exists = rows[0] >= 0
        documents = self._documents(rows[0][exists])
        return [
            Hit(float(score), str(document.pop("id")), document)
            for score, document in zip(scores[0][exists], documents, strict=True)
        ]

    def _nearest(self, query: Floats, k: int) -> tuple[Floats, Rows]:
        """Scores and rows [1, k] of the nearest documents, of passages the best one of each."""
        if self.passages is None:
            return self.index.search(query, k)
        nearest = self.passages.nearest(self.index, query, k)
        return nearest.documents.scores, nearest.passages

    def _documents(self, rows: Rows) -> list[dict[str, Any]]:
        """Columns of these rows, in their order, without vectors."""
        if isinstance(self.index, DocumentIndex):
            return self.index.documents(rows)
        table = "documents" if self.artifact.manifest.kind == "index" else "vectors"
        names = document_columns(list(self.artifact.manifest.tables[table].columns))
        return take(self.artifact.files(table), rows, names)


def take(files: list[str], rows: Rows, names: list[str]) -> list[dict[str, Any]]:
    """Return columns of rows that are numbered over all files, in the order of `rows`."""
    documents: dict[int, dict[str, Any]] = {}
    first = 0
    for batch in shards.read_batches(files, names):
        local = rows[(rows >= first) & (rows < first + batch.num_rows)] - first
        for row, values in zip(local, batch.take(local).to_pylist(), strict=True):
            documents[first + int(row)] = values
        first += batch.num_rows
    return [documents[int(row)] for row in rows]


def _kind(path: str) -> str:
    fs, root = filesystem(join(path, MANIFEST))
    if not fs.exists(root):
        raise UserError(f"{path}: is no artifact of index or embed; run `tripletail index` first")
    return "index" if read_json(join(path, MANIFEST)).get("kind") == "index" else "embed"


def _open(artifact: Artifact) -> SearchIndex:
    """Open the index of an artifact; vectors without one are searched exactly."""
    if artifact.manifest.kind == "embed":
        vectors = ArtifactVectors(artifact)
        return ExactSearch(vectors, vectors.dim, vectors.count)
    kind = index_type(artifact.manifest.notes["index"])
    return kind.open(join(artifact.path, kind.file))
