"""Tasks of decontamination: training rows wait until all evaluation texts are known, then lose those that leak."""

import posixpath
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.building.decontamination import (
    LeakConfig,
    evaluation_texts,
    find_leaks,
    joined_pair,
    pair_keys,
    text_keys,
)
from pipeline.building.judgments import JudgedQueries
from pipeline.building.leak_join import Evaluation, Kind, LeakJoin, id_keys
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
    """Evaluation texts are staged as they become known; `decontaminate` is the last task (`leak_join` says how)."""

    config: LeakConfig
    draft: Draft
    shuffle: Shuffle
    labels: list[str]  # names of the extra data sets
    prompts: dict[str, Prompts] = field(default_factory=dict)  # of sources
    generated: tuple[str, ...] = ()  # names of the sources whose queries were made of documents

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
        self._join.add_texts(Kind.QUERY, part, texts)
        relevant = judged_queries.judgments.filter(
            pc.is_in(judged_queries.judgments["query_id"], queries["query_id"].combine_chunks())
        )
        is_positive = pc.greater_equal(relevant["relevance"], min_relevance)
        relevant = relevant.filter(pc.and_(is_positive, relevant["text"].is_valid()))
        row = pc.index_in(relevant["query_id"], queries["query_id"].combine_chunks())
        documents = text_keys(relevant["text"])
        self._join.add_keys(Kind.RELEVANT_DOCUMENT, part, documents)
        if self.generated:
            self._join.add_keys(Kind.RELEVANT_ID, part, id_keys(relevant["doc_id"]))
        pairs = pair_keys(text_keys(queries["text"].take(row)), documents)
        self._join.add_keys(Kind.RELEVANT_PAIR, part, pairs)

    def add_labelled(self, rows: pa.Table, part: str) -> None:
        """Stage the held-out labelled pairs of a bucket."""
        if not self.enabled:
            return
        rows = rows.filter(pc.is_in(rows["split"], HELD_OUT))
        texts = evaluation_texts(joined_pair(rows["left"], rows["right"]), rows["split"].to_pylist(), self.config)
        self._join.add_texts(Kind.LABELLED_PAIR, part, texts)

    def add_extra_sets(self, bucket: int) -> Counts:
        """Stage the evaluation texts of the extra data sets, all but their train splits; one task does it for all."""
        for kind in ("queries", "labelled", "documents") if bucket == 0 and self.labels else ():
            rows = self.extra.read(kind, 0, SCHEMAS[kind])
            rows = rows.filter(pc.not_equal(pc.fill_null(rows["split"], ""), "train"))
            if kind == "documents":
                self._join.add_keys(Kind.RELEVANT_DOCUMENT, "extra", text_keys(rows["text"]))
                continue
            texts = rows["text"] if kind == "queries" else joined_pair(rows["left"], rows["right"])
            staged = Kind.QUERY if kind == "queries" else Kind.LABELLED_PAIR
            self._join.add_texts(staged, "extra", evaluation_texts(texts, rows["source"].to_pylist(), self.config))
        if bucket == 0:
            self._join.summarise()
        return Counts()

    def steps(self) -> list[Callable[[int], Counts]]:
        """The tasks that check the training rows, when all evaluation texts but those of extra sets are staged."""
        return [self.add_extra_sets, self.ask, self.match_bands, self.match_texts, self.decontaminate]

    def ask(self, bucket: int) -> Counts:
        """Stage what the training rows of a bucket have to be compared by."""
        summary = self._join.read_summary()
        for table, part, rows in self._read_deferred(bucket):
            train = rows.filter(pc.equal(rows["split"], "train"))
            left, right = TEXT_COLUMNS[table]
            ids = (
                id_keys(train.filter(self._is_generated(train))["positive_id"])
                if self.generated and "positive_id" in TABLES[table].names
                else None
            )
            self._join.ask(bucket, f"{table}-{part}", train[left], train[right], summary, ids)
        return Counts()

    def match_bands(self, bucket: int) -> Counts:
        """Find evaluation texts that share a band with training texts."""
        self._join.match_bands(bucket, f"{bucket:05d}")
        return Counts()

    def match_texts(self, bucket: int) -> Counts:
        """Send evaluation texts to the training rows that have to be compared with them, and count them."""
        tally, distinct = Counts(), self._join.match_texts(bucket, f"{bucket:05d}")
        tally.counts["leakage queries"] += distinct[Kind.QUERY]
        tally.counts["leakage labelled_pairs"] += distinct[Kind.LABELLED_PAIR]
        return tally

    def decontaminate(self, bucket: int) -> Counts:
        """Write the training rows of a bucket; those that leak are counted, and left out where the recipe says so."""
        tally, evaluation = Counts(), self._join.evaluation_of(bucket, self._join.read_summary())
        for table, part, rows in self._read_deferred(bucket):
            rows = self._without_leaks(table, rows, evaluation, tally)
            write_table(self.draft, table, rows, part, tally, self.prompts)
        return tally

    def _read_deferred(self, bucket: int) -> Iterator[tuple[str, str, pa.Table]]:
        """Training rows of a bucket: table, part, rows."""
        for table in TEXT_COLUMNS:
            fs, folder = filesystem(join(self._deferred, table))
            for path in sorted(fs.glob(join(folder, f"*-{bucket:05d}.parquet"))) if fs.exists(folder) else []:
                name = posixpath.basename(path)
                rows = read_parquet(join(self._deferred, table, name)).cast(TABLES[table])
                yield table, name.removesuffix(".parquet"), rows

    def _without_leaks(self, table: str, rows: pa.Table, evaluation: Evaluation, tally: Counts) -> pa.Table:
        left, right = TEXT_COLUMNS[table]
        index = np.flatnonzero(pc.equal(rows["split"], "train").to_numpy())
        train = rows.take(pa.array(index))
        reasons, repeats = find_leaks(
            train[left], train[right], evaluation.queries, evaluation.pairs, evaluation.relevant, evaluation.near
        )
        if self.generated and "positive_id" in rows.column_names:
            self._find_generated(train, evaluation, reasons, repeats)
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
        shared = np.isin(text_keys(train[right])[clean], evaluation.documents)
        tally.counts["leakage shared_documents"] += int(shared.sum())
        return rows.filter(pa.array(stays))

    def _is_generated(self, rows: pa.Table) -> pa.Array:
        """Mask [N] of the rows whose query was made of its document."""
        return pc.is_in(rows["source"], value_set=pa.array(self.generated, pa.string()))

    def _find_generated(
        self, train: pa.Table, evaluation: Evaluation, reasons: list[str | None], repeats: list[str]
    ) -> None:
        """Give a reason to the rows of generated queries whose document is right for a held-out query."""
        generated = self._is_generated(train).to_numpy(zero_copy_only=False)
        held_out = np.isin(id_keys(train["positive_id"]), evaluation.ids) & generated
        for row in np.flatnonzero(held_out).tolist():
            if reasons[row] is None:
                reasons[row], repeats[row] = "generated_for_held_out", f"{train['positive_id'][row]} of an evaluation"

    @property
    def _join(self) -> LeakJoin:
        return LeakJoin(self.shuffle, self.config)

    @property
    def _deferred(self) -> str:
        return join(self.shuffle.path, "deferred")
