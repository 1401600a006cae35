"""Splits by cluster: groups that near duplicates tie together become one unit, which is in one split.

The group of a document is its own, else its cluster; that of a query its own, else the smallest of its documents',
else the query. A cluster ties the groups of its members, and ties are followed to the end: only names move, and only
those of rows that have near duplicates.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.building.dedup import Entries
from pipeline.building.near_duplicates import NearSteps, joined
from pipeline.building.pairs import ASKED
from pipeline.storage.counts import Counts
from pipeline.storage.shuffle import Shuffle

TIES = pa.schema([("left", pa.string()), ("right", pa.string())])
TOPICS = pa.schema([("query_id", pa.string()), ("group", pa.string())])


@dataclass(frozen=True)
class UnitSteps:
    """Tasks between the join of judgments with queries and that with documents."""

    near: NearSteps
    exchange: Shuffle

    def of_documents(self, bucket: int) -> Counts:
        """Tie the groups of near-duplicate documents; stage by query in which groups its documents are."""
        documents = Entries(self.exchange).read("documents", bucket, ["group"])
        clusters = self.near.cluster_of("documents", documents["kept"])
        self._tie("documents", bucket, clusters, documents["group"])
        asked = self.exchange.read("asked", bucket, ASKED)
        at = pc.index_in(asked["doc_id"], documents["id"].combine_chunks())
        groups = pc.coalesce(documents["group"].combine_chunks(), clusters).take(at)
        topics = pa.table([asked["query_id"], groups], schema=TOPICS).filter(groups.is_valid())
        self.exchange.write("topics", f"{bucket:05d}", topics, by="query_id")
        return Counts()

    def of_queries(self, bucket: int) -> Counts:
        """Tie the groups of near-duplicate queries."""
        queries = Entries(self.exchange).kept("queries", bucket, ["group"])
        topics = self.exchange.read("topics", bucket, TOPICS).group_by("query_id").aggregate([("group", "min")])
        at = pc.index_in(queries["id"], topics["query_id"].combine_chunks())
        groups = pc.coalesce(queries["group"], topics["group_min"].take(at), queries["id"])
        self._tie("queries", bucket, self.near.cluster_of("queries", queries["id"]), groups)
        return Counts()

    def settle(self, bucket: int) -> Counts:
        """Name every group that is tied to another after the smallest of them; one task does it for all."""
        tally = Counts()
        if bucket == 0:
            ties = self._one.read("ties", 0, TIES)
            names = pc.unique(pa.concat_arrays([c for side in TIES.names for c in ties[side].chunks])).sort()
            ends = [pc.index_in(ties[side], names).to_numpy().astype(np.uint64) for side in TIES.names]
            nodes, first = joined(pa.table(ends, names=["left", "right"]))
            units = pa.table([names.take(pa.array(nodes)), names.take(pa.array(nodes[first]))], schema=TIES)
            tally.counts["tied_groups"] += len(units)
            self._one.write("units", "all", units, by="left")
        return tally

    def read(self) -> dict[str, str]:
        """Read the unit of every group that is tied to another."""
        units = self._one.read("units", 0, TIES)
        return dict(zip(units["left"].to_pylist(), units["right"].to_pylist(), strict=True))

    def _tie(self, kind: str, bucket: int, clusters: pa.Array, groups: pa.ChunkedArray) -> None:
        named = clusters if kind == "documents" else pc.binary_join_element_wise(kind, clusters, " ")
        ties = pa.table([named, groups], schema=TIES)
        ties = ties.filter(pc.and_(ties["left"].is_valid(), ties["right"].is_valid()))
        self._one.write("ties", f"{kind}-{bucket:05d}", ties, by="left")

    @property
    def _one(self) -> Shuffle:
        return Shuffle(self.exchange.path, 1)
