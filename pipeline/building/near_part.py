"""Near-duplicate clusters while building: sketches by band, candidates, exact comparison, components.

Only keys move between buckets, and the texts of candidates, one a pair: never all rows. What is left for one task are
the edges of clusters, 16 bytes each, reduced to forests before.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.build.entries import Entries
from pipeline.clusters import BANDS, EDGES, LEFTS, MEMBERS, candidates, clusters, forest
from pipeline.exchange import Exchange, numbers
from pipeline.minhash import NearConfig, sketch
from pipeline.shingles import jaccard, shingle
from pipeline.tally import Tally

KINDS = ("documents", "queries")
PIECE = 4096  # pairs that are compared at once


@dataclass(frozen=True)
class NearSteps:
    """Tasks between `texts`, which leaves the kept entries by id, and whoever asks for the cluster of an id."""

    config: NearConfig
    exchange: Exchange

    def steps(self) -> list[Callable[[int], Tally]]:
        """Steps in order; each needs all buckets of the one before."""
        return [self.sketches, self.candidates, self.lefts, self.verified, self.clusters]

    def sketches(self, bucket: int) -> Tally:
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
        return Tally()

    def candidates(self, bucket: int) -> Tally:
        """Pair what shares a band and go on by the left one."""
        for kind in KINDS:
            found = candidates(self.exchange.read(f"bands_{kind}", bucket, BANDS), self.config)
            self.exchange.write(f"candidates_{kind}", f"{bucket:05d}", found, by="left")
        return Tally()

    def lefts(self, bucket: int) -> Tally:
        """Give each candidate pair the left one's text and go on by the right one."""
        for kind in KINDS:
            pairs = self.exchange.read(f"candidates_{kind}", bucket, EDGES)
            pairs = pairs.group_by(["left", "right"]).aggregate([]).sort_by([("left", "ascending")])
            rows = self._kept(kind, bucket)
            place = pc.index_in(pairs["left"], pa.array(numbers(rows["id"])))
            pairs = pairs.append_column("text", rows["text"].take(place))
            self.exchange.write(f"lefts_{kind}", f"{bucket:05d}", pairs, by="right")
        return Tally()

    def verified(self, bucket: int) -> Tally:
        """Compare candidate pairs exactly and keep a forest of those that are near duplicates."""
        tally = Tally()
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
            Exchange(self.exchange.path, 1).write(f"edges_{kind}", f"{bucket:05d}", kept, by="left")
        return tally

    def clusters(self, bucket: int) -> Tally:
        """Join the forests of all buckets into clusters; the first bucket's task does it for all."""
        tally = Tally()
        for kind in KINDS if bucket == 0 else ():
            found = clusters(Exchange(self.exchange.path, 1).read(f"edges_{kind}", 0, EDGES))
            tally.counts[f"near_duplicate_{kind}"] += found.num_rows
            tally.counts[f"near_duplicate_clusters_of_{kind}"] += len(found["cluster"].unique())
            Exchange(self.exchange.path, 1).write(f"clusters_{kind}", "all", found, by="number")
        return tally

    def cluster_of(self, kind: str, ids: pa.ChunkedArray) -> pa.Array:
        """Clusters of kept ids; null for a text without near duplicates."""
        found = Exchange(self.exchange.path, 1).read(f"clusters_{kind}", 0, MEMBERS).combine_chunks()
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
