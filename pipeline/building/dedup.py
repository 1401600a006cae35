"""Exact deduplication: every id with the record that keeps its text, put together from what the reading step staged.

An id that repeats is one record, and ids with one text share the record of one of them, the canonical one; the others
are its aliases. Duplicates are looked for among keys only: ids, keys of texts and splits move between buckets, and
whole records only where an alias takes over the one of its canonical id. All others stay where they were staged.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.building.ambiguous_ids import AmbiguousId
from pipeline.sources.reading.record import ORDER_BITS, SCHEMAS
from pipeline.sources.reading.splits import HELD_OUT_ORDER
from pipeline.storage.counts import EXAMPLES, Counts
from pipeline.storage.shuffle import Shuffle, bucket_hashes
from pipeline.text.columns import ids_from_keys, key_column, key_prefixes

ALIKE = 0.5  # score from which the texts of a labelled pair count as alike
NOUNS = {"documents": "document", "queries": "query"}
IDS = pa.schema([SCHEMAS["documents"].field(name) for name in ("id", "key", "split", "source", "order", "mention")])
KEYED = pa.schema([IDS.field(name) for name in ("id", "key", "split", "mention")])
ALIASES = pa.schema([("id", pa.string()), ("canonical_id", pa.string())])
CONFLICTING = pa.schema([IDS.field(name) for name in ("id", "order")])
ROW_NUMBERS = pa.schema([("row", pa.uint64())])
Numbers = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class DedupSteps:
    """The tasks that follow reading, and how later tasks read the deduplicated records of a bucket of ids."""

    shuffle: Shuffle
    lenient: tuple[int, ...] = ()  # sources of which the first text of an id is kept

    def unique_ids(self, bucket: int) -> Counts:
        """Choose one record for each id of a bucket; its key goes on to the bucket of its text."""
        tally = Counts()
        for kind, noun in NOUNS.items():
            rows = self.shuffle.read(kind, bucket, IDS)
            firsts, left_out = unique_ids(rows, noun, tally, self.lenient)
            if len(left_out):
                self._single_bucket.write(f"conflicting_{kind}", _part(bucket), left_out, by="order")
            if len(firsts) < len(rows):
                table = pa.table([firsts], schema=ROW_NUMBERS)
                self._single_bucket.write(f"unique_{kind}", _part(bucket), table, by="row")
                rows = rows.take(pa.array(firsts))
            self.shuffle.write(f"keys_{kind}", _part(bucket), rows.select(KEYED.names), by="key")
        return tally

    def unique_texts(self, bucket: int) -> Counts:
        """Find the ids whose text another id keeps; aliases go to the bucket of their canonical id."""
        tally = Counts()
        for kind, noun in NOUNS.items():
            aliases = find_aliases(self.shuffle.read(f"keys_{kind}", bucket, KEYED), noun, tally)
            self.shuffle.write(f"aliases_{kind}", _part(bucket), aliases, by="canonical_id")
        return tally

    def copy_to_aliases(self, bucket: int) -> Counts:
        """Copy the records of canonical ids to the buckets of their aliases."""
        for kind in NOUNS:
            aliases = self.shuffle.read(f"aliases_{kind}", bucket, ALIASES)
            if not len(aliases):
                continue
            records = self._records(kind, bucket, SCHEMAS[kind].names)
            copies = records.take(pc.index_in(aliases["canonical_id"], records["id"].combine_chunks()))
            index = copies.schema.get_field_index("id")
            copies = copies.append_column("canonical_id", copies["id"]).set_column(index, "id", aliases["id"])
            self.shuffle.write(f"copies_{kind}", _part(bucket), copies, by="id")
        return Counts()

    def without_conflicting(self, judgments: pa.Table, kind: str, bucket: int) -> pa.Table:
        """Judgments or negatives of a bucket without those of rows whose text was left out: they are of that text."""
        left_out = self._single_bucket.part(f"conflicting_{kind}", _part(bucket), CONFLICTING)
        if left_out is None:
            return judgments
        column = {"queries": "query_id", "documents": "doc_id"}[kind]
        conflicting = {(row["order"], row["id"]) for row in left_out.to_pylist()}
        rows = zip(judgments["order"].to_pylist(), judgments[column].to_pylist(), strict=True)
        return judgments.filter(pa.array([row not in conflicting for row in rows], pa.bool_()))

    def read(self, kind: str, bucket: int, names: list[str] | None = None) -> pa.Table:
        """Read the records of all ids of a bucket, with all or some of their columns and their `canonical_id`."""
        schema = with_canonical_id(SCHEMAS[kind])
        schema = pa.schema([f for f in schema if names is None or f.name in {*names, "id", "canonical_id"}])
        records = self._records(kind, bucket, [name for name in schema.names if name != "canonical_id"])
        copies = self.shuffle.read(f"copies_{kind}", bucket, schema)
        if len(copies):
            records = records.filter(pc.invert(pc.is_in(records["id"], copies["id"].combine_chunks())))
        return pa.concat_tables([records.append_column("canonical_id", records["id"]), copies]).combine_chunks()

    def find(self, kind: str, bucket: int, ids: pa.Array, names: list[str]) -> pa.Table:
        """Read the records of some canonical ids of a bucket, with their ids and some columns: a few of many."""
        rows = self.shuffle.read(kind, bucket, pa.schema([SCHEMAS[kind].field(name) for name in ["id", *names]]))
        numbers = np.flatnonzero(pc.is_in(rows["id"], value_set=ids).to_numpy())
        firsts = self._single_bucket.part(f"unique_{kind}", _part(bucket), ROW_NUMBERS)
        if firsts is not None:
            numbers = np.intersect1d(numbers, firsts["row"].to_numpy().astype(np.int64), assume_unique=True)
        return rows.take(pa.array(numbers))

    def read_canonical(self, kind: str, bucket: int, names: list[str] | None = None) -> pa.Table:
        """Read the records of the canonical ids of a bucket, sorted by id."""
        return canonical_rows(self.read(kind, bucket, names))

    def _records(self, kind: str, bucket: int, names: list[str]) -> pa.Table:
        """Read one record for each id of a bucket."""
        rows = self.shuffle.read(kind, bucket, pa.schema([SCHEMAS[kind].field(name) for name in names]))
        firsts = self._single_bucket.part(f"unique_{kind}", _part(bucket), ROW_NUMBERS)
        return rows if firsts is None else rows.take(firsts["row"])

    @property
    def _single_bucket(self) -> Shuffle:
        return Shuffle(self.shuffle.path, 1)


def _part(bucket: int) -> str:
    return f"{bucket:05d}"


def with_canonical_id(schema: pa.Schema) -> pa.Schema:
    """Schema of records with `canonical_id`, the id under which their text stays; another id marks an alias."""
    return schema.append(pa.field("canonical_id", pa.string()))


def canonical_rows(rows: pa.Table) -> pa.Table:
    """Records that are no aliases, sorted by id."""
    return rows.filter(pc.equal(rows["id"], rows["canonical_id"])).sort_by("id")


def unique_ids(rows: pa.Table, noun: str, tally: Counts, lenient: Sequence[int] = ()) -> tuple[Numbers, pa.Table]:
    """Row numbers in `IDS` of the first row of each id: held-out splits first, then records before mentions, as read.

    The same id again with the same text is a duplicate. Raises AmbiguousId where it comes with another text: then the
    id means two things, and judgments and pairs that name it would be joined with the wrong one. Of a `lenient` source
    the first text is kept and the others are counted; returned are also those (`CONFLICTING`) whose rows state a pair.
    """
    several = _repeated(bucket_hashes(rows["id"]))
    again = rows.filter(pa.array(several)).append_column("row", pa.array(np.flatnonzero(several)))
    again, firsts = _grouped(again, "id", "order")
    later = firsts != np.arange(again.num_rows)
    same = pc.equal(again["key"], again["key"].take(firsts)).to_numpy()
    mention = pc.fill_null(again["mention"], False).to_numpy()
    source = again["order"].to_numpy() >> ORDER_BITS
    tolerated = np.isin(source, lenient) & (source == source[firsts])
    if len(conflicts := np.flatnonzero(later & ~same & ~tolerated)):
        pair = again.take([firsts[conflicts[0]], conflicts[0]]).sort_by("order").to_pylist()
        both = np.concatenate([conflicts, firsts[conflicts]])
        stated_by = frozenset(source[both].tolist()) if mention[both].all() else frozenset()
        raise AmbiguousId(noun, pair[0], pair[1], stated_by)
    _drop(tally, f"duplicate_{noun}", again, later & same & ~mention)
    _drop(tally, f"conflicting_{noun}_id", again, later & ~same)
    kept = np.sort(np.concatenate([np.flatnonzero(~several), again["row"].to_numpy()[~later]])).astype(np.uint64)
    return kept, again.filter(pa.array(later & ~same & mention)).select(CONFLICTING.names)


def find_aliases(rows: pa.Table, noun: str, tally: Counts) -> pa.Table:
    """Aliases (`ALIASES`) among distinct ids (`KEYED`): those whose text another id keeps.

    Of ids with one text a held-out one is canonical, then one of a record (a product has a group and a category, and
    a text that a pair states has none), then the smallest.
    """
    again, firsts = _grouped(rows.filter(pa.array(_repeated(key_prefixes(rows["key"])))), "key", "id")
    later = pa.array(firsts != np.arange(again.num_rows))
    aliases = pa.table([again["id"].filter(later), again["id"].take(firsts).filter(later)], schema=ALIASES)
    tally.drop(f"duplicate_{noun}", aliases.num_rows)
    for row in aliases.slice(0, EXAMPLES).to_pylist():
        tally.drop(f"duplicate_{noun}", 0, f"{row['id']} has the text of {row['canonical_id']}")
    return aliases


def unique_labelled(rows: pa.Table, tally: Counts) -> pa.Table:
    """One row for each pair of texts, held-out splits before train; repeated ones are counted.

    Texts are the same that documents would be: case and width of letters do not part them.

    A pair that is called alike in one row and unlike in another (scores on both sides of one half), also when one of
    them is turned round, says nothing and is left out, counted as `contradicting_labels`. Of graded scores that differ
    less, as two annotators' may, one stays.
    """
    rows = rows.append_column("left_key", ids_from_keys(key_column(rows["left"]), "l"))
    rows = rows.append_column("right_key", ids_from_keys(key_column(rows["right"]), "l"))
    turned = pc.greater(rows["left_key"], rows["right_key"])
    sides = (("right_key", "left_key"), ("left_key", "right_key"))
    first, second = (pc.if_else(turned, rows[a], rows[b]) for a, b in sides)
    pair = pc.binary_join_element_wise(first, second, "\x1f")
    rows, firsts = _grouped(rows.append_column("id", pair), "id", "order")
    same = pc.binary_join_element_wise(rows["left_key"], rows["right_key"], "").combine_chunks().dictionary_encode()
    texts = pc.binary_join_element_wise(rows["left"], rows["right"], "\x1f")
    rows = rows.set_column(rows.schema.get_field_index("id"), "id", texts).drop_columns(["left_key", "right_key"])
    is_first = np.zeros(rows.num_rows, dtype=bool)
    is_first[np.unique(same.indices.to_numpy(), return_index=True)[1]] = True
    alike = rows["score"].to_numpy() >= ALIKE
    contradicting = np.isin(firsts, firsts[alike != alike[firsts]])
    _drop(tally, "contradicting_labels", rows, contradicting)
    tally.drop("duplicate_labelled", int((~is_first & ~contradicting).sum()))
    return rows.filter(pa.array(is_first & ~contradicting))


def _repeated(hashes: Numbers) -> npt.NDArray[np.bool_]:
    """Which of N hashes occur more than once: only such rows can be equal, and most rows are not among them."""
    order = np.argsort(hashes)
    same = np.zeros(len(hashes) + 1, dtype=bool)
    same[1:-1] = hashes[order[1:]] == hashes[order[:-1]] if len(hashes) else False
    repeated = np.zeros(len(hashes), dtype=bool)
    repeated[order] = same[1:] | same[:-1]
    return repeated


def _grouped(rows: pa.Table, by: str, then: str) -> tuple[pa.Table, np.ndarray]:
    """Rows sorted by a column, held-out splits first within, then records before mentions.

    With the index of the first row of its group for each.
    """
    rank = pc.fill_null(pc.index_in(rows["split"], HELD_OUT_ORDER), len(HELD_OUT_ORDER))
    if "mention" in rows.column_names:
        rank = pc.add(pc.multiply(rank, 2), pc.cast(pc.fill_null(rows["mention"], False), pa.int32()))
    order = [(name, "ascending") for name in dict.fromkeys([by, "rank", then])]
    rows = rows.append_column("rank", rank).sort_by(order).drop_columns("rank").combine_chunks()
    column = rows[by]
    new = np.ones(rows.num_rows, dtype=bool)
    if rows.num_rows > 1:
        new[1:] = pc.not_equal(column[1:], column[:-1]).to_numpy()
    return rows, np.maximum.accumulate(np.where(new, np.arange(rows.num_rows), 0))


def _drop(tally: Counts, reason: str, rows: pa.Table, mask: np.ndarray) -> None:
    tally.drop(reason, int(mask.sum()))
    for row in np.flatnonzero(mask)[:EXAMPLES]:
        tally.drop(reason, 0, f"{rows['id'][int(row)]} of {rows['source'][int(row)]}")
