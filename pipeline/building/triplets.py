"""Triplets that need no model: from the tree of a catalogue, and from documents judged irrelevant.

A catalogue says which goods are near. With depth 1 a product is nearer to one of its own category than to one of a
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
from pipeline.search.bm25 import Lexical
from pipeline.sources.reading.splits import SplitConfig
from pipeline.storage.counts import Counts
from pipeline.text.normalize import hash64, key

DOCUMENTS = pa.schema([("doc_id", pa.string()), ("text", pa.string()), ("cluster", pa.string())])
PAIRS = TABLES["pairs"].append(pa.field("known", pa.list_(pa.string())))  # right documents and their clusters
SHARD_BYTES = 64 << 20
SPARE = 20  # so many more than wanted are looked at, for near duplicates of right ones among them


class LexicalConfig(Config):
    """Negatives that share words with the question."""

    negatives: int = Field(default=4, ge=1, description="most negatives of a pair")
    skip: int = Field(
        default=3, ge=0, description="pass over so many of the best: the nearer, the likelier right and never judged"
    )
    shards: int | None = Field(
        default=None, ge=1, description="pieces of the corpus, of which a question meets one; from the input's size"
    )


def lookalikes(pairs: pa.Table, documents: pa.Table, config: LexicalConfig, tally: Counts) -> pa.Table:
    """Training pairs (`PAIRS`) and `DOCUMENTS` of one shard into rows of table `triplets`.

    Left out are documents that are known to be right, near duplicates of these, and those with the question's text.
    """
    documents = documents.sort_by("doc_id")
    texts = documents["text"].to_pylist()
    if not any(any(map(str.isalnum, text)) for text in texts) or not pairs.num_rows:
        tally.counts["pairs_without_lookalike"] += pairs.num_rows
        return TABLES["triplets"].empty_table()
    index, ids, clusters = Lexical(texts), documents["doc_id"].to_pylist(), documents["cluster"].to_pylist()
    found: dict[str, list[dict[str, Any]]] = {}
    rows = []
    for pair in pairs.sort_by([("anchor_id", "ascending"), ("positive_id", "ascending")]).to_pylist():
        known = set(pair.pop("known"))
        if pair["anchor_id"] not in found:
            _, best = index.search(pair["anchor"], config.skip + config.negatives + len(known) + SPARE)
            own = key(pair["anchor"])
            others = [r for r in best.tolist() if not {ids[r], clusters[r]} & known and key(texts[r]) != own]
            chosen = list(enumerate(others, start=1))[config.skip : config.skip + config.negatives]
            found[pair["anchor_id"]] = [
                {"doc_id": ids[row], "text": texts[row], "rank": rank, "reason": "BM25, not judged right"}
                for rank, row in chosen
            ]
        if found[pair["anchor_id"]]:
            rows.append({**pair, "negatives": found[pair["anchor_id"]]})
        else:
            tally.counts["pairs_without_lookalike"] += 1
    return pa.Table.from_pylist(rows, schema=TABLES["triplets"])


POOL = 512  # products a split that stand for "another branch"
MEMBERS = pa.schema(
    [
        ("doc_id", pa.string()),
        ("title", pa.string()),
        ("text", pa.string()),
        ("category", pa.string()),
        ("parent", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("rank", pa.uint64()),  # seeded order: which products are drawn
    ]
)
Product = dict[str, Any]


class TripletConfig(Config):
    """Triplets from what the corpora say."""

    negatives: int = Field(default=4, ge=0, description="negatives of a triplet; 0 makes no triplets")
    per_category: int = Field(default=200, ge=2, description="most products of a category and split that are drawn")
    depth: int = Field(default=2, ge=1, le=2, description="2: a sibling category is also nearer than another branch")
    levels: Literal["nearest", "medium", "easy", "both"] = Field(
        default="nearest",
        description="negatives beside one of the same category: medium of sibling categories, easy of another branch, "
        "half of each, or the nearest that there are",
    )
    anchor: Literal["title", "text"] = "title"
    lexical: LexicalConfig | None = Field(
        default=None, description="also pairs with documents that share words with the question, such as {negatives: 4}"
    )
    judged: bool = Field(default=True, description="documents judged 0 are negatives of their query")
    judged_positive: int = Field(default=2, description="least relevance of a positive beside documents judged 0")
    seed: int = 0


def draw(documents: pa.Table, config: TripletConfig, splits: SplitConfig) -> tuple[pa.Table, pa.Table]:
    """Products (`MEMBERS`) of kept documents: at most `per_category` of each category and split, and a pool of `POOL`.

    Those of lowest seeded hash are drawn, so that the draw of a part holds all that the draw of the whole needs.
    """
    rows = []
    for row in documents.filter(pc.and_(documents["product"], documents["category"].is_valid())).to_pylist():
        parent = " > ".join(row["category"].split(" > ")[:-1])
        member = {name: row[name] for name in ("title", "text", "category", "source")}
        split = row["split"] or splits.assign(row["group"] or row["id"])
        rank = hash64(config.seed, row["id"])
        rows.append({"doc_id": row["id"], "parent": parent, "split": split, "rank": rank, **member})
    members = pa.Table.from_pylist(rows, schema=MEMBERS)
    return lowest(members, ("category", "split"), config.per_category), lowest(members, ("split",), POOL)


def lowest(members: pa.Table, by: tuple[str, ...], count: int) -> pa.Table:
    """Members of lowest rank, at most `count` of each combination of columns, in the order of their ranks."""
    members = members.sort_by([("rank", "ascending"), ("doc_id", "ascending")])
    seen: dict[tuple[str, ...], int] = {}
    stays = []
    for place in zip(*(members[name].to_pylist() for name in by), strict=True):
        seen[place] = seen.get(place, 0) + 1
        stays.append(seen[place] <= count)
    return members.filter(pa.array(stays, pa.bool_()))


def catalogue(members: pa.Table, pool: pa.Table, config: TripletConfig, tally: Counts) -> pa.Table:
    """Rows of table `triplets` from all members of some parent categories and the pool of all branches."""
    everyone = lowest(members, ("category", "split"), config.per_category).to_pylist()
    elsewhere = lowest(pool, ("split",), POOL).to_pylist()
    families: dict[tuple[str, str], list[Product]] = {}
    for member in everyone:
        families.setdefault((member["parent"], member["split"]), []).append(member)
    rows: list[Product] = []
    for (parent, split), family in sorted(families.items()):
        others = [member for member in elsewhere if member["split"] == split and member["parent"] != parent]
        rows.extend(_of_family(family, others, config, tally))
    return pa.Table.from_pylist(sorted(rows, key=lambda row: (row["anchor_id"], row["reason"])), TABLES["triplets"])


def _of_family(family: list[Product], others: list[Product], config: TripletConfig, tally: Counts) -> Iterator[Product]:
    """Triplets of the products under one parent."""
    leaves: dict[str, list[Product]] = {}
    for member in family:
        leaves.setdefault(member["category"], []).append(member)
    for leaf, mates in sorted(leaves.items()):
        has_siblings = len(mates) < len(family)
        if len(mates) == 1:
            tally.counts["products_alone_in_category"] += 1
        for place, anchor in enumerate(mates):
            siblings = _around(family, anchor, leaf, config) if has_siblings else []
            branches = _around(others, anchor, leaf, config)
            if len(mates) > 1:
                away = _away(siblings, branches, config)
                yield from _triplet(anchor, mates[(place + 1) % len(mates)], "same category", away, config)
            if config.depth == 2 and siblings and anchor["parent"]:
                away = _named(branches, "another branch")
                yield from _triplet(anchor, siblings[-1], "sibling category", away, config)


def _away(siblings: list[Product], branches: list[Product], config: TripletConfig) -> list[Product]:
    """Negatives of a product beside one of its own category, by `levels`."""
    medium, easy = _named(siblings, "sibling category"), _named(branches, "another branch")
    if config.levels == "both":
        half = max(config.negatives - len(easy), (config.negatives + 1) // 2)
        return [*medium[:half], *easy[: config.negatives - min(half, len(medium))]]
    return {"nearest": medium or easy, "medium": medium, "easy": easy}[config.levels]


def _named(products: list[Product], reason: str) -> list[Product]:
    return [{"doc_id": one["doc_id"], "text": one["text"], "reason": reason} for one in products]


def _around(products: list[Product], anchor: Product, leaf: str, config: TripletConfig) -> list[Product]:
    """Draw up to `negatives` products outside a category, from a place that the anchor's hash decides."""
    start = hash64(config.seed, "around", anchor["doc_id"]) % max(1, len(products))
    turned = (products[(start + step) % len(products)] for step in range(len(products)))
    return list(islice((product for product in turned if product["category"] != leaf), config.negatives))


def _triplet(
    anchor: Product, positive: Product, near: str, negatives: list[Product], config: TripletConfig
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
            "reason": near,
            "negatives": negatives,
        }


def judged_triplets(pairs: pa.Table, judgments: pa.Table, config: TripletConfig) -> pa.Table:
    """Rows of table `triplets`: pairs of high relevance with documents judged 0 for the same query.

    `judgments` has the kept judgments with the texts of those of relevance 0; which of them go with a pair is decided
    by a seeded hash.
    """
    rejected: dict[str, list[Product]] = {}
    for row in judgments.filter(pc.less_equal(judgments["relevance"], 0)).to_pylist():
        rejected.setdefault(row["query_id"], []).append({"doc_id": row["doc_id"], "text": row["text"]})
    rows = []
    pairs = pairs.filter(pc.is_in(pairs["anchor_id"], pa.array(list(rejected), pa.string())))
    for pair in pairs.filter(pc.greater_equal(pairs["relevance"], config.judged_positive)).to_pylist():
        negatives = rejected.get(pair["anchor_id"], [])
        drawn = sorted(
            negatives, key=lambda n: hash64(config.seed, pair["anchor_id"], pair["positive_id"], n["doc_id"])
        )
        if drawn and config.negatives:
            rows.append({**pair, "negatives": [{**n, "reason": "judged 0"} for n in drawn[: config.negatives]]})
    return pa.Table.from_pylist(rows, schema=TABLES["triplets"])
