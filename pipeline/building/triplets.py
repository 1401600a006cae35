"""Triplets that need no model: from the tree of a catalogue, from documents judged irrelevant, and from BM25.

A catalogue says which products are near. With depth 1 a product is nearer to one of its own category than to one of a
sibling category (headphones, headphones, earbuds). With depth 2 it is also nearer to one of a sibling category than to
one of another branch: headphones, earbuds, running shoes. A negative is never of the anchor's own category, and the
documents of one triplet share a split.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipeline.core.config import Config
from pipeline.core.schema import TABLES
from pipeline.search.bm25 import BM25Index
from pipeline.sources.reading.splits import SplitConfig
from pipeline.storage.counts import Counts
from pipeline.text.normalize import hash64, key

MEMBERS = pa.schema(
    [
        ("doc_id", pa.string()),
        ("title", pa.string()),
        ("text", pa.string()),
        ("category", pa.string()),
        ("parent", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("rank", pa.uint64()),  # seeded order: which products are sampled
    ]
)
BM25_DOCUMENTS = pa.schema([("doc_id", pa.string()), ("text", pa.string()), ("cluster", pa.string())])
PAIRS_WITH_POSITIVES = TABLES["pairs"].append(
    pa.field("positives", pa.list_(pa.string()))  # all documents that are relevant to the anchor, and their clusters
)
POOL = 512  # products of each split that stand for "another branch"
SHARD_BYTES = 64 << 20
SPARE = 20  # documents that BM25 ranks beyond those needed, since near duplicates of positives are left out
Product = dict[str, Any]


class LexicalConfig(Config):
    """Negatives that BM25 ranks high."""

    negatives: int = Field(default=4, ge=1, description="most negatives of a pair")
    skip: int = Field(
        default=3, ge=0, description="highest ranks to leave out: they may be relevant without being judged"
    )
    shards: int | None = Field(
        default=None,
        ge=1,
        description="parts of the corpus, of which a question is searched in one; by default by size",
    )


class TripletConfig(Config):
    """Triplets from catalogues, judgments and BM25."""

    negatives: int = Field(default=4, ge=0, description="negatives of a triplet; 0 makes no triplets")
    per_category: int = Field(default=200, ge=2, description="most products of a category and split that are sampled")
    depth: int = Field(default=2, ge=1, le=2, description="2: a sibling category is also nearer than another branch")
    levels: Literal["nearest", "medium", "easy", "both"] = Field(
        default="nearest",
        description="negatives to a positive of the same category: medium of sibling categories, easy of another "
        "branch, half of each, or the nearest that there are",
    )
    anchor: Literal["title", "text"] = "title"
    lexical: LexicalConfig | None = Field(
        default=None, description="also pairs with negatives that BM25 ranks high, such as {negatives: 4}"
    )
    judged: bool = Field(default=True, description="documents judged 0 are negatives of their query")
    judged_positive: int = Field(default=2, description="lowest relevance of a positive with negatives judged 0")
    seed: int = 0


def sample_products(documents: pa.Table, config: TripletConfig, splits: SplitConfig) -> tuple[pa.Table, pa.Table]:
    """Products (`MEMBERS`) of canonical documents: `per_category` of each category and split, and a pool of `POOL`.

    Those of lowest seeded hash are sampled, so that the samples of parts hold the sample of the whole.
    """
    rows = []
    for row in documents.filter(pc.and_(documents["product"], documents["category"].is_valid())).to_pylist():
        parent = " > ".join(row["category"].split(" > ")[:-1])
        member = {name: row[name] for name in ("title", "text", "category", "source")}
        split = row["split"] or splits.assign(row["group"] or row["id"])
        rank = hash64(config.seed, row["id"])
        rows.append({"doc_id": row["id"], "parent": parent, "split": split, "rank": rank, **member})
    members = pa.Table.from_pylist(rows, schema=MEMBERS)
    return lowest_ranks(members, ("category", "split"), config.per_category), lowest_ranks(members, ("split",), POOL)


def lowest_ranks(members: pa.Table, by: tuple[str, ...], count: int) -> pa.Table:
    """Members of lowest rank, at most `count` of each combination of columns, in the order of their ranks."""
    members = members.sort_by([("rank", "ascending"), ("doc_id", "ascending")])
    seen: dict[tuple[str, ...], int] = {}
    stays = []
    for values in zip(*(members[name].to_pylist() for name in by), strict=True):
        seen[values] = seen.get(values, 0) + 1
        stays.append(seen[values] <= count)
    return members.filter(pa.array(stays, pa.bool_()))


def catalogue_triplets(members: pa.Table, pool: pa.Table, config: TripletConfig, tally: Counts) -> pa.Table:
    """Rows of table `triplets` from all members of some parent categories and the pool of all branches."""
    products = lowest_ranks(members, ("category", "split"), config.per_category).to_pylist()
    pool_products = lowest_ranks(pool, ("split",), POOL).to_pylist()
    families: dict[tuple[str, str], list[Product]] = {}
    for product in products:
        families.setdefault((product["parent"], product["split"]), []).append(product)
    rows: list[Product] = []
    for (parent, split), family in sorted(families.items()):
        others = [product for product in pool_products if product["split"] == split and product["parent"] != parent]
        rows.extend(_family_triplets(family, others, config, tally))
    return pa.Table.from_pylist(sorted(rows, key=lambda row: (row["anchor_id"], row["reason"])), TABLES["triplets"])


def _family_triplets(
    family: list[Product], others: list[Product], config: TripletConfig, tally: Counts
) -> Iterator[Product]:
    """Triplets of the products under one parent category."""
    categories: dict[str, list[Product]] = {}
    for product in family:
        categories.setdefault(product["category"], []).append(product)
    for category, products in sorted(categories.items()):
        has_siblings = len(products) < len(family)
        if len(products) == 1:
            tally.counts["products_alone_in_category"] += 1
        for index, anchor in enumerate(products):
            siblings = _outside_category(family, anchor, category, config) if has_siblings else []
            branches = _outside_category(others, anchor, category, config)
            if len(products) > 1:
                positive = products[(index + 1) % len(products)]
                negatives = _negatives(siblings, branches, config)
                yield from _triplet(anchor, positive, "same category", negatives, config)
            if config.depth == 2 and siblings and anchor["parent"]:
                negatives = _with_reason(branches, "another branch")
                yield from _triplet(anchor, siblings[-1], "sibling category", negatives, config)


def _negatives(siblings: list[Product], branches: list[Product], config: TripletConfig) -> list[Product]:
    """Negatives to a positive of the anchor's own category, by `levels`."""
    medium, easy = _with_reason(siblings, "sibling category"), _with_reason(branches, "another branch")
    if config.levels == "both":
        half = max(config.negatives - len(easy), (config.negatives + 1) // 2)
        return [*medium[:half], *easy[: config.negatives - min(half, len(medium))]]
    return {"nearest": medium or easy, "medium": medium, "easy": easy}[config.levels]


def _with_reason(products: list[Product], reason: str) -> list[Product]:
    return [{"doc_id": product["doc_id"], "text": product["text"], "reason": reason} for product in products]


def _outside_category(products: list[Product], anchor: Product, category: str, config: TripletConfig) -> list[Product]:
    """Up to `negatives` products of other categories, from an offset that the anchor's hash decides."""
    start = hash64(config.seed, "around", anchor["doc_id"]) % max(1, len(products))
    rotated = (products[(start + step) % len(products)] for step in range(len(products)))
    return list(islice((product for product in rotated if product["category"] != category), config.negatives))


def _triplet(
    anchor: Product, positive: Product, reason: str, negatives: list[Product], config: TripletConfig
) -> Iterator[Product]:
    if negatives:
        yield {
            "anchor_id": anchor["doc_id"],
            "anchor": (anchor["title"] if config.anchor == "title" else "") or anchor["text"],
            "positive_id": positive["doc_id"],
            "positive": positive["text"],
            "source": anchor["source"],
            "split": anchor["split"],
            "group_id": anchor["doc_id"],
            "relevance": 1.0,
            "reason": reason,
            "negatives": negatives,
        }


def judged_triplets(pairs: pa.Table, judgments: pa.Table, config: TripletConfig) -> pa.Table:
    """Rows of table `triplets`: pairs of high relevance with documents judged 0 for the same query.

    `judgments` has the texts of the documents of relevance 0; which of them go with a pair is decided by a seeded hash.
    """
    irrelevant: dict[str, list[Product]] = {}
    for row in judgments.filter(pc.less_equal(judgments["relevance"], 0)).to_pylist():
        irrelevant.setdefault(row["query_id"], []).append({"doc_id": row["doc_id"], "text": row["text"]})
    rows = []
    pairs = pairs.filter(pc.is_in(pairs["anchor_id"], pa.array(list(irrelevant), pa.string())))
    for pair in pairs.filter(pc.greater_equal(pairs["relevance"], config.judged_positive)).to_pylist():
        ids = (pair["anchor_id"], pair["positive_id"])
        negatives = sorted(irrelevant[pair["anchor_id"]], key=lambda n: hash64(config.seed, *ids, n["doc_id"]))
        if config.negatives:
            negatives = [{**negative, "reason": "judged 0"} for negative in negatives[: config.negatives]]
            rows.append({**pair, "negatives": negatives})
    return pa.Table.from_pylist(rows, schema=TABLES["triplets"])


def lexical_triplets(pairs: pa.Table, documents: pa.Table, config: LexicalConfig, tally: Counts) -> pa.Table:
    """Training pairs (`PAIRS_WITH_POSITIVES`) and `BM25_DOCUMENTS` of one shard into rows of table `triplets`.

    Left out are known positives of the anchor, near duplicates of these, and documents with the anchor's own text.
    """
    documents = documents.sort_by("doc_id")
    texts = documents["text"].to_pylist()
    if not any(any(map(str.isalnum, text)) for text in texts) or not pairs.num_rows:
        tally.counts["pairs_without_lexical_negative"] += pairs.num_rows
        return TABLES["triplets"].empty_table()
    index, ids, clusters = BM25Index(texts), documents["doc_id"].to_pylist(), documents["cluster"].to_pylist()
    negatives: dict[str, list[dict[str, Any]]] = {}
    rows = []
    for pair in pairs.sort_by([("anchor_id", "ascending"), ("positive_id", "ascending")]).to_pylist():
        positives = set(pair.pop("positives"))
        if pair["anchor_id"] not in negatives:
            _, ranking = index.search(pair["anchor"], config.skip + config.negatives + len(positives) + SPARE)
            anchor_key = key(pair["anchor"])
            allowed = [
                row
                for row in ranking.tolist()
                if not {ids[row], clusters[row]} & positives and key(texts[row]) != anchor_key
            ]
            negatives[pair["anchor_id"]] = [
                {"doc_id": ids[row], "text": texts[row], "rank": rank, "reason": "BM25, not judged right"}
                for rank, row in list(enumerate(allowed, start=1))[config.skip : config.skip + config.negatives]
            ]
        if negatives[pair["anchor_id"]]:
            rows.append({**pair, "negatives": negatives[pair["anchor_id"]]})
        else:
            tally.counts["pairs_without_lexical_negative"] += 1
    return pa.Table.from_pylist(rows, schema=TABLES["triplets"])
