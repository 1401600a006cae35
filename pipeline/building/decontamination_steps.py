"""Tasks of decontamination: training rows wait until all evaluation texts are known, then lose those that leak."""

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.building.decontamination import (
    EVALUATION_TEXTS,
    KEYS,
    EvaluationIndex,
    LeakConfig,
    evaluation_texts,
    find_leaks,
    joined_pair,
    pair_keys,
    text_keys,
)
from pipeline.building.judgments import JudgedQueries
from pipeline.building.prompts import with_prompts
from pipeline.core.schema import TABLES
from pipeline.sources.reading.record import SCHEMAS, Prompts
from pipeline.storage.artifact import Draft
from pipeline.storage.counts import EXAMPLES, Counts
from pipeline.storage.files import filesystem, join, read_parquet, write_parquet
from pipeline.storage.shuffle import Shuffle

TEXT_COLUMNS = {"pairs": ("anchor", "positive"), "triplets": ("anchor", "positive"), "labelled": ("left", "right")}
HELD_OUT = pa.array(["dev", "test"])


def write_table(
    draft: Draft, table: str, rows: pa.Table, part: str, tally: Counts, prompts: Mapping[str, Prompts]
) -> None:
    """Write rows of a table with their prompts and count them, by split too; nothing is written for no rows."""
    if rows.num_rows == 0:
        return
    draft.write(table, with_prompts(table, rows, prompts), part)
    tally.counts[f"table {table}"] += rows.num_rows
    if "split" in rows.column_names:
        for split in rows["split"].value_counts().to_pylist():
            tally.counts[f"split {table} {split['values']}"] += split["counts"]


@dataclass(frozen=True)
class DecontaminationSteps:
    """Evaluation texts are staged as they become known; `decontaminate` is the last task and reads all of them."""

    config: LeakConfig
    draft: Draft
    shuffle: Shuffle
    labels: list[str]  # names of the extra data sets
    prompts: dict[str, Prompts] = field(default_factory=dict)  # of sources

    @property
    def enabled(self) -> bool:
        """Whether leaks are looked for."""
        return self.config.action != "off"

    @property
    def extra(self) -> Shuffle:
        """Where the records of extra data sets are staged."""
        return Shuffle(join(self.shuffle.path, "extra"), 1)

    def defer(self, table: str, rows: pa.Table, part: str) -> None:
        """Stage training rows until they can be checked."""
        if rows.num_rows:
            write_parquet(join(self._deferred, table, f"{part}.parquet"), rows)

    def add_queries(self, judged_queries: JudgedQueries, min_relevance: int, part: str) -> None:
        """Stage the held-out queries of a bucket and the documents that are relevant to them."""
        if not self.enabled:
            return
        queries = judged_queries.queries.filter(pc.is_in(judged_queries.queries["split"], HELD_OUT))
        texts = evaluation_texts(queries["text"], queries["split"].to_pylist(), self.config)
        self._stage("evaluation_queries", part, texts)
        relevant = judged_queries.judgments.filter(
            pc.is_in(judged_queries.judgments["query_id"], queries["query_id"].combine_chunks())
        )
        is_positive = pc.greater_equal(relevant["relevance"], min_relevance)
        relevant = relevant.filter(pc.and_(is_positive, relevant["text"].is_valid()))
        row = pc.index_in(relevant["query_id"], queries["query_id"].combine_chunks())
        documents = text_keys(relevant["text"])
        self._stage_keys("relevant_documents", part, documents)
        self._stage_keys("relevant_pairs", part, pair_keys(text_keys(queries["text"].take(row)), documents))

    def add_labelled(self, rows: pa.Table, part: str) -> None:
        """Stage the held-out labelled pairs of a bucket."""
        if not self.enabled:
            return
        rows = rows.filter(pc.is_in(rows["split"], HELD_OUT))
        texts = evaluation_texts(joined_pair(rows["left"], rows["right"]), rows["split"].to_pylist(), self.config)
        self._stage("evaluation_pairs", part, texts)

    def add_extra_sets(self, bucket: int) -> Counts:
        """Stage the evaluation texts of the extra data sets, all but their train splits; one task does it for all."""
        for kind in ("queries", "labelled", "documents") if bucket == 0 and self.labels else ():
            rows = self.extra.read(kind, 0, SCHEMAS[kind])
            rows = rows.filter(pc.not_equal(pc.fill_null(rows["split"], ""), "train"))
            if kind == "documents":
                self._stage_keys("relevant_documents", "extra", text_keys(rows["text"]))
                continue
            texts = rows["text"] if kind == "queries" else joined_pair(rows["left"], rows["right"])
            name = "evaluation_queries" if kind == "queries" else "evaluation_pairs"
            self._stage(name, "extra", evaluation_texts(texts, rows["source"].to_pylist(), self.config))
        return Counts()

    def decontaminate(self, bucket: int) -> Counts:
        """Write the training rows of a bucket; those that leak are counted, and left out where the recipe says so."""
        tally = Counts()
        names = ("evaluation_queries", "evaluation_pairs")
        texts = (self._single_bucket.read(name, 0, EVALUATION_TEXTS) for name in names)
        queries, pairs = (EvaluationIndex(rows, self.config) for rows in texts)
        relevant, documents = self._read_keys("relevant_pairs"), self._read_keys("relevant_documents")
        if bucket == 0:
            tally.counts["leakage queries"] += len(np.unique(queries.keys))
            tally.counts["leakage labelled_pairs"] += len(np.unique(pairs.keys))
        for table in TEXT_COLUMNS:
            fs, folder = filesystem(join(self._deferred, table))
            for path in sorted(fs.glob(join(folder, f"*-{bucket:05d}.parquet"))) if fs.exists(folder) else []:
                name = posixpath.basename(path)
                rows = read_parquet(join(self._deferred, table, name)).cast(TABLES[table])
                rows = self._without_leaks(table, rows, queries, pairs, relevant, documents, tally)
                write_table(self.draft, table, rows, name.removesuffix(".parquet"), tally, self.prompts)
        return tally

    def _without_leaks(
        self,
        table: str,
        rows: pa.Table,
        queries: EvaluationIndex,
        pairs: EvaluationIndex,
        relevant: np.ndarray,
        documents: np.ndarray,
        tally: Counts,
    ) -> pa.Table:
        left, right = TEXT_COLUMNS[table]
        index = np.flatnonzero(pc.equal(rows["split"], "train").to_numpy())
        train = rows.take(pa.array(index))
        reasons, repeats = find_leaks(train[left], train[right], queries, pairs, relevant)
        stays = np.ones(len(rows), dtype=bool)
        for row, reason, repeated in zip(index.tolist(), reasons, repeats, strict=True):
            if reason is None:
                continue
            stays[row] = self.config.action != "remove"
            tally.counts[f"leakage found {reason}"] += 1
            example = f"{table} '{rows[left][row].as_py()[:80]}' repeats {repeated}"
            new = len(tally.examples.get(reason, ())) < EXAMPLES
            tally.drop(reason, int(not stays[row]), example if new else None)
        tally.counts["leakage checked"] += len(train)
        clean = np.array([reason is None for reason in reasons], dtype=bool)
        tally.counts["leakage shared_documents"] += int(np.isin(text_keys(train[right])[clean], documents).sum())
        return rows.filter(pa.array(stays))

    @property
    def _single_bucket(self) -> Shuffle:
        return Shuffle(self.shuffle.path, 1)

    @property
    def _deferred(self) -> str:
        return join(self.shuffle.path, "deferred")

    def _stage(self, name: str, part: str, rows: pa.Table) -> None:
        self._single_bucket.write(name, part, rows, by="key")

    def _stage_keys(self, name: str, part: str, keys: np.ndarray) -> None:
        self._single_bucket.write(name, part, pa.table([np.unique(keys)], schema=KEYS), by="key")

    def _read_keys(self, name: str) -> np.ndarray:
        return np.unique(self._single_bucket.read(name, 0, KEYS)["key"].to_numpy())
