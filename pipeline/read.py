"""The first step of a build: a block of a source into clean, keyed records, staged by kind."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

from pipeline.cleaning import CleanConfig
from pipeline.exchange import Exchange
from pipeline.sources.amazon import Amazon
from pipeline.sources.beir import Beir
from pipeline.sources.csv import Csv
from pipeline.sources.debian import Debian
from pipeline.sources.ditto import Ditto
from pipeline.sources.esci import Esci
from pipeline.sources.huggingface import HuggingFace
from pipeline.sources.jsonl import JsonLines
from pipeline.sources.msmarco import MsMarco
from pipeline.sources.parquet import Parquet
from pipeline.sources.record import SCHEMAS, Block, Parsed, SourceConfig
from pipeline.sources.shopify import Shopify
from pipeline.sources.squad import Squad
from pipeline.sources.stackexchange import StackExchange
from pipeline.sources.wands import Wands
from pipeline.tally import Tally
from pipeline.text import key, normalise, shorten

Source = Annotated[
    StackExchange
    | JsonLines
    | Csv
    | Parquet
    | Beir
    | HuggingFace
    | Squad
    | MsMarco
    | Wands
    | Esci
    | Amazon
    | Shopify
    | Debian
    | Ditto,
    Field(discriminator="type"),
]
BUCKETED_BY = {"documents": "id", "queries": "id", "judgments": "query_id", "labelled": "left"}
_TEXTS = {"documents": ("text",), "queries": ("text",), "labelled": ("left", "right"), "judgments": ()}
_ASIDE = ("title", "body")
Record = dict[str, Any]


@dataclass(frozen=True)
class Limits:
    """Characters that a text needs, and to which it is cut; and what else is cleaned."""

    least: int
    most: int
    rules: CleanConfig = field(default_factory=CleanConfig)


def stage(source: SourceConfig, block: Block, limits: Limits, exchange: Exchange, part: str) -> Tally:
    """Read one block, clean its records and stage them; chunk by chunk, so that memory does not grow with the block."""
    total = Tally()
    for number, parsed in enumerate(source.parse(block)):
        for kind, records in parsed.kinds.items():
            table = clean(kind, records, limits, parsed)
            exchange.write(kind, f"{part}-{number:05d}", table, by=BUCKETED_BY[kind])
            parsed.tally.counts[kind] += table.num_rows
        total.add(parsed.tally)
    return total


def clean(kind: str, records: Iterable[Record], limits: Limits, parsed: Parsed) -> pa.Table:
    """Table (`SCHEMAS[kind]`) of the records with usable texts, in normal form and with the key of their text."""
    kept = [record for record in records if _clean(kind, record, limits, parsed.tally)]
    kept = limits.rules.apply(kept, _TEXTS[kind], parsed.tally)
    for record in kept:
        if "text" in record:
            record["key"] = key(record["text"])
    return pa.Table.from_pylist(kept, schema=SCHEMAS[kind])


def _clean(kind: str, record: Record, limits: Limits, tally: Tally) -> bool:
    """Clean a record in place; False, counted, when a text of it is empty or too short."""
    for name in _ASIDE:
        if record.get(name):
            record[name] = shorten(limits.rules.strip(normalise(record[name]), tally), limits.most)
    for name in _TEXTS[kind]:
        text = limits.rules.strip(normalise(record[name]), tally)
        if len(text) < limits.least:
            reason = "too_short" if text else "empty_text"
            tally.offend(record["line"], reason, f"{kind}: {record.get('id', name)} has {len(text)} characters")
            return False
        record[name] = shorten(text, limits.most)
        tally.counts["shortened"] += len(text) > limits.most
    return True
