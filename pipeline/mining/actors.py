"""The actors of the mining job: encode shards, build an index, search a block of pairs, have a reranker score them."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core import schema
from pipeline.core.actor_pool import Worker, limit_threads
from pipeline.core.errors import UserError
from pipeline.encoder.encoder import Encoder, EncoderConfig, Role
from pipeline.mining import bm25_candidates
from pipeline.mining.candidates import candidates_table, exact, measured
from pipeline.mining.config import MineConfig
from pipeline.mining.exclusions import NONE, Block, id_keys, known_positives, positions, siblings, text_keys
from pipeline.mining.output_formats import tuples
from pipeline.mining.reranker import CrossConfig, Reranker, cross_scored, looked_at
from pipeline.mining.rules import Rule
from pipeline.mining.selection import document_texts, select, taken_ids
from pipeline.search.approximate import approximate
from pipeline.search.index import FileVectors, SearchIndex
from pipeline.storage import shards
from pipeline.storage.files import filesystem, join, read_parquet
from pipeline.storage.shards import Shard
from pipeline.storage.vectors import as_matrix, not_blank, unit, vectors_table

DOCUMENT = ["doc_id", "text", "cluster_id", "category", "tags"]


@dataclass(frozen=True)
class Places:
    """Where the job reads and writes."""

    out: str
    pairs: list[str]
    qrels: list[str]
    corpus: list[str]
    vectors: str  # folder of vector files, named by their keys
    documents: list[str]  # keys of the corpus, in the order of its rows
    anchors: dict[str, str]  # key of the anchors of each shard of pairs
    reused: str | None  # folder of candidates that are used again

    @property
    def encoded_corpus(self) -> list[str]:
        """Vector files of the corpus, in the order of its rows."""
        return [join(self.vectors, f"{key}.parquet") for key in self.documents]

    @property
    def work(self) -> str:
        """Folder of what only this run needs."""
        return join(self.out, ".work")

    def encoded(self, key: str) -> dict[str, Any] | None:
        """Counts of encoded texts; None when they are not there."""
        return shards.committed(self.vectors, key)

    def found(self, name: str) -> bool:
        """Whether a shard was searched, and waits for its reranker scores."""
        return shards.committed(self.reused or join(self.work, "found"), name) is not None

    def mined(self, name: str) -> dict[str, Any] | None:
        """Counts of a mined shard; None when it is not there. Triplets are written last."""
        return shards.committed(join(self.out, "triplets"), name)

    def commit(self, shard: Shard, found: pa.Table, triplets: pa.Table, counts: dict[str, Any]) -> None:
        """Write what was made of a shard; triplets last."""
        shards.commit(join(self.out, "candidates"), shard.name, found, {})
        shards.commit(join(self.out, "tuples"), shard.name, tuples(triplets), {})
        shards.commit(join(self.out, "triplets"), shard.name, triplets, counts)


class EncodeForSearch(Worker):
    """Encodes documents and anchors into unit vectors in float16, with the keys that exclusions go by."""

    overlaps = True

    def __init__(self, encoder: EncoderConfig, folder: str, split: str, threads: int) -> None:
        limit_threads(threads)
        self.encoder, self.folder, self.split = Encoder.load(encoder), folder, split
        self.turn = threading.Lock()  # one shard computes while others are read, tokenised and written

    def work(self, item: tuple[Role, dict[str, Any], str]) -> int:
        """Encode one shard of the corpus, or the anchors of one shard of pairs; return the rows that it had."""
        role, shard, key = item[0], Shard(**item[1]), item[2]
        table, empty = self._documents(shard) if role == "document" else self._anchors(shard)
        shards.commit(self.folder, key, table, {"empty": empty})
        return shard.rows

    def _documents(self, shard: Shard) -> tuple[pa.Table, int]:
        rows = shards.read(shard, DOCUMENT)
        held = rows.filter(not_blank(rows["text"]))
        table = document_keys(self._encoded(held["doc_id"], held["text"], "document"), held)
        return table, rows.num_rows - table.num_rows

    def _anchors(self, shard: Shard) -> tuple[pa.Table, int]:
        rows, dropped = usable_pairs(shard, self.split)
        chosen = first_rows(rows)
        return self._encoded(chosen["anchor_id"], chosen["anchor"], "query"), sum(dropped.values())

    def _encoded(self, ids: pa.ChunkedArray, texts: pa.ChunkedArray, role: Role) -> pa.Table:
        plain = texts.to_pylist()
        tokens = self.encoder.tokenize(plain, role)
        with self.turn:
            found = self.encoder.vectors(tokens, role)
        vectors = vectors_table(ids, unit(found), "float16")
        return vectors.append_column("text_key", pa.array(text_keys(plain)))


def document_keys(encoded: pa.Table, rows: pa.Table) -> pa.Table:
    """Encoded documents with the keys of what else the corpus says of them."""
    for name, column in (("id_key", "doc_id"), ("cluster_key", "cluster_id"), ("category_key", "category")):
        encoded = encoded.append_column(name, pa.array(id_keys(rows[column].to_pylist())))
    tags = [id_keys(row or []).tolist() for row in rows["tags"].to_pylist()]
    return encoded.append_column("tag_keys", pa.array(tags, pa.list_(pa.uint64())))


def first_rows(pairs: pa.Table) -> pa.Table:
    """The first pair of each anchor, in order."""
    first = pa.table({"id": pairs["anchor_id"], "row": np.arange(pairs.num_rows)})
    return pairs.take(first.group_by("id").aggregate([("row", "min")])["row_min"].sort())


def usable_pairs(shard: Shard, split: str) -> tuple[pa.Table, dict[str, int]]:
    """Pairs of the split in a shard that have an anchor, and the counts of the others by reason."""
    rows = shards.read(shard, schema.TABLES["pairs"].names)
    ours = rows.filter(pc.equal(rows["split"], split))
    usable = ours.filter(not_blank(ours["anchor"]))
    return usable, {"other_split": rows.num_rows - ours.num_rows, "empty_anchor": ours.num_rows - usable.num_rows}


class Prepare(Worker):
    """Builds what the search needs beside vectors: an index, the words of the corpus."""

    def __init__(self, places: Places, config: MineConfig, threads: int) -> None:
        self.places, self.config, self.threads = places, config, threads

    def work(self, item: str) -> int:
        """Build one of them, where the search finds it."""
        if item == "words":
            bm25_candidates.build(self.places.corpus, join(self.places.work, "words"))
            return 0
        vectors = FileVectors(self.places.encoded_corpus)
        return self.config.index.build(vectors, join(self.places.work, "index"), self.threads)


class MineBlock(Worker):
    """Searches the corpus for a block of anchors and, where no reranker follows, chooses their negatives."""

    def __init__(self, places: Places, config: MineConfig, threads: int) -> None:
        limit_threads(threads)
        self.places, self.config = places, config
        self.opened: SearchIndex | None = None
        if config.index.approximate and not places.reused:
            self.opened = config.index.open(join(places.work, "index"), threads)
        self.lexical = (
            bm25_candidates.load(join(places.work, "words")) if config.lexical and not places.reused else None
        )

    def work(self, item: list[dict[str, Any]]) -> int:
        """Mine the shards of one block and commit each; return the rows that they had."""
        block = [Shard(**one) for one in item]
        parts = [usable_pairs(shard, self.config.split) for shard in block]
        tables = [pairs for pairs, _ in parts]
        if self.places.reused:
            candidates = [
                _earlier(self.places.reused, shard.name, pairs) for shard, pairs in zip(block, tables, strict=True)
            ]
        else:
            candidates = self._found(block, tables)
        if self.config.cross and not self.places.reused:
            for shard, table in zip(block, candidates, strict=True):
                shards.commit(join(self.places.work, "found"), shard.name, table, {})
        else:
            choose_all(self.places, block, parts, candidates, self.config.rule)
        return sum(shard.rows for shard in block)

    def _found(self, block: list[Shard], tables: list[pa.Table]) -> list[pa.Table]:
        files = [join(self.places.vectors, f"{self.places.anchors[shard.name]}.parquet") for shard in block]
        joined = join_block(tables, [read_parquet(file) for file in files])
        whole_block = find(joined, self.places, self.config, self.opened, self.lexical)
        ends = np.cumsum([table.num_rows for table in tables])
        return [whole_block.slice(end - t.num_rows, t.num_rows) for end, t in zip(ends, tables, strict=True)]


def find(block: Block, places: Places, config: MineConfig, opened: SearchIndex | None, lexical: Any) -> pa.Table:
    """Table `candidates` of a block, by the settings of a mining; `opened` is an index, `lexical` the words."""
    corpus = places.encoded_corpus
    known = known_positives(block, places.pairs, places.qrels)
    bound = siblings(block, places.pairs) if config.exclude.same_group else NONE
    held = positions(block, corpus, known, bound, config.exclude)
    if opened is None:
        rows = exact(block, corpus, config.top_k, held.barred)
    else:
        rows = approximate(opened, block.vectors, corpus, config.top_k, held.barred)
    if lexical is None or config.lexical is None:
        return candidates_table(block, measured(block, corpus, rows, held))
    rows, scores, positives = bm25_candidates.search(lexical, block, rows, held, config.top_k, config.lexical)
    return candidates_table(block, measured(block, corpus, rows, held), scores, positives)


def choose_all(
    places: Places,
    block: Sequence[Shard],
    parts: Sequence[tuple[pa.Table, dict[str, int]]],
    candidates: Sequence[pa.Table],
    rule: Rule,
) -> None:
    """Choose the negatives of shards and commit them; the corpus is read once for the texts of all."""
    texts = document_texts(places.corpus, [taken_ids(table, rule) for table in candidates])
    for shard, (pairs, dropped), table in zip(block, parts, candidates, strict=True):
        triplets, counts = select(pairs, table, rule, texts)
        places.commit(shard, table, triplets, {"dropped": dropped, **counts})


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
        texts=[text for table in tables for text in first_rows(table)["anchor"].to_pylist()],
    )


class ScoreShard(Worker):
    """Has a reranker score the candidates of a shard, and its positives, then chooses the negatives."""

    def __init__(self, places: Places, config: MineConfig, cross: CrossConfig, threads: int) -> None:
        limit_threads(threads)
        self.places, self.config, self.reranker = places, config, Reranker(cross)

    def work(self, item: dict[str, Any]) -> int:
        """Score and choose for one shard, and commit it; return the rows that it had."""
        shard = Shard(**item)
        pairs, dropped = usable_pairs(shard, self.config.split)
        table = _earlier(self.places.reused or join(self.places.work, "found"), shard.name, pairs)
        top = self.reranker.config.top
        texts = document_texts(self.places.corpus, [looked_at(table, top)[0]])
        scored = cross_scored(table, pairs, texts, self.reranker, top)
        choose_all(self.places, [shard], [(pairs, dropped)], [scored], self.config.rule)
        return shard.rows
