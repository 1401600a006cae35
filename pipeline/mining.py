"""The actors of the mining job: encode shards for the search; search a block of pairs and choose negatives."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema, shards
from pipeline.candidates import (
    NONE,
    Block,
    Exclude,
    Found,
    as_matrix,
    find,
    id_keys,
    known_positives,
    siblings,
    text_keys,
)
from pipeline.embed.columns import not_blank, vectors_table
from pipeline.encoder import Encoder, EncoderConfig, Role
from pipeline.errors import UserError
from pipeline.files import filesystem, join, read_parquet
from pipeline.miners import Rule, negatives
from pipeline.pool import Worker, limit_threads
from pipeline.search import unit
from pipeline.shards import Shard
from pipeline.tuples import tuples

FOLDERS = {"document": "corpus", "query": "anchors"}


@dataclass(frozen=True)
class Places:
    """Where the job reads and writes."""

    out: str
    pairs: list[str]
    qrels: list[str]
    corpus: list[str]
    vectors: list[str]  # of the corpus, in the order of its rows
    reused: str | None  # folder of candidates that are used again

    def folder(self, role: str) -> str:
        """Folder of the vectors of a role."""
        return join(self.out, ".vectors", FOLDERS[role])

    def encoded(self, role: str, name: str) -> dict[str, Any] | None:
        """Counts of an encoded shard; None when it is not there."""
        return shards.committed(self.folder(role), name)

    def mined(self, name: str) -> dict[str, Any] | None:
        """Counts of a mined shard; None when it is not there. Triplets are written last."""
        return shards.committed(join(self.out, "triplets"), name)


class EncodeForSearch(Worker):
    """Encodes documents and anchors into unit vectors in float16, with the keys that exclusions go by."""

    def __init__(self, encoder: EncoderConfig, places: Places, split: str, threads: int) -> None:
        limit_threads(threads)
        self.encoder = Encoder.load(encoder)
        self.places, self.split = places, split

    def work(self, item: tuple[Role, dict[str, Any]]) -> int:
        """Encode one shard of the corpus, or the anchors of one shard of pairs; return the rows that it had."""
        role, shard = item[0], Shard(**item[1])
        table, empty = self._documents(shard) if role == "document" else self._anchors(shard)
        shards.commit(
            self.places.folder(role), shard.name, table, {"empty": empty, "dtype": self.encoder.identity["dtype"]}
        )
        return shard.rows

    def _documents(self, shard: Shard) -> tuple[pa.Table, int]:
        rows = shards.read(shard, ["doc_id", "text", "cluster_id"])
        held = rows.filter(not_blank(rows["text"]))
        table = self._encoded(held["doc_id"], held["text"], "document")
        for name, column in (("id_key", "doc_id"), ("cluster_key", "cluster_id")):
            table = table.append_column(name, pa.array(id_keys(held[column].to_pylist())))
        return table, rows.num_rows - table.num_rows

    def _anchors(self, shard: Shard) -> tuple[pa.Table, int]:
        rows, dropped = usable_pairs(shard, self.split)
        first = pa.table({"id": rows["anchor_id"], "row": np.arange(rows.num_rows)})
        chosen = rows.take(first.group_by("id").aggregate([("row", "min")])["row_min"].sort())
        return self._encoded(chosen["anchor_id"], chosen["anchor"], "query"), sum(dropped.values())

    def _encoded(self, ids: pa.ChunkedArray, texts: pa.ChunkedArray, role: Role) -> pa.Table:
        plain = texts.to_pylist()
        vectors = vectors_table(ids, unit(self.encoder.encode(plain, role)), "float16")
        return vectors.append_column("text_key", pa.array(text_keys(plain)))


def usable_pairs(shard: Shard, split: str) -> tuple[pa.Table, dict[str, int]]:
    """Pairs of the split in a shard that have an anchor, and the counts of the others by reason."""
    rows = shards.read(shard, schema.TABLES["pairs"].names)
    ours = rows.filter(pc.equal(rows["split"], split))
    usable = ours.filter(not_blank(ours["anchor"]))
    return usable, {"other_split": rows.num_rows - ours.num_rows, "empty_anchor": ours.num_rows - usable.num_rows}


class MineBlock(Worker):
    """Searches the corpus for a block of anchors and chooses the negatives of their pairs."""

    def __init__(self, places: Places, split: str, top_k: int, rule: Rule, exclude: Exclude) -> None:
        self.places, self.split, self.top_k, self.rule, self.exclude = places, split, top_k, rule, exclude

    def work(self, item: list[dict[str, Any]]) -> int:
        """Mine the shards of one block and commit each; return the rows that they had."""
        block = [Shard(**one) for one in item]
        parts = [usable_pairs(shard, self.split) for shard in block]
        tables = [pairs for pairs, _ in parts]
        candidates = self._reused(block, tables) if self.places.reused else self._found(block, tables)
        for shard, (pairs, dropped), table in zip(block, parts, candidates, strict=True):
            triplets, counts = select(pairs, table, self.rule, self.places.corpus)
            shards.commit(join(self.places.out, "candidates"), shard.name, table, {})
            shards.commit(join(self.places.out, "tuples"), shard.name, tuples(triplets), {})
            shards.commit(join(self.places.out, "triplets"), shard.name, triplets, {"dropped": dropped, **counts})
        return sum(shard.rows for shard in block)

    def _found(self, block: list[Shard], tables: list[pa.Table]) -> list[pa.Table]:
        anchors = [read_parquet(join(self.places.folder("query"), f"{shard.name}.parquet")) for shard in block]
        joined = join_block(tables, anchors)
        known = known_positives(joined, self.places.pairs, self.places.qrels)
        bound = siblings(joined, self.places.pairs) if self.exclude.same_group else NONE
        found = find(joined, self.places.vectors, known, bound, self.exclude, self.top_k)
        whole = candidates_table(joined, found)
        ends = np.cumsum([table.num_rows for table in tables])
        return [whole.slice(end - table.num_rows, table.num_rows) for end, table in zip(ends, tables, strict=True)]

    def _reused(self, block: list[Shard], tables: list[pa.Table]) -> list[pa.Table]:
        return [
            _earlier(str(self.places.reused), shard.name, pairs) for shard, pairs in zip(block, tables, strict=True)
        ]


def _earlier(folder: str, name: str, pairs: pa.Table) -> pa.Table:
    """Candidates of an earlier search for the same pairs."""
    path = join(folder, f"{name}.parquet")
    fs, root = filesystem(path)
    table = read_parquet(path, "candidates") if fs.exists(root) else None
    names = ["anchor_id", "positive_id"]
    if table is None or not table.select(names).equals(pairs.select(names).cast(table.select(names).schema)):
        raise UserError(f"{folder}: {name} is missing or of other pairs; mine afresh")
    return table


def join_block(tables: list[pa.Table], anchors: list[pa.Table]) -> Block:
    """Put the pairs and the encoded anchors of several shards into one block; an anchor belongs to its shard."""
    starts = np.cumsum([0, *(table.num_rows for table in anchors)])
    places = [
        start + pc.index_in(pairs["anchor_id"], value_set=own["id"].combine_chunks()).to_numpy().astype(np.int64)
        for start, pairs, own in zip(starts, tables, anchors, strict=False)
    ]
    pairs, every = pa.concat_tables(tables), pa.concat_tables(anchors)
    return Block(
        ids=every["id"].to_pylist(),
        vectors=as_matrix(every["vector"]),
        text_keys=every["text_key"].to_numpy(),
        pair_anchor=np.concatenate(places),
        positive_ids=pairs["positive_id"].to_pylist(),
        positive_keys=text_keys(pairs["positive"].to_pylist()),
        groups=pairs["group_id"].to_pylist(),
    )


def candidates_table(block: Block, found: Found) -> pa.Table:
    """Table `candidates`, one row a pair: the candidates of its anchor and the exact score of its positive."""
    lists = [
        [{"doc_id": name, "score": score, "cross_score": None} for name, score in zip(names, scores, strict=False)]
        for names, scores in zip(found.doc_ids, found.scores.tolist(), strict=True)
    ]
    columns = [
        [block.ids[anchor] for anchor in block.pair_anchor],
        block.positive_ids,
        pa.array(found.positive_scores, from_pandas=True),
        [lists[anchor] for anchor in block.pair_anchor],
    ]
    wanted = schema.TABLES["candidates"]
    return pa.table([pa.array(column, kind) for column, kind in zip(columns, wanted.types, strict=True)], schema=wanted)


def select(pairs: pa.Table, candidates: pa.Table, rule: Rule, corpus: list[str]) -> tuple[pa.Table, dict[str, Any]]:
    """Table `triplets` of pairs and their candidates under a rule, and what to count in the manifest."""
    names = list(zip(pairs["anchor_id"].to_pylist(), pairs["positive_id"].to_pylist(), strict=True))
    positive = candidates["positive_score"].to_numpy().astype(np.float32)
    chosen, refused = negatives(names, candidates["candidates"].to_pylist(), positive, rule)
    texts = document_texts(corpus, {one["doc_id"] for row in chosen for one in row})
    rows = [[{**one, "text": texts[one["doc_id"]]} for one in row] for row in chosen]
    column = pa.array(rows, pa.list_(schema.NEGATIVE))
    counts = {
        "negatives_per_row": Counter(len(row) for row in rows),
        "refused": refused,
        "positive_not_in_corpus": int(np.isnan(positive).sum()),
    }
    return schema.conform(pairs.append_column("negatives", column), "triplets"), counts


def document_texts(corpus: list[str], wanted: set[str]) -> dict[str, str]:
    """Texts of documents by id, read in one pass over the corpus."""
    names = pa.array(sorted(wanted), pa.string())
    texts: dict[str, str] = {}
    for table in shards.batches(corpus, ["doc_id", "text"]):
        rows = table.filter(pc.is_in(table["doc_id"], value_set=names))
        texts.update(zip(rows["doc_id"].to_pylist(), rows["text"].to_pylist(), strict=True))
    return texts
