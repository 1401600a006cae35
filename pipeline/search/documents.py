"""The documents of an index: what a search shows beside the vectors, with their texts where words are searched too."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import UserError
from pipeline.core.schema import PASSAGE
from pipeline.storage import shards
from pipeline.storage.artifact import CONFIG, Artifact
from pipeline.storage.files import join, open_parquet, read_json
from pipeline.storage.vectors import not_blank

TEXT = "text"


@dataclass(frozen=True)
class VectorDocuments:
    """The documents of an artifact of embed, in the order of its vectors.

    `corpus` are the files whose texts are added as column `text`; none where nobody asks for texts, or where the
    vectors have them already. Vectors of passages have a row each, unless `by_document` asks for one of each document.
    """

    files: Sequence[str]
    corpus: Sequence[str] = ()
    by_document: bool = False

    @classmethod
    def with_texts(cls, vectors: Artifact, data: str) -> "VectorDocuments":
        """Whole documents with their texts: those that `embed` copied, else those of the corpus that it embedded.

        Raises UserError where neither is there: vectors of an input without a column `text`, of another text than the
        corpus', or of other data than those at this path.
        """
        by_document = bool(vectors.manifest.notes.get("passages"))
        if TEXT in vectors.manifest.tables["vectors"].columns:
            return cls(vectors.files("vectors"), by_document=by_document)
        advice = f"{vectors.path}: holds no texts for BM25; embed with column `text` among `columns`"
        embedded = read_json(join(vectors.path, CONFIG)).get("text_column", TEXT)
        if "data" not in vectors.manifest.inputs or embedded != TEXT:
            raise UserError(advice)
        built = Artifact.open(data, "build")
        if built.manifest.fingerprint != vectors.manifest.inputs["data"]:
            raise UserError(f"{advice}, or name in `data` what was embedded; {data} is another artifact")
        return cls(vectors.files("vectors"), built.files("corpus"), by_document)

    def __iter__(self) -> Iterator[pa.Table]:
        """Yield all columns but the vectors, a row group of these at a time; raises UserError on texts of other ids."""
        texts = _Texts(self.corpus) if self.corpus else None
        for path in self.files:
            with open_parquet(path) as file:
                names = document_columns(file.schema_arrow.names)
            for table in shards.read_batches([path], names):
                rows = first_passages(table) if self.by_document else table
                yield rows.append_column(TEXT, texts.of(rows["id"], path)) if texts else rows

    def parts(self, rows: int) -> Iterator[pa.Table]:
        """Yield the same in tables of `rows` rows; the last may be shorter."""
        pending: list[pa.Table] = []
        for table in self:
            pending.append(table)
            while (count := sum(map(len, pending))) >= rows:
                joined = pa.concat_tables(pending)
                pending = [joined.slice(rows)] if count > rows else []
                yield joined.slice(0, rows)
        if pending:
            yield pa.concat_tables(pending)


def first_passages(table: pa.Table) -> pa.Table:
    """A row a document of a table of passages, without the columns that tell of the passage."""
    return table.filter(pc.equal(table[PASSAGE.names[1]], 0)).drop_columns(PASSAGE.names)


def document_columns(names: list[str]) -> list[str]:
    """Return the columns of a vectors table that belong to the documents."""
    return [name for name in names if not name.startswith("vector") and name != "text_key"]


class _Texts:
    """The texts of a corpus that are not blank, taken in their order: what embed makes vectors of."""

    def __init__(self, files: Sequence[str]) -> None:
        self.batches = shards.read_batches(files, ["doc_id", TEXT])
        self.pending = pa.table({"doc_id": pa.array([], pa.string()), TEXT: pa.array([], pa.string())})

    def of(self, ids: pa.ChunkedArray, path: str) -> pa.ChunkedArray:
        """The next texts, which must be those of these ids."""
        while self.pending.num_rows < len(ids) and (batch := next(self.batches, None)) is not None:
            self.pending = pa.concat_tables([self.pending, batch.filter(not_blank(batch[TEXT]))])
        texts, self.pending = self.pending.slice(0, len(ids)), self.pending.slice(len(ids))
        if len(texts) < len(ids) or not pc.all(pc.equal(texts["doc_id"], ids)).as_py():
            raise UserError(f"{path}: its documents are not those of the corpus in their order; embed it again")
        return texts[TEXT]
