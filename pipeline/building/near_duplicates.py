"""Near-duplicate clusters while building: sketches by band, candidates, exact comparison, components.

Only keys move between buckets, and the texts of candidates, one a pair: never all rows. What is left for one task are
the edges of clusters, 16 bytes each, reduced to forests before.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.building.dedup import Entries
from pipeline.building.minhash import NearConfig, alike, sketch
from pipeline.building.shingles import Hashes, jaccard, mix, shingle
from pipeline.storage.counts import Counts
from pipeline.storage.shuffle import Shuffle, numbers

BANDS = pa.schema([("key", pa.uint64()), ("number", pa.uint64()), ("bits", pa.uint64())])
EDGES = pa.schema([("left", pa.uint64()), ("right", pa.uint64())])
LEFTS = EDGES.append(pa.field("text", pa.string()))
MEMBERS = pa.schema([("number", pa.uint64()), ("cluster", pa.string())])
NEIGHBOURS, HEADS = 4, 2  # with how many texts of a band each one is compared, however many there are


def candidates(bands: pa.Table, config: NearConfig) -> pa.Table:
    """Rows of `BANDS`, whole bands, into candidate pairs (`EDGES`, left < right), each once.

    A text is paired with the next `NEIGHBOURS` and the first `HEADS` of its band in an order that the texts decide, so
    that a band of k texts gives 6k pairs at most and never k^2: near duplicates of one family stay connected, and
    share several bands in each of which they lie otherwise.
    """
    key, number, bits = (bands[name].to_numpy() for name in BANDS.names)
    order = np.lexsort((number, mix(number ^ key), key))  # another order in every band
    key, number, bits = key[order], number[order], bits[order]
    new = np.ones(len(key), dtype=bool)
    new[1:] = key[1:] != key[:-1]
    first = np.maximum.accumulate(np.where(new, np.arange(len(key)), 0))
    place = np.arange(len(key))
    others = [place - step for step in range(1, NEIGHBOURS + 1)] + [first + head for head in range(HEADS)]
    found = []
    for other in others:
        mine = np.flatnonzero((other >= first) & (other < place))
        near = mine[alike(bits[mine], bits[other[mine]], config)]
        found.append(np.stack([number[near], number[other[near]]], axis=1))
    return edges(np.concatenate(found))


def edges(pairs: Hashes) -> pa.Table:
    """Pairs of numbers [P, 2] as distinct rows of `EDGES`, the smaller left; a number beside itself is left out."""
    pairs = np.sort(pairs.reshape(-1, 2), axis=1)
    left, right = pairs[pairs[:, 0] != pairs[:, 1]].T
    order = np.lexsort((right, left))
    left, right = left[order], right[order]
    new = np.ones(len(left), dtype=bool)
    new[1:] = (left[1:] != left[:-1]) | (right[1:] != right[:-1])
    return pa.table([left[new], right[new]], schema=EDGES)


def joined(pairs: pa.Table) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """Nodes of a graph given by `EDGES`, sorted, and the place of the smallest node of each one's component."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = np.concatenate([pairs["left"].to_numpy(), pairs["right"].to_numpy()])
    nodes, at = np.unique(ends, return_inverse=True)
    half = len(at) // 2
    graph = coo_array((np.ones(half, np.int8), (at[:half], at[half:])), shape=(len(nodes), len(nodes)))
    _, label = connected_components(graph, directed=False)
    _, first = np.unique(label, return_index=True)
    return nodes, first[label] if len(nodes) else np.zeros(0, np.int64)


def forest(pairs: pa.Table) -> pa.Table:
    """Fewer edges with the same components: each node with the smallest of its component."""
    nodes, first = joined(pairs)
    return edges(np.stack([nodes, nodes[first]], axis=1)) if len(nodes) else EDGES.empty_table()


def clusters(pairs: pa.Table) -> pa.Table:
    """Components of `EDGES` as `MEMBERS`: every number with its cluster, named after the smallest number in it."""
    nodes, first = joined(pairs)
    return pa.table([nodes, [f"c-{number:016x}" for number in nodes[first].tolist()]], schema=MEMBERS)


KINDS = ("documents", "queries")
PIECE = 4096  # pairs that are compared at once


@dataclass(frozen=True)
class NearSteps:
    """Tasks between `texts`, which leaves the kept entries by id, and whoever asks for the cluster of an id."""

    config: NearConfig
    exchange: Shuffle

    def steps(self) -> list[Callable[[int], Counts]]:
        """Steps in order; each needs all buckets of the one before."""
        return [self.sketches, self.candidates, self.lefts, self.verified, self.clusters]

    def sketches(self, bucket: int) -> Counts:
        """Sketch the kept texts of a bucket and go on by band."""
        for kind in KINDS:
            rows = self._kept(kind, bucket)
            found = sketch(rows["text"], self.config)
            columns = [
                found.keys[found.rows].ravel(),
                np.repeat(numbers(rows["id"])[found.rows], self.config.bands),
                np.repeat(found.bits[found.rows], self.config.bands),
            ]
            self.exchange.write(f"bands_{kind}", f"{bucket:05d}", pa.table(columns, schema=BANDS), by="key")
        return Counts()

    def candidates(self, bucket: int) -> Counts:
        """Pair what shares a band and go on by the left one."""
        for kind in KINDS:
            found = candidates(self.exchange.read(f"bands_{kind}", bucket, BANDS), self.config)
            self.exchange.write(f"candidates_{kind}", f"{bucket:05d}", found, by="left")
        return Counts()

    def lefts(self, bucket: int) -> Counts:
        """Give each candidate pair the left one's text and go on by the right one."""
        for kind in KINDS:
            pairs = self.exchange.read(f"candidates_{kind}", bucket, EDGES)
            pairs = pairs.group_by(["left", "right"]).aggregate([]).sort_by([("left", "ascending")])
            rows = self._kept(kind, bucket)
            place = pc.index_in(pairs["left"], pa.array(numbers(rows["id"])))
            pairs = pairs.append_column("text", rows["text"].take(place))
            self.exchange.write(f"lefts_{kind}", f"{bucket:05d}", pairs, by="right")
        return Counts()

    def verified(self, bucket: int) -> Counts:
        """Compare candidate pairs exactly and keep a forest of those that are near duplicates."""
        tally = Counts()
        for kind in KINDS:
            pairs = self.exchange.read(f"lefts_{kind}", bucket, LEFTS)
            rows = self._kept(kind, bucket)
            place = pc.index_in(pairs["right"], pa.array(numbers(rows["id"]))).to_numpy().astype(np.int64)
            near = np.zeros(len(pairs), dtype=bool)
            for start in range(0, len(pairs), PIECE):
                piece = slice(start, start + PIECE)
                near[piece] = self._near(pairs["text"][piece], rows["text"], place[piece])
            tally.counts[f"near_candidates_{kind}"] += len(pairs)
            tally.counts[f"near_pairs_{kind}"] += int(near.sum())
            kept = forest(pairs.select(EDGES.names).filter(pa.array(near)))
            Shuffle(self.exchange.path, 1).write(f"edges_{kind}", f"{bucket:05d}", kept, by="left")
        return tally

    def clusters(self, bucket: int) -> Counts:
        """Join the forests of all buckets into clusters; the first bucket's task does it for all."""
        tally = Counts()
        for kind in KINDS if bucket == 0 else ():
            found = clusters(Shuffle(self.exchange.path, 1).read(f"edges_{kind}", 0, EDGES))
            tally.counts[f"near_duplicate_{kind}"] += found.num_rows
            tally.counts[f"near_duplicate_clusters_of_{kind}"] += len(found["cluster"].unique())
            Shuffle(self.exchange.path, 1).write(f"clusters_{kind}", "all", found, by="number")
        return tally

    def cluster_of(self, kind: str, ids: pa.ChunkedArray) -> pa.Array:
        """Clusters of kept ids; null for a text without near duplicates."""
        found = Shuffle(self.exchange.path, 1).read(f"clusters_{kind}", 0, MEMBERS).combine_chunks()
        place = pc.index_in(pa.array(numbers(ids)), found["number"].combine_chunks())
        taken = found["cluster"].take(place)
        return taken.combine_chunks() if isinstance(taken, pa.ChunkedArray) else taken

    def _near(self, left: pa.ChunkedArray, right: pa.ChunkedArray, place: np.ndarray) -> np.ndarray:
        """Whether texts [P] are near duplicates of those at `place` [P] of `right`; each text is cut up once."""
        coded = left.combine_chunks().dictionary_encode()
        rows, at = np.unique(place, return_inverse=True)
        one, other = shingle(coded.dictionary, self.config.words), shingle(right.take(rows), self.config.words)
        return jaccard(one, other, np.stack([coded.indices.to_numpy(), at], axis=1)) >= self.config.threshold

    def _kept(self, kind: str, bucket: int) -> pa.Table:
        return Entries(self.exchange).kept(kind, bucket, ["text"])
