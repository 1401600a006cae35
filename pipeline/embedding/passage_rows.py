"""Documents into rows of vectors, one a passage, a group of documents at a time: memory follows the group."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipeline.core.schema import PASSAGE
from pipeline.embedding.reuse import KEY, EarlierVectors
from pipeline.encoder.encoder import Encoder
from pipeline.encoder.passage_vectors import CutDocuments, Floats, groups, mixed
from pipeline.encoder.passages import PassageCutter, PassagesConfig
from pipeline.encoder.tokenizer import Ints
from pipeline.storage.vectors import Ranges, VectorFormat, formatted_column, int8_ranges, truncate
from pipeline.text.normalize import hash64


@dataclass
class PassageRows:
    """Makes the rows of a shard: id, vectors, passage, the character at which it starts, and the columns beside.

    `counts` add up documents, rows, and what the encoder computed, as the rows are made.
    """

    encoder: Encoder
    config: PassagesConfig
    formats: Sequence[VectorFormat]
    ranges: Ranges
    earlier: EarlierVectors | None = None
    extra_columns: Sequence[str] = ()  # of the documents, repeated for each passage
    keyed: bool = False  # whether rows get the key by which later runs find them
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def scaled(self) -> bool:
        """Whether passages and whole texts have length 1, before they are mixed."""
        return self.encoder.similarity == "cosine"

    def tables(self, rows: pa.Table, turn: AbstractContextManager[object]) -> Iterator[pa.Table]:
        """Yield the rows of documents (id, text, further columns), one group after the other; one table at least.

        The encoder computes while `turn` is held.
        """
        cutter = PassageCutter(self.encoder, self.config)
        texts = rows.column("text").to_pylist()
        for part in [*groups(texts)] or [slice(0, 0)]:
            documents = rows.slice(part.start, part.stop - part.start)
            table = self._table(documents, texts[part], cutter, turn)
            self.counts.update({"documents": len(documents), "rows": len(table)})
            yield table

    def _table(
        self, documents: pa.Table, texts: list[str], cutter: PassageCutter, turn: AbstractContextManager[object]
    ) -> pa.Table:
        cut = CutDocuments.cut(cutter, texts)
        keys = passage_keys(cut, texts) if self.keyed else np.empty(0, np.int64)
        positions = self.earlier.find(keys) if self.earlier else np.full(len(cut.texts), -1)
        new = _new_documents(cut, positions)
        columns = self._encoded(cut if new.all() else cut.of(new), [texts[row] for row in np.flatnonzero(new)], turn)
        columns = self._with_earlier(columns, positions, new[cut.owners])
        owners = pa.array(cut.owners)
        table = columns.add_column(0, "id", documents.column("id").take(owners))
        for name, values in zip(PASSAGE.names, (cut.texts, cut.starts), strict=True):
            table = table.append_column(name, pa.array(values, PASSAGE.field(name).type))
        for name in self.extra_columns:
            table = table.append_column(name, documents.column(name).take(owners))
        return table.append_column(KEY, pa.array(keys)) if self.keyed else table

    def _encoded(self, cut: CutDocuments, texts: Sequence[str], turn: AbstractContextManager[object]) -> pa.Table:
        """Columns of vectors of passages."""
        with turn:
            passage_vectors, text_vectors = self._vectors(cut, texts)
        lengths = [len(row) for row in cut.tokens]
        padded = round(sum(lengths) / (1 - self.encoder.padding_share(lengths)))
        self.counts.update({"tokens": sum(lengths), "padded": padded})
        columns = [
            formatted_column(
                self._mixed(cut, passage_vectors, text_vectors, form), form.full_width, self.ranges, scaled=False
            )
            for form in self.formats
        ]
        return pa.table(columns, ["vector", *(form.name for form in self.formats[1:])])

    def _vectors(self, cut: CutDocuments, texts: Sequence[str]) -> tuple[Floats, Floats]:
        """Vectors of passages, and of whole texts where these count; else those of passages again, for nothing."""
        passage_vectors = cut.vectors(self.encoder)
        if not self.config.full_text:
            return passage_vectors, passage_vectors
        return passage_vectors, cut.text_vectors(self.encoder, texts, passage_vectors)

    def _mixed(self, cut: CutDocuments, passage_vectors: Floats, text_vectors: Floats, form: VectorFormat) -> Floats:
        passage_vectors, text_vectors = (
            truncate(vectors, form.dim, scaled=self.scaled) for vectors in (passage_vectors, text_vectors)
        )
        return mixed(passage_vectors, text_vectors, cut.owners, self.config.full_text)

    def _with_earlier(self, columns: pa.Table, positions: Ints, new: np.ndarray) -> pa.Table:
        """Vectors of all passages [P]: those of `new` [P] ones, and between them earlier ones."""
        old = np.flatnonzero(~new)
        if self.earlier is None or not len(old):
            return columns
        self.counts["copied"] += len(old)
        copied = self.earlier.take(positions[old], columns.column_names).cast(columns.schema)
        back = np.argsort(np.concatenate([np.flatnonzero(new), old]), kind="stable")
        return pa.concat_tables([columns, copied]).take(pa.array(back))

    def int8_ranges(self, texts: Sequence[str]) -> Ranges:
        """Range of each dimension of the rows of some documents, for each width that is stored in int8."""
        cut = CutDocuments.cut(PassageCutter(self.encoder, self.config), texts)
        passage_vectors, text_vectors = self._vectors(cut, texts)
        ranges: Ranges = {}
        for form in self.formats:
            ranges |= int8_ranges(
                self._mixed(cut, passage_vectors, text_vectors, form), [form.full_width], scaled=False
            )
        return ranges


def passage_keys(cut: CutDocuments, texts: Sequence[str]) -> Ints:
    """Keys [P] of passages: of their document's text, on all of which a vector may depend, and their place in it."""
    keys = [hash64(texts[owner], str(start)) for owner, start in zip(cut.owners, cut.starts, strict=True)]
    return np.array(keys, np.uint64).view(np.int64)


def _new_documents(cut: CutDocuments, positions: Ints) -> np.ndarray:
    """Mask [N] of the documents that have a passage without earlier vectors."""
    new = np.zeros(cut.documents, np.bool_)
    new[cut.owners[positions < 0]] = True
    return new
