"""From candidates to clusters of near duplicates: pairs out of bands, and connected components of what was verified."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.minhash import NearConfig, alike
from pipeline.shingles import Hashes, mix

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
