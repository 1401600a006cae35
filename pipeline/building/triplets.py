"""Lexical negatives: documents that share words with a question and are not known to answer it.

Okapi BM25 finds what looks right (Karpukhin et al. 2020, DPR, arXiv 2004.04906: one such negative beside those of the
batch). The corpus is cut into shards by hash, a question meets one of them: memory and time follow the shard.
"""

from typing import Any

import pyarrow as pa
from pydantic import Field

from pipeline.config import Config
from pipeline.lexical import Lexical
from pipeline.schema import TABLES
from pipeline.tally import Tally
from pipeline.text import key

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


def lookalikes(pairs: pa.Table, documents: pa.Table, config: LexicalConfig, tally: Tally) -> pa.Table:
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
