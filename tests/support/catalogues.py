"""Random catalogues with judgments, and the rule that no negative of theirs may break."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from pipeline.storage.artifact import Artifact
from tests.support.corpora import Recipe, table, write_jsonl

TRAIN = {"train": 1, "dev": 0, "test": 0}
WORDS = ["red mug", "Red Mug", "blue cup", "tea pot", "steel filter coffee pot", "green lamp"]
CATEGORIES = ["home > cups > mugs", "home > cups > glasses", "home > pots", "garden > lamps", "toys"]
Row = dict[str, Any]


class KnownDocuments:
    """What a build knows to be right for each anchor, and which documents are the same as that."""

    def __init__(self, artifact: Artifact) -> None:
        self.corpus = {row["doc_id"]: row for row in table(artifact, "corpus")}
        self.known = defaultdict[str, set[str]](set)
        queries = {row["query_id"]: row["text"].casefold() for row in table(artifact, "queries")}
        for row in [*table(artifact, "pairs"), *table(artifact, "triplets")]:
            self.known[row["anchor"].casefold()].add(row["positive_id"])
        for row in table(artifact, "qrels"):
            if row["relevance"] > 0:
                self.known[queries[row["query_id"]]].add(row["doc_id"])

    def right(self, anchor: str, anchor_id: str) -> dict[str, Row]:
        """Documents that are right for an anchor, itself included, where it is a document."""
        return {name: self.corpus[name] for name in {anchor_id, *self.known[anchor.casefold()]} & set(self.corpus)}

    def is_same(self, anchor: str, document: Row, right: Iterable[Row]) -> bool:
        """Whether a document is one of those that are right, or the same product, text or title."""
        if anchor.casefold() in (document["text"].casefold(), document["title"].casefold()):
            return True
        return any(
            document["doc_id"] == other["doc_id"]
            or (document["group_id"] is not None and document["group_id"] == other["group_id"])
            or (document["cluster_id"] is not None and document["cluster_id"] == other["cluster_id"])
            or document["title"].casefold() == other["title"].casefold()
            for other in right
        )


def check(artifact: Artifact) -> None:
    """No negative shares an identity with its anchor, its positive or another known positive of the anchor's text."""
    documents = KnownDocuments(artifact)
    for row in table(artifact, "triplets"):
        right = documents.right(row["anchor"], row["anchor_id"])
        assert row["positive_id"] in right and row["negatives"]
        for negative in row["negatives"]:
            assert not documents.is_same(row["anchor"], documents.corpus[negative["doc_id"]], right.values())


products = st.fixed_dictionaries(
    {
        "title": st.sampled_from(WORDS),
        "description": st.sampled_from(["a", "made of clay", "made of glass", "old and heavy"]),
        "category": st.sampled_from(CATEGORIES),
        "group": st.sampled_from([None, "g1", "g2", "g3"]),
        "tags": st.lists(st.sampled_from(["t1", "t2", "t3"]), max_size=3),
    }
)
catalogues = st.lists(products, min_size=6, max_size=24)
judgments = st.lists(
    st.tuples(st.sampled_from([*WORDS, "old pot", "glass"]), st.integers(0, 23), st.integers(0, 2)), max_size=25
)
given_rows = st.lists(
    st.tuples(st.sampled_from([*WORDS, "old pot"]), st.lists(st.integers(0, 23), min_size=2, max_size=5)), max_size=8
)
similar = st.lists(st.sampled_from(["group", "tags", "category", "parent"]), unique=True)


def catalogue_recipe(
    path: Path, rows: list[Row], judged: list[tuple[str, int, int]], stated: list[tuple[str, list[int]]], **more: Any
) -> Recipe:
    """Recipe of products, grades of some of them, and rows that state a positive and negatives by their texts."""
    write_jsonl(path / "p.jsonl", [{"id": f"p{n}", **row} for n, row in enumerate(rows)])
    grades = [{"query": q, "doc_id": f"p{n}", "relevance": grade} for q, n, grade in judged if n < len(rows)]
    write_jsonl(path / "j.jsonl", grades)
    texts = [f"{row['title']}. {row['description']}" for row in rows]
    chosen = [(query, [texts[n] for n in numbers if n < len(rows)]) for query, numbers in stated]
    triplets = [{"anchor": q, "positive": some[0], "negative": some[1:]} for q, some in chosen if len(some) > 1]
    write_jsonl(path / "t.jsonl", triplets)
    sources = [{"type": "jsonl", "name": "p", "path": "p.jsonl", "kind": "product", "fields": {"group": "group"}}]
    sources += [{"type": "jsonl", "name": "j", "path": "j.jsonl", "kind": "rated"}] if grades else []
    sources += [{"type": "jsonl", "name": "t", "path": "t.jsonl", "kind": "pair"}] if triplets else []
    return {"root": str(path), "sources": sources, "split": TRAIN, **more}
