"""What the generator plants, a build finds: exact duplicates, near duplicates and leaks."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline.building.shingles import jaccard, shingle
from pipeline.storage.artifact import Artifact
from scripts.tripletail.commands.synthesize import Plan, make, parser, vocabulary
from tests.support.corpora import build, inline

__all__ = ["inline"]
ROWS, THRESHOLD = 5000, 0.8


class Planted:
    """Rows with their truth, and builds of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        flags = parser().parse_args([str(folder), "--rows", str(ROWS), "--near", "0.1", "--leaks", "0.1"])
        self.rows, self.truth = make(Plan(flags), 0, ROWS, vocabulary(), "qa")
        pq.write_table(self.rows, folder / "rows.parquet")

    def build(self, anchor: str, positive: str, **more: Any) -> Artifact:
        fields = {"id": "id", "split": "split", "anchor": anchor, "positive": positive}
        source = {"type": "parquet", "files": [{"path": "rows.parquet", "kind": "qa", "fields": fields}]}
        return build({"root": str(self.folder), "sources": [source], **more}, self.folder / "run")

    def pairs(self, kind: str) -> tuple[list[int], list[int]]:
        """Planted rows of a kind and what they copy, as far as the answers of both are near duplicates."""
        found = self.truth.filter(pc.equal(self.truth["kind"], kind))
        near = np.flatnonzero(index(*(self.rows["answer"].take(found[side]) for side in ("row", "of"))) >= THRESHOLD)
        return found["row"].take(near).to_pylist(), found["of"].take(near).to_pylist()


def index(left: pa.ChunkedArray, right: pa.ChunkedArray) -> np.ndarray:
    return jaccard(shingle(left), shingle(right), np.stack([np.arange(len(left))] * 2, axis=1))


def column(texts: Iterable[str]) -> pa.ChunkedArray:
    return pa.chunked_array([list(texts)])


@pytest.fixture
def planted(inline: None, tmp_path: Path) -> Planted:
    return Planted(tmp_path)


def test_all_planted_duplicates_and_nearly_all_near_ones(planted: Planted):
    corpus = planted.build("question", "answer", near_duplicates={"threshold": THRESHOLD}).read("corpus")
    plain = [" ".join(text.lower().split()) for text in planted.rows["answer"].to_pylist()]
    assert len(planted.pairs("exact_duplicate")[0]) > 150
    assert sorted(text.lower() for text in corpus["text"].to_pylist()) == sorted(set(plain))
    cluster = dict(
        zip((text.lower() for text in corpus["text"].to_pylist()), corpus["cluster_id"].to_pylist(), strict=True)
    )
    copies = [pair for kind in ("near_duplicate", "leak_near") for pair in zip(*planted.pairs(kind), strict=True)]
    together = [cluster[plain[row]] is not None and cluster[plain[row]] == cluster[plain[of]] for row, of in copies]
    assert len(together) > 500 and np.mean(together) >= 0.95
    # members of a cluster are near duplicates of another member, not of each
    members: dict[str, list[str]] = {}
    for text, name in cluster.items():
        members.setdefault(name, []).append(text)
    members.pop(None, None)
    beside = [(text, other) for family in members.values() for text in family for other in family if text != other]
    best = dict.fromkeys((text for text, _ in beside), 0.0)
    for (text, _), score in zip(beside, index(*map(column, zip(*beside, strict=True))), strict=True):
        best[text] = max(best[text], score)
    assert len(best) > 500 and np.mean(np.array(list(best.values())) < THRESHOLD) <= 0.01


def test_all_planted_leaks_and_nearly_all_near_ones(planted: Planted):
    artifact = planted.build("answer", "question")  # long texts ask, so that what leaks nearly is what is asked
    queries, pairs = artifact.read("queries"), artifact.read("pairs")
    train = pairs.filter(pc.equal(pairs["split"], "train"))
    held = queries.filter(pc.not_equal(queries["split"], "train"))["text"].to_pylist()
    assert not {text.lower() for text in held} & {text.lower() for text in train["anchor"].to_pylist()}
    exact, near = ({f"r{row}" for row in planted.pairs(kind)[0]} for kind in ("leak_exact", "leak_near"))
    trained = set(train["anchor_id"].to_pylist())
    assert len(exact) > 200 and not exact & trained
    assert len(near) > 200 and len(near & trained) <= 0.05 * len(near)
    found = artifact.manifest.notes["leakage"]["found"]
    assert sum(found.values()) <= 1.01 * len(exact | near)
