"""Splits by cluster: groups that share near duplicates are merged into one, so that none of them straddles splits.

The group of a document is its own, else its cluster; that of a query its own, else the smallest of its documents',
else the query. All groups with a member in one cluster are merged, transitively: only names of groups move between
tasks, and only those of rows that have near duplicates.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.building.dedup import DedupSteps
from pipeline.building.near_duplicates import NearDuplicateSteps, components
from pipeline.building.pairs import JUDGMENTS_WITH_QUERY
from pipeline.storage.counts import Counts
from pipeline.storage.shuffle import Shuffle

LINKS = pa.schema([("cluster", pa.string()), ("group", pa.string())])
MERGED = pa.schema([("group", pa.string()), ("merged_group", pa.string())])
QUERY_GROUPS = pa.schema([("query_id", pa.string()), ("group", pa.string())])


@dataclass(frozen=True)
class ClusterSplitSteps:
    """The tasks between the join of judgments with queries and that with documents."""

    near: NearDuplicateSteps
    shuffle: Shuffle

    def link_documents(self, bucket: int) -> Counts:
        """Link the groups of near-duplicate documents to their cluster; stage the groups of each query's documents."""
        documents = DedupSteps(self.shuffle).read("documents", bucket, ["group"])
        clusters = self.near.cluster_of("documents", documents["canonical_id"])
        self._link("documents", bucket, clusters, documents["group"])
        judgments = self.shuffle.read("judgments_with_query", bucket, JUDGMENTS_WITH_QUERY)
        row = pc.index_in(judgments["doc_id"], documents["id"].combine_chunks())
        groups = pc.coalesce(documents["group"].combine_chunks(), clusters).take(row)
        query_groups = pa.table([judgments["query_id"], groups], schema=QUERY_GROUPS).filter(groups.is_valid())
        self.shuffle.write("query_groups", f"{bucket:05d}", query_groups, by="query_id")
        return Counts()

    def link_queries(self, bucket: int) -> Counts:
        """Link the groups of near-duplicate queries to their cluster."""
        queries = DedupSteps(self.shuffle).read_canonical("queries", bucket, ["group"])
        query_groups = self.shuffle.read("query_groups", bucket, QUERY_GROUPS)
        smallest = query_groups.group_by("query_id").aggregate([("group", "min")])
        row = pc.index_in(queries["id"], smallest["query_id"].combine_chunks())
        groups = pc.coalesce(queries["group"], smallest["group_min"].take(row), queries["id"])
        self._link("queries", bucket, self.near.cluster_of("queries", queries["id"]), groups)
        return Counts()

    def merge_groups(self, bucket: int) -> Counts:
        """Name every group that is linked to another after the smallest of them; one task does it for all."""
        tally = Counts()
        if bucket == 0:
            links = self._single_bucket.read("links", 0, LINKS)
            names = pc.unique(pa.concat_arrays([chunk for side in LINKS.names for chunk in links[side].chunks])).sort()
            ends = [pc.index_in(links[side], names).to_numpy().astype(np.uint64) for side in LINKS.names]
            nodes, first = components(pa.table(ends, names=["left", "right"]))
            merged = pa.table([names.take(pa.array(nodes)), names.take(pa.array(nodes[first]))], schema=MERGED)
            tally.counts["merged_groups"] += len(merged)
            self._single_bucket.write("merged_groups", "all", merged, by="group")
        return tally

    def merged_groups(self) -> dict[str, str]:
        """Read the common name of every group that is linked to another."""
        merged = self._single_bucket.read("merged_groups", 0, MERGED)
        return dict(zip(merged["group"].to_pylist(), merged["merged_group"].to_pylist(), strict=True))

    def _link(self, kind: str, bucket: int, clusters: pa.Array, groups: pa.ChunkedArray) -> None:
        names = clusters if kind == "documents" else pc.binary_join_element_wise(kind, clusters, " ")
        links = pa.table([names, groups], schema=LINKS)
        links = links.filter(pc.and_(links["cluster"].is_valid(), links["group"].is_valid()))
        self._single_bucket.write("links", f"{kind}-{bucket:05d}", links, by="cluster")

    @property
    def _single_bucket(self) -> Shuffle:
        return Shuffle(self.shuffle.path, 1)
