"""Pairs of related products: offers of one product, products that share tags, a category or its parent.

Products come together by key, a key gives at most `per_key` of them a split, and each is paired with the next ones in
a seeded ring: a popular key does not explode. Both products of a pair are in one split.
"""

from itertools import groupby
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipeline.building.negatives import IDENTITIES, KNOWN_POSITIVES, anchor_key, id_identity
from pipeline.core.config import Config
from pipeline.core.schema import TABLES
from pipeline.sources.reading.splits import SplitConfig
from pipeline.storage.counts import Counts
from pipeline.text.normalize import hash64

By = Literal["group", "tags", "category", "parent"]
PRODUCTS_BY_KEY = pa.schema(
    [
        ("key", pa.string()),
        ("by", pa.string()),
        ("split", pa.string()),
        ("rank", pa.uint64()),  # seeded order: which products are sampled, and which are neighbours in the ring
        ("doc_id", pa.string()),
        ("title", pa.string()),
        ("text", pa.string()),
        ("tags", pa.list_(pa.string())),
        ("group", pa.string()),
        ("source", pa.string()),
        ("identities", IDENTITIES),
    ]
)
SIMILAR_PAIRS = pa.schema(
    [
        *TABLES["pairs"],
        ("anchor_keys", pa.list_(pa.uint64())),  # of title and text of each product
        ("positive_keys", pa.list_(pa.uint64())),
        ("anchor_identities", IDENTITIES),
        ("positive_identities", IDENTITIES),
    ]
)
Product = dict[str, Any]


class SimilarConfig(Config):
    """Pairs of related products."""

    by: list[By] = Field(
        default=[], description="group: offers of one product; tags; category; parent: sibling categories too"
    )
    per_product: int = Field(default=2, ge=1, description="most partners of a product for each of `by`")
    per_key: int = Field(default=200, ge=2, description="most products of a key and split that are sampled")
    min_tags: int = Field(default=2, ge=1, description="tags that two products must share")
    anchor: Literal["title", "text"] = "title"
    weights: dict[By, float] = Field(default={}, description="weight of such a pair in training; 1 by default")
    seed: int = 0


def products_by_key(documents: pa.Table, config: SimilarConfig, splits: SplitConfig) -> pa.Table:
    """Products (`PRODUCTS_BY_KEY`) of canonical documents, a row for each key; at most `per_key` of a key and split."""
    rows = []
    for row in documents.filter(pc.fill_null(documents["product"], False)).to_pylist():
        split = row["split"] or splits.assign(row["group"] or row["id"])
        common = {name: row[name] for name in ("title", "text", "tags", "group", "source", "identities")}
        for by, value in _values(row, config):
            rank = hash64(config.seed, by, value, row["id"])
            product = {"key": f"{by} {value}", "by": by, "split": split, "rank": rank, "doc_id": row["id"]}
            rows.append(product | common)
    return sample(pa.Table.from_pylist(rows, schema=PRODUCTS_BY_KEY), config)


def _values(row: Product, config: SimilarConfig) -> list[tuple[str, str]]:
    """Kinds and values of the keys of one product."""
    category = row["category"] or ""
    values: dict[str, list[str]] = {
        "group": [row["product_group"] or ""],
        "tags": sorted(set(row["tags"] or ())),
        "category": [category],
        "parent": [category.rpartition(" > ")[0]],
    }
    return [(by, value) for by in config.by for value in values[by] if value]


def sample(rows: pa.Table, config: SimilarConfig) -> pa.Table:
    """Rows of lowest rank, at most `per_key` of each key and split; samples of parts hold the sample of the whole."""
    order = [(name, "ascending") for name in ("key", "split", "rank", "doc_id")]
    rows = rows.sort_by(order)
    keys = zip(rows["key"].to_pylist(), rows["split"].to_pylist(), strict=True)
    stays = [index < config.per_key for _, run in groupby(keys) for index, _ in enumerate(run)]
    return rows.filter(pa.array(stays, pa.bool_()))


def pair_products(rows: pa.Table, config: SimilarConfig, tally: Counts) -> pa.Table:
    """All products of some keys into `SIMILAR_PAIRS`: each with the next ones of its key and split."""
    pairs = []
    products = sample(rows, config).to_pylist()
    for (key, _), run in groupby(products, key=lambda product: (product["key"], product["split"])):
        ring = list(run)
        tally.counts["products_alone_in_key"] += len(ring) == 1
        for index, anchor in enumerate(ring):
            for step in range(1, min(config.per_product, len(ring) - 1) + 1):
                positive = ring[(index + step) % len(ring)]
                if (reason := _reason(key, anchor, positive, config)) is not None:
                    pairs.append(_pair(anchor, positive, reason, config))
    return pa.Table.from_pylist(pairs, schema=SIMILAR_PAIRS)


def _reason(key: str, anchor: Product, positive: Product, config: SimilarConfig) -> str | None:
    """Why two products are related; None where they share too few tags."""
    if anchor["by"] != "tags":
        return {"group": "same product", "category": "same category", "parent": "same parent category"}[anchor["by"]]
    shared = sorted(set(anchor["tags"]) & set(positive["tags"]))
    return f"shared tags: {', '.join(shared)}" if len(shared) >= config.min_tags else None


def _pair(anchor: Product, positive: Product, reason: str, config: SimilarConfig) -> Product:
    titled = config.anchor == "title" and bool(anchor["title"])
    return {
        "anchor_id": f"t-{anchor['doc_id']}" if titled else anchor["doc_id"],
        "anchor": anchor["title"] if titled else anchor["text"],
        "positive_id": positive["doc_id"],
        "positive": positive["text"],
        "source": anchor["source"],
        "split": anchor["split"],
        "group_id": anchor["group"] or anchor["doc_id"],
        "relevance": 1.0,
        "weight": config.weights.get(anchor["by"]),
        "reason": reason,
        "anchor_keys": _keys(anchor),
        "positive_keys": _keys(positive),
        "anchor_identities": [id_identity(anchor["doc_id"]), *anchor["identities"]],
        "positive_identities": [id_identity(positive["doc_id"]), *positive["identities"]],
    }


def _keys(product: Product) -> list[int]:
    """Keys of the texts under which a product may be an anchor."""
    return [anchor_key(text) for text in (product["title"], product["text"]) if text]


def unique_pairs(pairs: pa.Table, config: SimilarConfig) -> pa.Table:
    """One row for each pair, by the first of `by` that has it; at most `per_product` of an anchor for each of `by`."""
    kinds = {"same product": "group", "same category": "category", "same parent category": "parent"}
    best: dict[tuple[str, str], tuple[int, str, Product]] = {}
    for row in pairs.to_pylist():
        kind: Any = kinds.get(row["reason"], "tags")
        pair, candidate = (row["anchor_id"], row["positive_id"]), (config.by.index(kind), kind, row)
        if pair not in best or candidate[0] < best[pair][0]:
            best[pair] = candidate
    ranked = sorted(
        best.values(),
        key=lambda item: (
            item[2]["anchor_id"],
            item[0],
            hash64(config.seed, item[2]["anchor_id"], item[2]["positive_id"]),
        ),
    )
    runs = groupby(ranked, key=lambda item: (item[2]["anchor_id"], item[0]))
    rows = [row for _, run in runs for index, (_, _, row) in enumerate(run) if index < config.per_product]
    return pa.Table.from_pylist(rows, schema=SIMILAR_PAIRS)


def related_products(pairs: pa.Table) -> pa.Table:
    """Rows of `KNOWN_POSITIVES` from `SIMILAR_PAIRS`: each product is a positive of the other one."""
    sides = [("anchor_keys", "positive_identities"), ("positive_keys", "anchor_identities")]
    parts = [KNOWN_POSITIVES.empty_table()]
    for side, other in sides:
        row = pc.list_parent_indices(pairs[side])
        parts.append(pa.table([pc.list_flatten(pairs[side]), pairs[other].take(row)], schema=KNOWN_POSITIVES))
    return pa.concat_tables(parts)
