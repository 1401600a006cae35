"""A source whose judgments match no query or no document at all is refused, with both spellings side by side."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pipeline.core.errors import UserError
from pipeline.sources.reading.record import ORDER_BITS, SCHEMAS
from pipeline.storage.counts import Counts
from pipeline.storage.shuffle import Shuffle

_SIDES = {"query": ("queries", "query_id"), "document": ("documents", "doc_id")}


def count_matches(judgments: pa.Table, matched: np.ndarray, noun: str, tally: Counts) -> None:
    """Count the judgments [N] of each source and those that are matched."""
    sources, row = np.unique(judgments["order"].to_numpy() >> ORDER_BITS, return_inverse=True)
    total, hits = np.bincount(row, minlength=len(sources)), np.bincount(row[matched], minlength=len(sources))
    for source, count, hit in zip(sources.tolist(), total.tolist(), hits.tolist(), strict=True):
        tally.counts[f"joins {noun} {source} judgments"] += count
        tally.counts[f"joins {noun} {source} matched"] += hit


def check_matches(labels: Sequence[str], shuffle: Shuffle, counts: Counter[str]) -> None:
    """Refuse a source of which no judgment finds its query or its document; raises UserError."""
    for noun, (kind, column) in _SIDES.items():
        for index, label in enumerate(labels):
            judgments = counts[f"joins {noun} {index} judgments"]
            if not judgments or counts[f"joins {noun} {index} matched"]:
                continue
            named, existing = _spellings(shuffle, index, kind, column)
            raise UserError(
                f"source {label}: none of its {judgments:,} judgments finds a {noun}: it names '{named}', "
                f"the {kind} are named as '{existing}'; write ids alike (pandas makes 1 to 1.0), or see `prefix`"
            )


def _spellings(shuffle: Shuffle, source: int, kind: str, column: str) -> tuple[str, str]:
    """An id that the judgments of a source name, and the existing id that is most like it."""
    names, ids = [], []
    for bucket in range(shuffle.buckets):
        rows = shuffle.read("judgments", bucket, SCHEMAS["judgments"])
        mine = rows["order"].to_numpy() >> ORDER_BITS == source
        names += rows[column].filter(pa.array(mine)).to_pylist()
        ids += shuffle.read(kind, bucket, pa.schema([SCHEMAS[kind].field("id")]))["id"].to_pylist()
    plain = {_plain(name): name for name in sorted(ids, reverse=True)}
    alike = [(name, plain[_plain(name)]) for name in sorted(names) if _plain(name) in plain]
    return alike[0] if alike else (min(names), min(ids, default="nothing: there is none"))


def _plain(name: str) -> str:
    return name.strip().casefold().removesuffix(".0").lstrip("0")
