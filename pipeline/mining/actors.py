"""The actors of the mining job: encode shards, build an index, search a block of pairs, rerank a shard."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core import schema
from pipeline.core.actor_pool import Worker, limit_threads
from pipeline.core.errors import UserError
from pipeline.encoder.cross_encoder import Reranker
from pipeline.encoder.encoder import Encoder, EncoderConfig, Role
from pipeline.encoder.passages import PassagesConfig
from pipeline.generation.judge import Judge
from pipeline.mining import lexical_candidates
from pipeline.mining.candidate_arrays import Rows
from pipeline.mining.candidates import candidates_table, exact_candidates, score_candidates
from pipeline.mining.config import MineConfig
from pipeline.mining.exclusions import (
    NO_KEYS,
    AnchorBlock,
    find_positions,
    group_positives,
    known_positives,
    names_of,
)
from pipeline.mining.judged import judge_selected
from pipeline.mining.output_formats import triplets
from pipeline.mining.passages import EncodedPassages, commit_passages, passage_tables
from pipeline.mining.reranker import CandidateScorerConfig, add_cross_scores, ids_to_score
from pipeline.mining.selection import document_texts, select_negatives, selected_ids
from pipeline.search.approximate import approximate
from pipeline.search.index import FileVectors, SearchIndex
from pipeline.storage import shards
from pipeline.storage.files import filesystem, join, open_parquet, read_parquet
from pipeline.storage.shards import Shard
from pipeline.storage.vectors import comparable, not_blank, to_matrix, vectors_table
from pipeline.text.same_document import id_keys, text_keys

DOCUMENT = ["doc_id", "text", "title", "group_id", "cluster_id", "category", "tags"]


@dataclass(frozen=True)
class MiningPaths:
    """Where the job reads and writes."""

    out: str
    pairs: list[str]
    qrels: list[str]
    queries: list[str]
    corpus: list[str]
    vectors: str  # folder of vector files, which have their keys as names
    documents: list[str]  # keys of the corpus, in the order of its rows
    anchors: dict[str, str]  # key of the anchors of each shard of pairs
    reused: str | None  # folder of candidates that are used again
    passages: list[str] = field(
        default_factory=list
    )  # keys of passages, in the order of documents; none: searched whole

    @property
    def encoded_corpus(self) -> list[str]:
        """Vector files of the corpus, in the order of its rows."""
        return [join(self.vectors, f"{key}.parquet") for key in self.documents]

    @property
    def encoded_passages(self) -> EncodedPassages | None:
        """Vectors of the passages of the corpus, in the order of its rows; None where it is searched whole."""
        if not self.passages:
            return None
        files = [join(self.vectors, f"{key}.parquet") for key in self.passages]
        return EncodedPassages(files, [(self.encoded(key) or {})["rows"] for key in self.documents])

    @property
    def searched_vectors(self) -> list[str]:
        """Vector files that an approximate index is built of."""
        return self.encoded_corpus if (passages := self.encoded_passages) is None else passages.files

    @property
    def encoded_anchors(self) -> list[str]:
        """Vector files of all anchors."""
        return [join(self.vectors, f"{key}.parquet") for key in self.anchors.values()]

    @property
    def work(self) -> str:
        """Folder of what only this run needs."""
        return join(self.out, ".work")

    @property
    def index(self) -> str:
        """File of the approximate index."""
        return join(self.work, "index")

    @property
    def lexical(self) -> str:
        """Folder of the lexical index."""
        return join(self.work, "lexical")

    @property
    def searched(self) -> str:
        """Folder of candidates without a cross-encoder's scores: this run's, or those that are used again."""
        return self.reused or join(self.work, "searched")

    def encoded(self, key: str) -> dict[str, Any] | None:
        """Counts of encoded texts; None when they are not there."""
        return shards.committed(self.vectors, key)

    def is_searched(self, name: str) -> bool:
        """Whether a shard was searched, and waits for its cross-encoder scores."""
        return shards.committed(self.searched, name) is not None

    def barred(self, name: str) -> int:
        """How many documents an earlier search for a shard left out as the same product."""
        return int((shards.committed(self.searched, name) or {}).get("barred", 0))

    def mined(self, name: str) -> dict[str, Any] | None:
        """Counts of a mined shard; None when it is not there. Triplets are written last."""
        return shards.committed(join(self.out, "triplets"), name)

    def commit(self, shard: Shard, candidates: pa.Table, rows: pa.Table, counts: dict[str, Any]) -> None:
        """Write a shard's candidates, and its rows as tables `tuples` and, last, `triplets`."""
        shards.commit(join(self.out, "candidates"), shard.name, candidates, {"barred": counts["barred"]})
        shards.commit(join(self.out, "tuples"), shard.name, triplets(rows), {})
        shards.commit(join(self.out, "triplets"), shard.name, rows, counts)


class EncodeShard(Worker):
    """Encodes documents and anchors into comparable vectors in float16, with the keys by which exclusions match."""

    overlaps = True

    def __init__(
        self, encoder: EncoderConfig, folder: str, split: str, threads: int, passages: PassagesConfig | None = None
    ) -> None:
        limit_threads(threads)
        self.encoder, self.folder, self.split, self.passages = Encoder.load(encoder), folder, split, passages
        self.lock = threading.Lock()  # one shard computes while others are read, tokenised and written

    def work(self, item: tuple[Role, dict[str, Any], str, str | None]) -> int:
        """Encode one shard of the corpus, or the anchors of one shard of pairs; return the rows that it had.

        Passages go into a file of their own, which has the last of the keys.
        """
        role, shard, key, cut_key = item[0], Shard(**item[1]), item[2], item[3]
        table, empty = self._documents(shard, cut_key) if role == "document" else self._anchors(shard)
        shards.commit(self.folder, key, table, {"empty": empty})
        return shard.rows

    def _documents(self, shard: Shard, cut_key: str | None) -> tuple[pa.Table, int]:
        rows = shards.read(shard, document_columns(shard.path))
        filled = rows.filter(not_blank(rows["text"]))
        table = add_document_keys(self._encode(filled["doc_id"], filled["text"], "document"), filled)
        if self.passages and cut_key:
            text_vectors = to_matrix(table["vector"])
            tables = passage_tables(self.encoder, self.passages, filled["text"].to_pylist(), text_vectors, self.lock)
            commit_passages(self.folder, cut_key, tables)
        return table, rows.num_rows - table.num_rows

    def _anchors(self, shard: Shard) -> tuple[pa.Table, int]:
        rows, dropped = usable_pairs(shard, self.split)
        anchors = first_rows(rows)
        return self._encode(anchors["anchor_id"], anchors["anchor"], "query"), sum(dropped.values())

    def _encode(self, ids: pa.ChunkedArray, texts: pa.ChunkedArray, role: Role) -> pa.Table:
        plain = texts.to_pylist()
        tokens = self.encoder.tokenize(plain, role)
        with self.lock:
            vectors = self.encoder.vectors(tokens, role)
        table = vectors_table(ids, comparable(vectors, self.encoder.similarity), "float16")
        return table.append_column("text_key", pa.array(text_keys(plain)))


def add_document_keys(encoded: pa.Table, rows: pa.Table) -> pa.Table:
    """Encoded documents with the keys of their other columns in the corpus."""
    keyed = {"id_key": "doc_id", "cluster_key": "cluster_id", "category_key": "category", "group_key": "group_id"}
    for name, column in keyed.items():
        values = rows[column].to_pylist() if column in rows.column_names else [None] * len(rows)
        encoded = encoded.append_column(name, pa.array(id_keys(values)))
    titles = rows["title"].to_pylist()
    title_keys = np.where([bool(title) for title in titles], text_keys([title or "" for title in titles]), 0)
    encoded = encoded.append_column("title_key", pa.array(title_keys.astype(np.uint64)))
    tags = [id_keys(row or []).tolist() for row in rows["tags"].to_pylist()]
    return encoded.append_column("tag_keys", pa.array(tags, pa.list_(pa.uint64())))


def document_columns(path: str) -> list[str]:
    """Columns of `DOCUMENT` that a file of the corpus has: earlier builds knew no group of a product."""
    with open_parquet(path) as file:
        missing = {name for _, name in schema.OPTIONAL} - set(file.schema_arrow.names)
    return [name for name in DOCUMENT if name not in missing]


def first_rows(pairs: pa.Table) -> pa.Table:
    """The first pair of each anchor, in order."""
    first = pa.table({"id": pairs["anchor_id"], "row": np.arange(pairs.num_rows)})
    return pairs.take(first.group_by("id").aggregate([("row", "min")])["row_min"].sort())


def usable_pairs(shard: Shard, split: str) -> tuple[pa.Table, dict[str, int]]:
    """Pairs of the split in a shard that have an anchor, and the counts of the others by reason."""
    rows = shards.read(shard, schema.TABLES["pairs"].names)
    of_split = rows.filter(pc.equal(rows["split"], split))
    usable = of_split.filter(not_blank(of_split["anchor"]))
    dropped = {
        "other_split": rows.num_rows - of_split.num_rows,
        "empty_anchor": of_split.num_rows - usable.num_rows,
    }
    return usable, dropped


class BuildIndex(Worker):
    """Builds one of the indexes that the search needs besides the vectors: approximate or lexical."""

    def __init__(self, paths: MiningPaths, config: MineConfig, threads: int) -> None:
        self.paths, self.config, self.threads = paths, config, threads

    def work(self, item: str) -> int:
        """Build the index of this path."""
        if item == self.paths.lexical:
            assert self.config.lexical is not None
            lexical_candidates.build_index(self.config.lexical, self.paths.corpus, item)
            return 0
        return self.config.index.build(FileVectors(self.paths.searched_vectors), item, self.threads)


class SearchBlock(Worker):
    """Searches the corpus for a block of anchors and, where no cross-encoder follows, selects their negatives."""

    def __init__(self, paths: MiningPaths, config: MineConfig, threads: int) -> None:
        limit_threads(threads)
        self.paths, self.config = paths, config
        self.index: SearchIndex | None = None
        self.lexical: Any = None
        if paths.reused:
            return
        if config.index.approximate:
            self.index = config.index.open(paths.index, threads)
        if config.lexical:
            self.lexical = lexical_candidates.load_index(config.lexical, paths.lexical)

    def work(self, item: list[dict[str, Any]]) -> int:
        """Mine the shards of one block and commit each; return the rows that they had."""
        block = [Shard(**fields) for fields in item]
        parts = [usable_pairs(shard, self.config.split) for shard in block]
        tables = [pairs for pairs, _ in parts]
        if self.paths.reused:
            candidates = [
                _read_candidates(self.paths.reused, shard.name, pairs)
                for shard, pairs in zip(block, tables, strict=True)
            ]
            barred = [self.paths.barred(shard.name) for shard in block]
        else:
            candidates, barred = self._search(block, tables)
        if (self.config.cross_encoder or self.config.judge) and not self.paths.reused:
            for shard, table, count in zip(block, candidates, barred, strict=True):
                shards.commit(self.paths.searched, shard.name, table, {"barred": count})
        else:
            select_and_commit(self.paths, block, parts, candidates, barred, self.config)
        return sum(shard.rows for shard in block)

    def _search(self, block: list[Shard], tables: list[pa.Table]) -> tuple[list[pa.Table], list[int]]:
        """Candidates of each shard, and how many documents were left out as the same product."""
        files = [join(self.paths.vectors, f"{self.paths.anchors[shard.name]}.parquet") for shard in block]
        anchors = [read_parquet(file) for file in files]
        candidates, barred = find_candidates(
            join_block(tables, anchors), self.paths, self.config, self.index, self.lexical
        )
        ends = np.cumsum([table.num_rows for table in tables])
        of_shards = [candidates.slice(end - t.num_rows, t.num_rows) for end, t in zip(ends, tables, strict=True)]
        counts = np.split(barred, np.cumsum([table.num_rows for table in anchors])[:-1])
        return of_shards, [int(count.sum()) for count in counts]


def find_candidates(
    block: AnchorBlock, paths: MiningPaths, config: MineConfig, index: Any, lexical: Any
) -> tuple[pa.Table, Rows]:
    """Table `candidates` of a block by the settings of a mining, with its opened indexes where it has them.

    With the number of documents that were left out as the same product, for each anchor [A].
    """
    corpus = paths.encoded_corpus
    names = names_of(block, paths.encoded_anchors, paths.queries)
    positives = known_positives(names, paths.pairs, paths.qrels)
    siblings = group_positives(block, paths.pairs) if config.exclude.same_group else NO_KEYS
    positions = find_positions(block, corpus, positives, siblings, config.exclude)
    passages = paths.encoded_passages
    width = config.lexical.width(config.top_k) if config.lexical else config.top_k
    if passages is not None:
        nearest = passages.nearest(block, width, positions.excluded, index)
    elif index is None:
        nearest = exact_candidates(block, corpus, width, positions.excluded)
    else:
        nearest = approximate(index, block.vectors, corpus, width, positions.excluded)
    if lexical is None or config.lexical is None:
        scored = score_candidates(block, corpus, nearest.rows, positions)
        return candidates_table(block, scored if passages is None else passages.score(block, scored)), positions.barred
    rows, scores, positive_scores = lexical_candidates.search(
        lexical, block, nearest, positions, config.top_k, config.lexical
    )
    scored = score_candidates(block, corpus, rows, positions)
    scored = scored if passages is None else passages.score(block, scored)
    return candidates_table(block, scored, scores, positive_scores), positions.barred


def select_and_commit(
    paths: MiningPaths,
    block: Sequence[Shard],
    parts: Sequence[tuple[pa.Table, dict[str, int]]],
    candidates: Sequence[pa.Table],
    barred: Sequence[int],
    config: MineConfig,
    judge: Judge | None = None,
) -> None:
    """Select the negatives of shards and commit them; the corpus is read once for the texts of all.

    A judge is asked about those that are selected.
    """
    rule, by_cross = config.rule, config.row_scores == "cross_encoder"
    texts = document_texts(paths.corpus, [selected_ids(table, rule) for table in candidates])
    for shard, (pairs, dropped), table, count in zip(block, parts, candidates, barred, strict=True):
        relevant, judged = judge_selected(pairs, table, rule, texts, judge) if judge else (None, {})
        rows, counts = select_negatives(pairs, table, rule, texts, cross_scores=by_cross, relevant=relevant)
        paths.commit(shard, table, rows, {"dropped": dropped, "barred": count, "judged": judged, **counts})


def _read_candidates(folder: str, name: str, pairs: pa.Table) -> pa.Table:
    """Candidates of an earlier search for the same pairs."""
    path = join(folder, f"{name}.parquet")
    fs, root = filesystem(path)
    table = read_parquet(path, "candidates") if fs.exists(root) else None
    names = ["anchor_id", "positive_id"]
    if table is None or not table.select(names).equals(pairs.select(names).cast(table.select(names).schema)):
        raise UserError(f"{folder}: {name} is missing or of other pairs; mine afresh")
    return table


def join_block(tables: list[pa.Table], anchors: list[pa.Table]) -> AnchorBlock:
    """Join the pairs and the encoded anchors of several shards into one block; an anchor belongs to its shard."""
    starts = np.cumsum([0, *(table.num_rows for table in anchors)])
    pair_anchor = [
        start + pc.index_in(pairs["anchor_id"], value_set=table["id"].combine_chunks()).to_numpy().astype(np.int64)
        for start, pairs, table in zip(starts, tables, anchors, strict=False)
    ]
    pairs, encoded = pa.concat_tables(tables), pa.concat_tables(anchors)
    return AnchorBlock(
        ids=encoded["id"].to_pylist(),
        vectors=to_matrix(encoded["vector"]),
        text_keys=encoded["text_key"].to_numpy(),
        pair_anchor=np.concatenate(pair_anchor),
        positive_ids=pairs["positive_id"].to_pylist(),
        positive_keys=text_keys(pairs["positive"].to_pylist()),
        groups=pairs["group_id"].to_pylist(),
        texts=[text for table in tables for text in first_rows(table)["anchor"].to_pylist()],
    )


class RerankShard(Worker):
    """Scores the candidates of a shard and its positives with a cross-encoder, then selects the negatives.

    Without a cross-encoder it only selects. A judge, where there is one, is asked about what is selected.
    """

    def __init__(
        self, paths: MiningPaths, config: MineConfig, cross_encoder: CandidateScorerConfig | None, threads: int
    ) -> None:
        limit_threads(threads)
        self.paths, self.config = paths, config
        self.reranker = Reranker(cross_encoder) if cross_encoder else None
        self.top = cross_encoder.top if cross_encoder else None
        self.judge = config.judge.start(threads) if config.judge else None

    def work(self, item: dict[str, Any]) -> int:
        """Score and select for one shard, and commit it; return the rows that it had."""
        shard = Shard(**item)
        pairs, dropped = usable_pairs(shard, self.config.split)
        table = _read_candidates(self.paths.searched, shard.name, pairs)
        if self.reranker:
            texts = document_texts(self.paths.corpus, [ids_to_score(table, self.top)[0]])
            table = add_cross_scores(table, pairs, texts, self.reranker, self.top)
        barred = [self.paths.barred(shard.name)]
        select_and_commit(self.paths, [shard], [(pairs, dropped)], [table], barred, self.config, self.judge)
        return shard.rows
