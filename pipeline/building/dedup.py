"""Entries: every id with the record that keeps its text, put together from what the reading step staged.

Exact duplicates are found among keys: ids, texts' keys and splits move between buckets, and the records themselves
only where an id borrows those of another. Records stay where they were staged and are picked from there.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import UserError
from pipeline.sources.reading.record import SCHEMAS
from pipeline.sources.reading.splits import HELD_OUT_ORDER
from pipeline.storage.counts import EXAMPLES, Counts
from pipeline.storage.shuffle import Shuffle, numbers
from pipeline.text.columns import words

_ID, _KEY, _SPLIT = (SCHEMAS["documents"].field(name) for name in ("id", "key", "split"))
IDS = pa.schema([_ID, _KEY, _SPLIT, *(SCHEMAS["documents"].field(name) for name in ("source", "order", "mention"))])
KEYED = pa.schema([_ID, _KEY, _SPLIT])
ALIASES = pa.schema([("id", pa.string()), ("kept", pa.string())])
Numbers = npt.NDArray[np.uint64]


def entries(schema: pa.Schema) -> pa.Schema:
    """Schema of rows by id with `kept`, the id under which the text stays: another one marks an alias."""
    return schema.append(pa.field("kept", pa.string()))


def unique_ids(rows: pa.Table, noun: str, tally: Counts) -> Numbers:
    """Places in `IDS` of the first row of each id, held-out splits before train, then in input order.

    The same id again with the same text is a duplicate, with another text a conflict. Raises UserError where the two
    texts come from two sources: then the id means two things.
    """
    twins = _twins(numbers(rows["id"]))
    again = rows.filter(pa.array(twins)).append_column("place", pa.array(np.flatnonzero(twins)))
    again, firsts = _grouped(again, "id", "order")
    later = firsts != np.arange(again.num_rows)
    same = pc.equal(again["key"], again["key"].take(firsts)).to_numpy()
    source = again["order"].to_numpy() >> 56
    for row in np.flatnonzero(later & ~same & (source != source[firsts]))[:1]:
        name, other = again["source"][int(row)], again["source"][int(firsts[row])]
        raise UserError(
            f"{noun} id '{again['id'][int(row)]}' has one text in source '{other}' and another in '{name}'; "
            "give one of them a `prefix`"
        )
    said = pc.fill_null(again["mention"], False).to_numpy()
    _drop(tally, f"duplicate_{noun}", again, later & same & ~said)
    _drop(tally, f"conflicting_{noun}_id", again, later & ~same)
    return np.sort(np.concatenate([np.flatnonzero(~twins), again["place"].to_numpy()[~later]])).astype(np.uint64)


def merge_texts(rows: pa.Table, noun: str, tally: Counts) -> pa.Table:
    """Aliases (`ALIASES`) among distinct ids (`KEYED`): those whose text another one keeps.

    Of ids with one text the held-out, then the smallest is kept.
    """
    again, firsts = _grouped(rows.filter(pa.array(_twins(words(rows["key"])))), "key", "id")
    aliases = firsts != np.arange(again.num_rows)
    kept = again["id"].take(firsts).filter(pa.array(aliases))
    found = pa.table([again["id"].filter(pa.array(aliases)), kept], schema=ALIASES)
    tally.drop(f"duplicate_{noun}", found.num_rows)
    for row in found.slice(0, EXAMPLES).to_pylist():
        tally.drop(f"duplicate_{noun}", 0, f"{row['id']} has the text of {row['kept']}")
    return found


def kept_only(rows: pa.Table) -> pa.Table:
    """Entries that are no aliases, sorted by id."""
    return rows.filter(pc.equal(rows["id"], rows["kept"])).sort_by("id")


def unique_labelled(rows: pa.Table, tally: Counts) -> pa.Table:
    """One row a pair of texts, held-out splits before train; a judgment said twice is counted."""
    pair = pc.binary_join_element_wise(rows["left"], rows["right"], "\x1f")
    rows, firsts = _grouped(rows.append_column("id", pair), "id", "order")
    first = firsts == np.arange(rows.num_rows)
    tally.drop("duplicate_labelled", int((~first).sum()))
    return rows.filter(pa.array(first))


def _twins(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Which of N hashes stand more than once: only such rows can be the same, and most rows are not among them."""
    order = np.argsort(numbers)
    same = np.zeros(len(numbers) + 1, dtype=bool)
    same[1:-1] = numbers[order[1:]] == numbers[order[:-1]] if len(numbers) else False
    found = np.zeros(len(numbers), dtype=bool)
    found[order] = same[1:] | same[:-1]
    return found


def _grouped(rows: pa.Table, by: str, then: str) -> tuple[pa.Table, np.ndarray]:
    """Rows sorted by a column, held-out first within, and for each row the index of the first of its group."""
    rank = pc.fill_null(pc.index_in(rows["split"], HELD_OUT_ORDER), len(HELD_OUT_ORDER))
    rows = rows.append_column("rank", rank)
    order = [(by, "ascending"), ("rank", "ascending")] + ([(then, "ascending")] if then != by else [])
    rows = rows.sort_by(order).drop_columns("rank").combine_chunks()
    column = rows[by]
    new = np.ones(rows.num_rows, dtype=bool)
    if rows.num_rows > 1:
        new[1:] = pc.not_equal(column[1:], column[:-1]).to_numpy()
    return rows, np.maximum.accumulate(np.where(new, np.arange(rows.num_rows), 0))


def _drop(tally: Counts, reason: str, rows: pa.Table, mask: np.ndarray) -> None:
    tally.drop(reason, int(mask.sum()))
    for row in np.flatnonzero(mask)[:EXAMPLES]:
        tally.drop(reason, 0, f"{rows['id'][int(row)]} of {rows['source'][int(row)]}")


NOUNS = {"documents": "document", "queries": "query"}
PLACES = pa.schema([("place", pa.uint64())])


@dataclass(frozen=True)
class Entries:
    """Tasks after `read`; whoever comes later reads the entries of a bucket of ids."""

    exchange: Shuffle

    def ids(self, bucket: int) -> Counts:
        """Choose one record an id; its key goes on by text."""
        tally = Counts()
        for kind, noun in NOUNS.items():
            rows = self.exchange.read(kind, bucket, IDS)
            places = unique_ids(rows, noun, tally)
            if len(places) < len(rows):
                self._one.write(f"places_{kind}", _part(bucket), pa.table([places], schema=PLACES), by="place")
                rows = rows.take(pa.array(places))
            self.exchange.write(f"keys_{kind}", _part(bucket), rows.select(KEYED.names), by="key")
        return tally

    def texts(self, bucket: int) -> Counts:
        """Find the ids whose text is kept by another one, and tell both."""
        tally = Counts()
        for kind, noun in NOUNS.items():
            aliases = merge_texts(self.exchange.read(f"keys_{kind}", bucket, KEYED), noun, tally)
            self.exchange.write(f"aliases_{kind}", _part(bucket), aliases, by="id")
            self.exchange.write(f"lent_{kind}", _part(bucket), aliases, by="kept")
        return tally

    def lend(self, bucket: int) -> Counts:
        """Give the records of kept ids to those that borrow them."""
        for kind in NOUNS:
            asked = self.exchange.read(f"lent_{kind}", bucket, ALIASES)
            if not len(asked):
                continue
            rows = self._records(kind, bucket, SCHEMAS[kind].names)
            lent = rows.take(pc.index_in(asked["kept"], rows["id"].combine_chunks()))
            lent = lent.append_column("kept", lent["id"]).set_column(
                lent.schema.get_field_index("id"), "id", asked["id"]
            )
            self.exchange.write(f"borrowed_{kind}", _part(bucket), lent, by="id")
        return Counts()

    def read(self, kind: str, bucket: int, names: list[str] | None = None) -> pa.Table:
        """Entries of a bucket, whole or some of their columns: the records of its ids, and those that ids borrow."""
        schema = entries(SCHEMAS[kind])
        wanted = pa.schema([field for field in schema if names is None or field.name in {*names, "id", "kept"}])
        rows = self._records(kind, bucket, [name for name in wanted.names if name != "kept"])
        borrowed = self.exchange.read(f"borrowed_{kind}", bucket, wanted)
        if len(borrowed):
            rows = rows.filter(pc.invert(pc.is_in(rows["id"], borrowed["id"].combine_chunks())))
        return pa.concat_tables([rows.append_column("kept", rows["id"]), borrowed]).combine_chunks()

    def kept(self, kind: str, bucket: int, names: list[str] | None = None) -> pa.Table:
        """Records of the kept ids of a bucket, sorted by id."""
        return kept_only(self.read(kind, bucket, names))

    def _records(self, kind: str, bucket: int, names: list[str]) -> pa.Table:
        """One record an id."""
        rows = self.exchange.read(kind, bucket, pa.schema([SCHEMAS[kind].field(name) for name in names]))
        places = self._one.part(f"places_{kind}", _part(bucket), PLACES)
        return rows if places is None else rows.take(places["place"])

    @property
    def _one(self) -> Shuffle:
        return Shuffle(self.exchange.path, 1)


def _part(bucket: int) -> str:
    return f"{bucket:05d}"
