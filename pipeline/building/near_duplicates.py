"""Near-duplicate clusters: sketches by band, candidate pairs, exact comparison, connected components.

Only keys move between buckets, and the texts of candidates, one for each pair: never all rows. One task sees all edges
of clusters, 16 bytes each, which the tasks before have reduced to spanning forests.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.building.dedup import DedupSteps
from pipeline.building.minhash import NearConfig, may_be_near, sketch
from pipeline.building.shingles import Hashes, jaccard, mix, shingle
from pipeline.storage.counts import Counts
from pipeline.storage.shuffle import Shuffle, bucket_hashes

BANDS = pa.schema([("key", pa.uint64()), ("number", pa.uint64()), ("bits", pa.uint64())])
EDGES = pa.schema([("left", pa.uint64()), ("right", pa.uint64())])
EDGES_WITH_TEXT = EDGES.append(pa.field("text", pa.string()))
CLUSTERS = pa.schema([("number", pa.uint64()), ("cluster", pa.string())])
KINDS = ("documents", "queries")
PIECE = 4096  # pairs that are compared at once
NEIGHBOURS, HEADS = 4, 2  # with how many texts of a band each one is compared, however many there are


@dataclass(frozen=True)
class NearDuplicateSteps:
    """The tasks that follow exact deduplication, and how later tasks read the cluster of an id."""

    config: NearConfig
    shuffle: Shuffle

    def steps(self) -> list[Callable[[int], Counts]]:
        """Return the tasks in order; each needs all buckets of the one before."""
        return [self.sketches, self.candidates, self.candidate_texts, self.comparison, self.clusters]

    def sketches(self, bucket: int) -> Counts:
        """Sketch the canonical texts of a bucket; they go on by band."""
        for kind in KINDS:
            rows = self._texts(kind, bucket)
            sketches = sketch(rows["text"], self.config)
            columns = [
                sketches.keys[sketches.rows].ravel(),
                np.repeat(bucket_hashes(rows["id"])[sketches.rows], self.config.bands),
                np.repeat(sketches.bits[sketches.rows], self.config.bands),
            ]
            self.shuffle.write(f"bands_{kind}", f"{bucket:05d}", pa.table(columns, schema=BANDS), by="key")
        return Counts()

    def candidates(self, bucket: int) -> Counts:
        """Pair the texts that share a band; candidates go on by their left text."""
        for kind in KINDS:
            pairs = candidate_pairs(self.shuffle.read(f"bands_{kind}", bucket, BANDS), self.config)
            self.shuffle.write(f"candidates_{kind}", f"{bucket:05d}", pairs, by="left")
        return Counts()

    def candidate_texts(self, bucket: int) -> Counts:
        """Give each candidate pair the text of its left end; pairs go on by their right one."""
        for kind in KINDS:
            pairs = self.shuffle.read(f"candidates_{kind}", bucket, EDGES)
            pairs = pairs.group_by(["left", "right"]).aggregate([]).sort_by([("left", "ascending")])
            rows = self._texts(kind, bucket)
            left = pc.index_in(pairs["left"], pa.array(bucket_hashes(rows["id"])))
            pairs = pairs.append_column("text", rows["text"].take(left))
            self.shuffle.write(f"candidate_texts_{kind}", f"{bucket:05d}", pairs, by="right")
        return Counts()

    def comparison(self, bucket: int) -> Counts:
        """Compare candidate pairs exactly and stage a spanning forest of the near duplicates among them."""
        tally = Counts()
        for kind in KINDS:
            pairs = self.shuffle.read(f"candidate_texts_{kind}", bucket, EDGES_WITH_TEXT)
            rows = self._texts(kind, bucket)
            right = pc.index_in(pairs["right"], pa.array(bucket_hashes(rows["id"]))).to_numpy().astype(np.int64)
            near = np.zeros(len(pairs), dtype=bool)
            for start in range(0, len(pairs), PIECE):
                piece = slice(start, start + PIECE)
                near[piece] = self._near(pairs["text"][piece], rows["text"], right[piece])
            tally.counts[f"near_candidates_{kind}"] += len(pairs)
            tally.counts[f"near_pairs_{kind}"] += int(near.sum())
            forest = spanning_forest(pairs.select(EDGES.names).filter(pa.array(near)))
            self._single_bucket.write(f"edges_{kind}", f"{bucket:05d}", forest, by="left")
        return tally

    def clusters(self, bucket: int) -> Counts:
        """Join the forests of all buckets into clusters; the first bucket's task does it for all."""
        tally = Counts()
        for kind in KINDS if bucket == 0 else ():
            members = clusters(self._single_bucket.read(f"edges_{kind}", 0, EDGES))
            tally.counts[f"near_duplicate_{kind}"] += members.num_rows
            tally.counts[f"near_duplicate_clusters_of_{kind}"] += len(members["cluster"].unique())
            self._single_bucket.write(f"clusters_{kind}", "all", members, by="number")
        return tally

    def cluster_of(self, kind: str, ids: pa.ChunkedArray) -> pa.Array:
        """Clusters of canonical ids [N]; null for a text without near duplicates."""
        members = self._single_bucket.read(f"clusters_{kind}", 0, CLUSTERS).combine_chunks()
        index = pc.index_in(pa.array(bucket_hashes(ids)), members["number"].combine_chunks())
        names = members["cluster"].take(index)
        return names.combine_chunks() if isinstance(names, pa.ChunkedArray) else names

    def _near(self, left: pa.ChunkedArray, right: pa.ChunkedArray, rows: np.ndarray) -> np.ndarray:
        """Whether texts [P] are near duplicates of those at `rows` [P] of `right`; each text is shingled once."""
        encoded = left.combine_chunks().dictionary_encode()
        distinct, right_index = np.unique(rows, return_inverse=True)
        left_shingles = shingle(encoded.dictionary, self.config.words)
        right_shingles = shingle(right.take(distinct), self.config.words)
        pairs = np.stack([encoded.indices.to_numpy(), right_index], axis=1)
        return jaccard(left_shingles, right_shingles, pairs) >= self.config.threshold

    def _texts(self, kind: str, bucket: int) -> pa.Table:
        return DedupSteps(self.shuffle).read_canonical(kind, bucket, ["text"])

    @property
    def _single_bucket(self) -> Shuffle:
        return Shuffle(self.shuffle.path, 1)


def candidate_pairs(bands: pa.Table, config: NearConfig) -> pa.Table:
    """Rows of `BANDS`, whole bands, into candidate pairs (`EDGES`, left < right), each once.

    A text is paired with the next `NEIGHBOURS` and the first `HEADS` of its band in an order that the texts decide, so
    that a band of k texts gives 6k pairs at most and never k^2: near duplicates of one family stay connected, and
    share several bands, each with another order.
    """
    key, number, bits = (bands[name].to_numpy() for name in BANDS.names)
    order = np.lexsort((number, mix(number ^ key), key))  # another order in every band
    key, number, bits = key[order], number[order], bits[order]
    new = np.ones(len(key), dtype=bool)
    new[1:] = key[1:] != key[:-1]
    first = np.maximum.accumulate(np.where(new, np.arange(len(key)), 0))
    rows = np.arange(len(key))
    others = [rows - step for step in range(1, NEIGHBOURS + 1)] + [first + head for head in range(HEADS)]
    pairs = []
    for other in others:
        inside = np.flatnonzero((other >= first) & (other < rows))
        near = inside[may_be_near(bits[inside], bits[other[inside]], config)]
        pairs.append(np.stack([number[near], number[other[near]]], axis=1))
    return edges(np.concatenate(pairs))


def edges(pairs: Hashes) -> pa.Table:
    """Pairs of numbers [P, 2] as distinct rows of `EDGES`, the smaller left; a number with itself is left out."""
    pairs = np.sort(pairs.reshape(-1, 2), axis=1)
    left, right = pairs[pairs[:, 0] != pairs[:, 1]].T
    order = np.lexsort((right, left))
    left, right = left[order], right[order]
    new = np.ones(len(left), dtype=bool)
    new[1:] = (left[1:] != left[:-1]) | (right[1:] != right[:-1])
    return pa.table([left[new], right[new]], schema=EDGES)


def components(pairs: pa.Table) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """Nodes of the graph of `EDGES`, sorted, and for each the index of the smallest node of its connected component."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = np.concatenate([pairs["left"].to_numpy(), pairs["right"].to_numpy()])
    nodes, index = np.unique(ends, return_inverse=True)
    half = len(index) // 2
    graph = coo_array((np.ones(half, np.int8), (index[:half], index[half:])), shape=(len(nodes), len(nodes)))
    _, label = connected_components(graph, directed=False)
    _, first = np.unique(label, return_index=True)
    return nodes, first[label] if len(nodes) else np.zeros(0, np.int64)


def spanning_forest(pairs: pa.Table) -> pa.Table:
    """Fewer edges with the same components: each node with the smallest of its component."""
    nodes, first = components(pairs)
    return edges(np.stack([nodes, nodes[first]], axis=1)) if len(nodes) else EDGES.empty_table()


def clusters(pairs: pa.Table) -> pa.Table:
    """Components of `EDGES` as `CLUSTERS`: every number with its cluster, named after the smallest number in it."""
    nodes, first = components(pairs)
    return pa.table([nodes, [f"c-{number:016x}" for number in nodes[first].tolist()]], schema=CLUSTERS)
