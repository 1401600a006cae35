"""Entries: every id with the record that keeps its text, put together from what the reading step staged.

Exact duplicates are found among keys: ids, texts' keys and splits move between buckets, and the records themselves
only where an id borrows those of another. Records stay where they were staged and are picked from there.
"""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.dedup import ALIASES, IDS, KEYED, entries, kept_only, merge_texts, unique_ids
from pipeline.exchange import Exchange
from pipeline.sources.record import SCHEMAS
from pipeline.tally import Tally

NOUNS = {"documents": "document", "queries": "query"}
PLACES = pa.schema([("place", pa.uint64())])


@dataclass(frozen=True)
class Entries:
    """Tasks after `read`; whoever comes later reads the entries of a bucket of ids."""

    exchange: Exchange

    def ids(self, bucket: int) -> Tally:
        """Choose one record an id; its key goes on by text."""
        tally = Tally()
        for kind, noun in NOUNS.items():
            rows = self.exchange.read(kind, bucket, IDS)
            places = unique_ids(rows, noun, tally)
            if len(places) < len(rows):
                self._one.write(f"places_{kind}", _part(bucket), pa.table([places], schema=PLACES), by="place")
                rows = rows.take(pa.array(places))
            self.exchange.write(f"keys_{kind}", _part(bucket), rows.select(KEYED.names), by="key")
        return tally

    def texts(self, bucket: int) -> Tally:
        """Find the ids whose text is kept by another one, and tell both."""
        tally = Tally()
        for kind, noun in NOUNS.items():
            aliases = merge_texts(self.exchange.read(f"keys_{kind}", bucket, KEYED), noun, tally)
            self.exchange.write(f"aliases_{kind}", _part(bucket), aliases, by="id")
            self.exchange.write(f"lent_{kind}", _part(bucket), aliases, by="kept")
        return tally

    def lend(self, bucket: int) -> Tally:
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
        return Tally()

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
    def _one(self) -> Exchange:
        return Exchange(self.exchange.path, 1)


def _part(bucket: int) -> str:
    return f"{bucket:05d}"
