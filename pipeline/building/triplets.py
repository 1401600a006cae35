"""Triplets that need no model: from the tree of a catalogue, from documents judged irrelevant, and from BM25.

A catalogue says which products are near. With depth 1 a product is nearer to one of its own category than to one of a
sibling category (headphones, headphones, earbuds). With depth 2 it is also nearer to one of a sibling category than to
one of another branch: headphones, earbuds, running shoes. A negative is never of the anchor's own category, and the
documents of one triplet share a split.

What is made here are candidates, with some negatives to spare: `negatives` says which of them may stay.
"""

from collections.abc import Iterator
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipeline.building.negatives import (
    IDENTITIES,
    KNOWN_POSITIVES,
    anchor_keys,
    as_candidates,
    bar,
    id_identity,
    reading,
)
from pipeline.core.config import Config
from pipeline.core.schema import TABLES
from pipeline.search.bm25 import BM25Config
from pipeline.search.bm25_index import BM25Index
from pipeline.sources.reading.splits import SplitConfig
from pipeline.storage.counts import Counts
from pipeline.text.normalize import hash64

MEMBERS = pa.schema(
    [
        ("doc_id", pa.string()),
        ("title", pa.string()),
        ("text", pa.string()),
        ("category", pa.string()),
        ("parent", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("group", pa.string()),
        ("identities", IDENTITIES),
        ("rank", pa.uint64()),  # seeded order: which products are sampled
    ]
)
BM25_DOCUMENTS = pa.schema([("doc_id", pa.string()), ("text", pa.string()), ("identities", IDENTITIES)])
PAIRS_WITH_POSITIVES = TABLES["pairs"].append(
    pa.field("positives", IDENTITIES)  # of all documents that are relevant to the anchor
)
POOL = 512  # products of each split that stand for "another branch"
SHARD_BYTES = 64 << 20
SPARE = 20  # documents that BM25 ranks beyond those needed, since some are barred
SPARE_NEGATIVES = 4  # candidates beyond those needed: positives of the anchor that are known elsewhere are barred
Product = dict[str, Any]


class LexicalConfig(BM25Config):
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
        member = {name: row[name] for name in ("title", "text", "category", "source", "group", "identities")}
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
    """Rows of `TRIPLET_CANDIDATES` from all members of some parent categories and the pool of all branches."""
    products = lowest_ranks(members, ("category", "split"), config.per_category).to_pylist()
    pool_products = lowest_ranks(pool, ("split",), POOL).to_pylist()
    families: dict[tuple[str, str], list[Product]] = {}
    for product in products:
        families.setdefault((product["parent"], product["split"]), []).append(product)
    rows: list[Product] = []
    for (parent, split), family in sorted(families.items()):
        others = [product for product in pool_products if product["split"] == split and product["parent"] != parent]
        rows.extend(_family_triplets(family, others, config, tally))
    return as_candidates(rows)


def catalogue_positives(candidates: pa.Table) -> pa.Table:
    """Rows of `KNOWN_POSITIVES` from catalogue triplets: in other triplets of an anchor a positive is no negative."""
    return pa.table([candidates["anchor_key"], candidates["barred"]], schema=KNOWN_POSITIVES)


def _family_triplets(
    family: list[Product], others: list[Product], config: TripletConfig, tally: Counts
) -> Iterator[Product]:
    """Triplets of the products under one parent category."""
    categories: dict[str, list[Product]] = {}
    for product in family:
        categories.setdefault(product["category"], []).append(product)
    for _, products in sorted(categories.items()):
        if len(products) == 1:
            tally.counts["products_alone_in_category"] += 1
        siblings = family if len(products) < len(family) else []
        for index, anchor in enumerate(products):
            mate = products[(index + 1) % len(products)] if len(products) > 1 else None
            yield from _anchor_triplets(anchor, mate, siblings, others, config, tally)


def _anchor_triplets(
    anchor: Product,
    mate: Product | None,
    family: list[Product],
    others: list[Product],
    config: TripletConfig,
    tally: Counts,
) -> Iterator[Product]:
    """Triplets of one product: with `mate`, of its own category, and with a product of a sibling category."""
    barred = _barred(anchor, mate)
    siblings = _outside_category(family, anchor, barred, config, tally)
    positive = _sibling_positive(siblings, mate, config) if config.depth == 2 and anchor["parent"] else None
    if mate is not None:
        siblings = [sibling for sibling in siblings if sibling is not positive]
        branches = _outside_category(others, anchor, barred, config, tally)
        negatives = _negatives(siblings, branches, config)
        yield from _triplet(anchor, mate, "same category", negatives, config)
    if positive is not None:
        branches = _outside_category(others, anchor, _barred(anchor, positive), config, tally)
        negatives = [_negative(product, "another branch") for product in branches]
        yield from _triplet(anchor, positive, "sibling category", negatives, config)


def _sibling_positive(siblings: list[Product], mate: Product | None, config: TripletConfig) -> Product | None:
    """The product of a sibling category that is a positive; an only one is rather the negative beside `mate`."""
    if not siblings or (mate is not None and len(siblings) == 1):
        return None
    return siblings[min(config.negatives, len(siblings)) - 1]


def _barred(*products: Product | None) -> set[str]:
    """Identities of products."""
    some = [product for product in products if product is not None]
    return {name for product in some for name in (id_identity(product["doc_id"]), *product["identities"])}


def _negatives(siblings: list[Product], branches: list[Product], config: TripletConfig) -> list[Product]:
    """Negatives to a positive of the anchor's own category, by `levels`; those to spare come last."""
    medium = [_negative(product, "sibling category") for product in siblings]
    easy = [_negative(product, "another branch") for product in branches]
    if config.levels == "both":
        half = max(config.negatives - len(easy), (config.negatives + 1) // 2)
        rest = config.negatives - min(half, len(medium))
        return [*medium[:half], *easy[:rest], *medium[half:], *easy[rest:]]
    return {"nearest": medium or easy, "medium": medium, "easy": easy}[config.levels]


def _negative(product: Product, reason: str) -> Product:
    return {name: product[name] for name in ("doc_id", "text", "identities")} | {"reason": reason}


def _outside_category(
    products: list[Product], anchor: Product, barred: set[str], config: TripletConfig, tally: Counts
) -> list[Product]:
    """Products of other categories that are not barred, from an offset that the anchor's hash decides."""
    start = hash64(config.seed, "around", anchor["doc_id"]) % max(1, len(products))
    allowed: list[Product] = []
    for step in range(len(products)):
        product = products[(start + step) % len(products)]
        if product["category"] == anchor["category"]:
            continue
        if barred.isdisjoint(product["identities"]):
            allowed.append(product)
        elif len(allowed) < config.negatives:
            bar(anchor["doc_id"], product["doc_id"], tally)
        if len(allowed) == config.negatives + SPARE_NEGATIVES:
            break
    return allowed


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
            "group_id": anchor["group"] or anchor["doc_id"],
            "relevance": 1.0,
            "reason": reason,
            "negatives": negatives,
            "identities": [negative["identities"] for negative in negatives],
            "barred": sorted(_barred(anchor, positive)),
            "max_negatives": config.negatives,
        }


def judged_triplets(pairs: pa.Table, judgments: pa.Table, config: TripletConfig) -> pa.Table:
    """Rows of `TRIPLET_CANDIDATES`: pairs of high relevance with documents judged 0 for the same query.

    `judgments` has the texts of the documents of relevance 0; which of them go with a pair is decided by a seeded hash.
    """
    irrelevant: dict[str, list[Product]] = {}
    for row in judgments.filter(pc.less_equal(judgments["relevance"], 0)).to_pylist():
        negative = {name: row[name] for name in ("doc_id", "text", "identities")} | {"reason": "judged 0"}
        irrelevant.setdefault(row["query_id"], []).append(negative)
    rows = []
    pairs = pairs.filter(pc.is_in(pairs["anchor_id"], pa.array(list(irrelevant), pa.string())))
    for pair in pairs.filter(pc.greater_equal(pairs["relevance"], config.judged_positive)).to_pylist():
        ids = (pair["anchor_id"], pair["positive_id"])
        negatives = sorted(irrelevant[pair["anchor_id"]], key=lambda n: hash64(config.seed, *ids, n["doc_id"]))
        rows.append(_with_negatives(pair, negatives, config.negatives))
    return as_candidates(rows if config.negatives else [])


def _with_negatives(pair: Product, negatives: list[Product], count: int) -> Product:
    """A row of `TRIPLET_CANDIDATES`, whose positive is a known one, with at most `count` of its negatives."""
    names = [negative["identities"] for negative in negatives]
    return {**pair, "negatives": negatives, "identities": names, "barred": [], "max_negatives": count}


def with_positives(pairs: pa.Table, known: pa.Table) -> pa.Table:
    """Pairs (`PAIRS_WITH_POSITIVES`) with the identities of all that is known to be relevant to their anchors."""
    positives: dict[int, list[str]] = {}
    for anchor, names in zip(*(known[name].to_pylist() for name in KNOWN_POSITIVES.names), strict=True):
        positives.setdefault(anchor, []).extend(names)
    lists = [positives[anchor] for anchor in anchor_keys(pairs["anchor"]).tolist()]
    return pairs.append_column(PAIRS_WITH_POSITIVES.field("positives"), pa.array(lists, IDENTITIES))


def lexical_triplets(pairs: pa.Table, documents: pa.Table, config: LexicalConfig, tally: Counts) -> pa.Table:
    """Training pairs (`PAIRS_WITH_POSITIVES`) and `BM25_DOCUMENTS` of one shard into rows of `TRIPLET_CANDIDATES`."""
    documents = documents.sort_by("doc_id")
    index, rows = BM25Index.of(documents["text"].to_pylist(), config.plain()), documents.to_pylist()
    negatives: dict[str, list[Product]] = {}
    triplets = []
    for pair in pairs.sort_by([("anchor_id", "ascending"), ("positive_id", "ascending")]).to_pylist():
        barred = {*pair.pop("positives"), reading(pair["anchor"])}
        if pair["anchor_id"] not in negatives:
            _, ranking = index.search(pair["anchor"], config.skip + config.negatives + len(barred) + SPARE)
            ranked = [rows[row] for row in ranking.tolist()]
            negatives[pair["anchor_id"]] = _ranked_negatives(pair["anchor_id"], ranked, barred, config, tally)
        if negatives[pair["anchor_id"]]:
            triplets.append(_with_negatives(pair, negatives[pair["anchor_id"]], config.negatives))
        else:
            tally.counts["pairs_without_lexical_negative"] += 1
    return as_candidates(triplets)


def _ranked_negatives(
    anchor_id: str, ranked: list[Product], barred: set[str], config: LexicalConfig, tally: Counts
) -> list[Product]:
    """Negatives from documents by falling BM25: those that are not barred, without the first `skip` of them."""
    allowed: list[Product] = []
    for document in ranked:
        if id_identity(document["doc_id"]) in barred:  # a known positive, which nobody takes for a negative
            continue
        if barred.isdisjoint([reading(document["text"]), *document["identities"]]):
            allowed.append(document)
        elif config.skip <= len(allowed) < config.skip + config.negatives:
            bar(anchor_id, document["doc_id"], tally)
    chosen = list(enumerate(allowed, 1))[config.skip : config.skip + config.negatives + SPARE_NEGATIVES]
    return [{**document, "rank": rank, "reason": "BM25, not judged right"} for rank, document in chosen]
