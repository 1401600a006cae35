"""Training rows held back until it is known what the evaluations ask, then written without those that leak."""

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.building.decontamination import ASKED, KEYS, Asked, LeakConfig, asked, both, in_one, keys_of, leaks
from pipeline.building.judgments import Judged
from pipeline.building.prompts import prompted
from pipeline.core.schema import TABLES
from pipeline.sources.reading.record import SCHEMAS, Prompts
from pipeline.storage.artifact import Draft
from pipeline.storage.counts import EXAMPLES, Counts
from pipeline.storage.files import filesystem, join, read_parquet, write_parquet
from pipeline.storage.shuffle import Shuffle

SIDES = {"pairs": ("anchor", "positive"), "triplets": ("anchor", "positive"), "labelled": ("left", "right")}
HELD_OUT = pa.array(["dev", "test"])


def publish(draft: Draft, table: str, rows: pa.Table, part: str, tally: Counts, prompts: Mapping[str, Prompts]) -> None:
    """Write rows of a table with their prompts and count them, by split too; nothing is written for no rows."""
    if rows.num_rows == 0:
        return
    draft.write(table, prompted(table, rows, prompts), part)
    tally.counts[f"table {table}"] += rows.num_rows
    if "split" in rows.column_names:
        for found in rows["split"].value_counts().to_pylist():
            tally.counts[f"split {table} {found['values']}"] += found["counts"]


@dataclass(frozen=True)
class CheckSteps:
    """What evaluations ask is staged as it becomes known; `check` is the last step and reads all of it."""

    config: LeakConfig
    draft: Draft
    exchange: Shuffle
    labels: list[str]  # names of the extra sets
    prompts: dict[str, Prompts] = field(default_factory=dict)  # of sources

    @property
    def on(self) -> bool:
        """Whether leaks are looked for."""
        return self.config.action != "off"

    @property
    def extra(self) -> Shuffle:
        """Where the records of extra sets are staged."""
        return Shuffle(join(self.exchange.path, "extra"), 1)

    def hold(self, table: str, rows: pa.Table, part: str) -> None:
        """Keep training rows, with the others of their table, until they are checked."""
        if rows.num_rows:
            write_parquet(join(self._held, table, f"{part}.parquet"), rows)

    def ask_judged(self, judged: Judged, least: int, part: str) -> None:
        """Stage the held-out queries of a bucket and which documents are right for them."""
        if not self.on:
            return
        queries = judged.queries.filter(pc.is_in(judged.queries["split"], HELD_OUT))
        self._ask("asked_queries", part, asked(queries["text"], queries["split"].to_pylist(), self.config))
        mine = judged.judgments.filter(pc.is_in(judged.judgments["query_id"], queries["query_id"].combine_chunks()))
        mine = mine.filter(pc.and_(pc.greater_equal(mine["relevance"], least), mine["text"].is_valid()))
        at = pc.index_in(mine["query_id"], queries["query_id"].combine_chunks())
        answers = keys_of(mine["text"])
        self._keys("answers", part, answers)
        self._keys("judged", part, both(keys_of(queries["text"].take(at)), answers))

    def ask_labelled(self, rows: pa.Table, part: str) -> None:
        """Stage the held-out labelled pairs of a bucket."""
        if not self.on:
            return
        rows = rows.filter(pc.is_in(rows["split"], HELD_OUT))
        found = asked(in_one(rows["left"], rows["right"]), rows["split"].to_pylist(), self.config)
        self._ask("asked_pairs", part, found)

    def extras(self, bucket: int) -> Counts:
        """Stage what the extra sets ask, but for what they force into train; one task does it for all."""
        for kind in ("queries", "labelled", "documents") if bucket == 0 and self.labels else ():
            rows = self.extra.read(kind, 0, SCHEMAS[kind])
            rows = rows.filter(pc.not_equal(pc.fill_null(rows["split"], ""), "train"))
            if kind == "documents":
                self._keys("answers", "extra", keys_of(rows["text"]))
                continue
            texts = rows["text"] if kind == "queries" else in_one(rows["left"], rows["right"])
            name = "asked_queries" if kind == "queries" else "asked_pairs"
            self._ask(name, "extra", asked(texts, rows["source"].to_pylist(), self.config))
        return Counts()

    def check(self, bucket: int) -> Counts:
        """Write the training rows of a bucket, without those that leak where these are to be removed."""
        tally = Counts()
        queries, pairs = (
            Asked(self._one.read(name, 0, ASKED), self.config) for name in ("asked_queries", "asked_pairs")
        )
        judged, answers = (np.unique(self._one.read(name, 0, KEYS)["key"].to_numpy()) for name in ("judged", "answers"))
        if bucket == 0:
            tally.counts["leakage queries"] += len(np.unique(queries.keys))
            tally.counts["leakage labelled_pairs"] += len(np.unique(pairs.keys))
        for table in SIDES:
            fs, folder = filesystem(join(self._held, table))
            for name in sorted(fs.glob(join(folder, f"*-{bucket:05d}.parquet"))) if fs.exists(folder) else []:
                rows = read_parquet(join(self._held, table, posixpath.basename(name))).cast(TABLES[table])
                kept = self._clean(table, rows, queries, pairs, judged, answers, tally)
                publish(self.draft, table, kept, posixpath.basename(name).removesuffix(".parquet"), tally, self.prompts)
        return tally

    def _clean(
        self,
        table: str,
        rows: pa.Table,
        queries: Asked,
        pairs: Asked,
        judged: np.ndarray,
        answers: np.ndarray,
        tally: Counts,
    ) -> pa.Table:
        left, right = SIDES[table]
        place = np.flatnonzero(pc.equal(rows["split"], "train").to_numpy())
        mine = rows.take(pa.array(place))
        reasons, repeats = leaks(mine[left], mine[right], queries, pairs, judged)
        stays = np.ones(len(rows), dtype=bool)
        for at, reason, what in zip(place.tolist(), reasons, repeats, strict=True):
            if reason is None:
                continue
            stays[at] = self.config.action != "remove"
            tally.counts[f"leakage found {reason}"] += 1
            shown = f"{table} '{rows[left][at].as_py()[:80]}' repeats {what}"
            tally.drop(reason, int(not stays[at]), shown if len(tally.examples.get(reason, ())) < EXAMPLES else None)
        tally.counts["leakage checked"] += len(mine)
        kept = np.array([reason is None for reason in reasons], dtype=bool)
        tally.counts["leakage shared_documents"] += int(np.isin(keys_of(mine[right])[kept], answers).sum())
        return rows.filter(pa.array(stays))

    @property
    def _one(self) -> Shuffle:
        return Shuffle(self.exchange.path, 1)

    @property
    def _held(self) -> str:
        return join(self.exchange.path, "held")

    def _ask(self, name: str, part: str, rows: pa.Table) -> None:
        self._one.write(name, part, rows, by="key")

    def _keys(self, name: str, part: str, keys: np.ndarray) -> None:
        self._one.write(name, part, pa.table([np.unique(keys)], schema=KEYS), by="key")
