"""Queries: the documents nearest to a text, from an index or straight from vectors, with what goes with them."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from pipeline.core.errors import UserError
from pipeline.core.schema import PASSAGE
from pipeline.encoder.cross_encoder import Reranker
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.search.bm25_index import BM25Index
from pipeline.search.document_table import DocumentTable
from pipeline.search.documents import TEXT, document_columns
from pipeline.search.exact import Floats, Rows, TopK
from pipeline.search.fusion import first
from pipeline.search.index import ArtifactVectors, DocumentIndex, ExactSearch, SearchIndex
from pipeline.search.job import BM25, DOCUMENTS, TEXTS
from pipeline.search.passage_documents import PassageDocuments
from pipeline.search.registry import index_type
from pipeline.search.rerank import Rerank, rerank
from pipeline.search.systems import search_system
from pipeline.storage.artifact import MANIFEST, Artifact
from pipeline.storage.files import filesystem, join, read_json
from pipeline.storage.vectors import comparable, similarity_of

TEXT_COLUMNS, TITLE_COLUMNS = (TEXT, "description", "passage"), ("title", "name")


@dataclass(frozen=True)
class Hit:
    """A document that was found: its score under the system, its id, and the other columns of its row."""

    score: float
    doc_id: str
    columns: dict[str, Any]

    @property
    def title(self) -> str:
        """Its title or name, or the start of its text; empty where its row holds neither."""
        text = next((self.columns[name] for name in (*TITLE_COLUMNS, *TEXT_COLUMNS) if self.columns.get(name)), "")
        return " ".join(str(text).split())[:100]

    @property
    def passage(self) -> str | None:
        """The text of its best passage; None where whole documents were embedded."""
        return self.columns.get(PASSAGE.names[0])


class Searcher:
    """Search in an artifact of the index job or of the embedding job, with the model that made its vectors.

        Searcher("runs/shop/index")("wireless headphones", k=5)
        Searcher("runs/shop/index", system={"type": "mix", "weight": 0.7})("wireless headphones", k=5)

    `system` is dense, bm25, mix, rrf or rerank, settings of one of them, or a class of one's own; those that look at
    words or texts need an index with `bm25`. Raises UserError for a path that is neither, an index without what the
    system needs, and where `model`, or the model that the artifact names, is another one than made the vectors.
    `encoder` are settings of it over those that the vectors were made with, such as {"dtype": "float32"}.
    """

    def __init__(
        self,
        path: str,
        model: str | None = None,
        system: Any = "dense",
        *,
        device: str = "cpu",
        encoder: Mapping[str, Any] | None = None,
    ) -> None:
        self.artifact = Artifact.open(path, _kind(path))
        notes = self.artifact.manifest.notes
        settings = dict(notes.get("model") or {}) | dict(encoder or {}) | ({"model": model} if model else {})
        try:
            self.encoder = Encoder.load(EncoderConfig.model_validate(settings), device)
        except ValidationError as error:
            raise UserError(f"{path}: does not say which model made it; name it by --model") from error
        if self.encoder.identity["weights"] != (notes.get("encoder") or {}).get("weights"):
            raise UserError(f"{path}: was made by another model than {self.encoder.path or model}; name it by --model")
        self.index = _open(self.artifact)
        self.passages = PassageDocuments.open(self.artifact)
        self.table = None if isinstance(self.index, DocumentIndex) else _document_table(self.artifact)
        self.texts = _text_table(self.artifact)
        self._take(system)

    def using(self, system: Any) -> "Searcher":
        """Return a searcher by another system, with the same model and index."""
        other = copy(self)
        other._take(system)
        return other

    def _take(self, system: Any) -> None:
        """Open what a system needs beside vectors."""
        self.system = search_system(system)
        self.words = _open_words(self.artifact) if self.system.needs[1] else None
        self.reranker = self._open_reranker()

    def __call__(self, text: str, k: int = 10, vector: Floats | None = None) -> list[Hit]:
        """Return the k documents that the system ranks first for a text, which is encoded as a query; best first.

        Where passages were embedded, a document is as near as its best one, whose columns the hit has. `vector` [1, D]
        is the text's vector as a query where it is known already.
        """
        best = self.rank(text, k, vector)
        ranked = best.rows[0] >= 0
        documents = self._documents(best.rows[0][ranked])
        return [
            Hit(float(score), str(document.pop("id")), document)
            for score, document in zip(best.scores[0][ranked], documents, strict=True)
        ]

    def rank(self, text: str, k: int, vector: Floats | None = None) -> TopK:
        """Scores and rows [1, k] of the best documents; a system may look at more than k of each ranking.

        Of passages these are the rows that are shown: a document's nearest one, its first where words alone found it.
        """
        nearest = self._nearest(text, self.system.depth(k), vector) if self.system.needs[0] else TopK.empty(1, 0)
        if self.passages is None:
            return self._rank_documents(text, nearest, k)
        return self.passages.passages_of(self._rank_documents(text, self.passages.documents(nearest), k), nearest)

    def _rank_documents(self, text: str, dense: TopK, k: int) -> TopK:
        """The system's best k documents, of the nearest ones and what shares words with the text."""
        lexical = self.words.top_k([text], self.system.depth(k)) if self.words else TopK.empty(1, 0)
        if self.reranker is None:
            return self.system.rank(dense, lexical, k)
        best = self.system.rank(dense, lexical, max(self.system.top, k))
        return first(rerank(self.reranker, text, best, self.system.top, self._texts), k)

    def _open_reranker(self) -> Reranker | None:
        """The cross-encoder of a system that has one; raises UserError where there are no texts to score."""
        if not isinstance(self.system, Rerank):
            return None
        tables = self.artifact.manifest.tables
        of_documents = [table for name, table in tables.items() if name == TEXTS or not self.passages]
        if not any(TEXT in table.columns for table in of_documents):
            raise UserError(f"{self.artifact.path}: holds no texts to rerank; build the index with `--bm25 true`")
        return Reranker(self.system.cross_encoder, "cpu")

    def _texts(self, rows: Sequence[int]) -> dict[int, str]:
        numbers = np.array(rows, np.int64)
        documents = self.texts.take(numbers) if self.texts else self._documents(numbers)
        return {row: document[TEXT] or "" for row, document in zip(rows, documents, strict=True)}

    def _nearest(self, text: str, k: int, vector: Floats | None) -> TopK:
        """The nearest vectors; of passages the best one of each document."""
        encoded = self.encoder.encode([text], "query") if vector is None else vector
        query: Floats = comparable(
            encoded[:, : self.index.dim],
            similarity_of(self.artifact.manifest.notes.get("encoder")),
        )
        if self.passages is None:
            return TopK(*self.index.search(query, k))
        return self.passages.nearest(self.index, query, k)

    def _documents(self, rows: Rows) -> list[dict[str, Any]]:
        """Columns of these rows, in their order, without vectors."""
        if isinstance(self.index, DocumentIndex):
            return self.index.documents(rows)
        assert self.table is not None
        return self.table.take(rows)


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


def _text_table(artifact: Artifact) -> DocumentTable | None:
    """Texts of whole documents beside passages; None where there are none."""
    return DocumentTable(artifact.files(TEXTS), [TEXT]) if artifact.has(TEXTS) else None


def _document_table(artifact: Artifact) -> DocumentTable:
    table = DOCUMENTS if artifact.manifest.kind == "index" else "vectors"
    return DocumentTable(artifact.files(table), document_columns(list(artifact.manifest.tables[table].columns)))


def _open_words(artifact: Artifact) -> BM25Index:
    if not artifact.manifest.notes.get("bm25"):
        raise UserError(f"{artifact.path}: holds no BM25; build an index with it by `tripletail index --bm25 true`")
    return BM25Index.load(join(artifact.path, BM25))
