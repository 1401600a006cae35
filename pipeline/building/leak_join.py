"""Evaluation texts and training rows, joined by bucket: a task loads the evaluation texts that it has to compare alone.

A training text can repeat only evaluation texts that have its key or share the key of a band with it. So the keys of
both sides are staged, and meet in the bucket of the key; what meets goes back to the bucket of the training rows, its
home. A filter of all keys of the evaluation, of a bounded size, leaves out most training keys before they are staged.

The result is that of a look-up in all evaluation texts at once: for each band the first `SAME_BAND` texts go home, in
the order of `EvaluationIndex`, and all that have an equal key.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.building.decontamination import (
    EVALUATION_TEXTS,
    SAME_BAND,
    EvaluationIndex,
    LeakConfig,
    joined_pair,
    longest_compared,
    pair_keys,
    text_keys,
)
from pipeline.building.minhash import sketch
from pipeline.building.shingles import Hashes
from pipeline.core.ranges import expand_ranges
from pipeline.storage.shuffle import Shuffle
from pipeline.text.columns import hash64_column

MIN_BITS, MAX_BITS = 1 << 16, 1 << 27  # of the filter; 16 MiB at most
BITS_PER_KEY = 8
Flags = npt.NDArray[np.bool_]
KIND = pa.field("kind", pa.uint8())
TEXTS = EVALUATION_TEXTS.insert(0, KIND)  # keys alone for the kinds without texts
FOUND = TEXTS.append(pa.field("home", pa.uint64()))
KEYS = pa.schema([KIND, ("key", pa.uint64()), ("home", pa.uint64())])
BANDS = pa.schema([KIND, ("band", pa.uint64()), ("key", pa.uint64()), ("origin", pa.string())])
ASKED_BANDS = pa.schema([KIND, ("band", pa.uint64()), ("asked", pa.uint64()), ("home", pa.uint64())])
CANDIDATES = pa.schema(
    [KIND, ("key", pa.uint64()), ("origin", pa.string()), ("asked", pa.uint64()), ("home", pa.uint64())]
)
FILTER_KEYS = pa.schema([("key", pa.uint64())])
LENGTHS = pa.schema([KIND, ("length", pa.int64())])
SUMMARY = pa.schema([("bits", pa.large_binary()), ("longest", pa.list_(pa.float64()))])


class Kind(IntEnum):
    """What a key stands for."""

    QUERY = 0
    LABELLED_PAIR = 1
    RELEVANT_PAIR = 2
    RELEVANT_DOCUMENT = 3
    RELEVANT_ID = 4  # a document that is relevant to a held-out query, by its id: of generated rows alone
    NEAR = 5  # a training text with a candidate of its bands


@dataclass(frozen=True)
class Summary:
    """A filter of the evaluation's keys, and by kind the length in characters up to which texts are compared."""

    bits: npt.NDArray[np.uint8]
    longest: list[float]

    def may_have(self, keys: Hashes) -> Flags:
        """Whether the evaluation may have keys [N]; False is certain."""
        position = keys & np.uint64(len(self.bits) * 8 - 1)
        flags: Flags = (self.bits[position >> np.uint64(3)] >> (position & np.uint64(7)).astype(np.uint8)) & 1 > 0
        return flags


@dataclass(frozen=True)
class Evaluation:
    """What a bucket of training rows is compared with.

    `relevant` and `documents` are the sorted keys of relevant pairs and documents, `near` those of the training texts
    that have a candidate, `ids` those of the ids of documents (`id_keys`).
    """

    queries: EvaluationIndex
    pairs: EvaluationIndex
    relevant: Hashes
    documents: Hashes
    near: Hashes
    ids: Hashes


def id_keys(ids: pa.Array | pa.ChunkedArray) -> Hashes:
    """Keys of ids of documents [N]."""
    return hash64_column(ids, "document")


@dataclass(frozen=True)
class LeakJoin:
    """The staged keys and texts of both sides."""

    shuffle: Shuffle
    config: LeakConfig

    def add_texts(self, kind: Kind, part: str, rows: pa.Table) -> None:
        """Stage evaluation texts (`EVALUATION_TEXTS`) of a kind."""
        self._stage("evaluation", part, kind, rows, TEXTS)
        usable = rows.filter(rows["bands"].is_valid())
        bands = pc.list_flatten(usable["bands"]).combine_chunks()
        row = pa.array(np.repeat(np.arange(len(usable)), self.config.bands))
        columns = {"band": bands, "key": usable["key"].take(row), "origin": usable["origin"].take(row)}
        self._stage("evaluation_bands", part, kind, pa.table(columns), BANDS, by="band")
        self._stage_filter(part, kind, np.concatenate([rows["key"].to_numpy(), bands.to_numpy()]))
        length = pc.max(pc.utf8_length(rows["text"])).as_py() or 0
        self._whole.write("evaluation_lengths", f"{kind}-{part}", pa.table([[kind], [length]], schema=LENGTHS), "kind")

    def add_keys(self, kind: Kind, part: str, keys: Hashes) -> None:
        """Stage keys of relevant pairs or documents."""
        keys = np.unique(keys)
        empty = {name: pa.nulls(len(keys), TEXTS.field(name).type) for name in ("text", "origin", "bits", "bands")}
        self._stage("evaluation", part, kind, pa.table({"key": keys, **empty}), TEXTS)
        self._stage_filter(part, kind, keys)

    def summarise(self) -> None:
        """Make the summary of all that is staged of the evaluation; one task does it."""
        lengths = self._whole.read("evaluation_lengths", 0, LENGTHS)
        longest = [
            longest_compared(pc.max(lengths.filter(pc.equal(lengths["kind"], kind))["length"]).as_py(), self.config)
            for kind in (Kind.QUERY, Kind.LABELLED_PAIR)
        ]
        keys = self._whole.read("evaluation_keys", 0, FILTER_KEYS)["key"]
        size = 1 << max(0, BITS_PER_KEY * len(keys) - 1).bit_length()
        flags = np.zeros(min(max(size, MIN_BITS), MAX_BITS), bool)
        for chunk in keys.chunks:
            flags[chunk.to_numpy() & np.uint64(len(flags) - 1)] = True
        bits = np.packbits(flags, bitorder="little").tobytes()
        self._whole.write("evaluation_summary", "all", pa.table([[bits], [longest]], schema=SUMMARY), by="bits")

    def read_summary(self) -> Summary:
        """Read the summary."""
        row = self._whole.read("evaluation_summary", 0, SUMMARY)
        return Summary(np.frombuffer(row["bits"][0].as_buffer(), np.uint8), row["longest"][0].as_py())

    def ask(
        self,
        home: int,
        part: str,
        left: pa.ChunkedArray,
        right: pa.ChunkedArray,
        summary: Summary,
        ids: Hashes | None = None,
    ) -> None:
        """Stage the keys of training rows, of which only those matter that the evaluation may have.

        `ids` are the keys of the documents of rows whose queries were generated.
        """
        keys = [text_keys(side) for side in (left, right)]
        both = np.concatenate([pair_keys(*keys), pair_keys(*reversed(keys))])
        texts = {Kind.QUERY: pa.chunked_array([*left.chunks, *right.chunks], pa.string())}
        if summary.longest[Kind.LABELLED_PAIR]:
            texts[Kind.LABELLED_PAIR] = pa.chunked_array([joined_pair(left, right)])
        lookups = {Kind.RELEVANT_PAIR: both, Kind.RELEVANT_DOCUMENT: keys[1]}
        for kind, column in texts.items():
            distinct = pc.unique(column)
            lookups[kind] = text_keys(distinct)
            self._ask_bands(home, part, kind, distinct, lookups[kind], summary)
        if ids is not None:
            lookups[Kind.RELEVANT_ID] = ids
        for kind, values in lookups.items():
            values = np.unique(values[summary.may_have(values)])
            rows = pa.table({"key": values, "home": np.full(len(values), home, np.uint64)})
            self._stage("asked", part, kind, rows, KEYS)

    def _ask_bands(self, home: int, part: str, kind: Kind, texts: pa.Array, keys: Hashes, summary: Summary) -> None:
        if not self.config.near:
            return
        is_short = pc.less_equal(pc.utf8_length(texts), summary.longest[kind]).to_numpy(zero_copy_only=False)
        short = np.flatnonzero(is_short)
        if not len(short):
            return
        sketches = sketch(texts.take(pa.array(short)), self.config)
        bands = sketches.keys[sketches.rows]
        row, band = np.nonzero(summary.may_have(bands.reshape(-1)).reshape(bands.shape))
        text_key = keys[short[sketches.rows[row]]]
        columns = {"band": bands[row, band], "asked": text_key, "home": np.full(len(row), home, np.uint64)}
        self._stage("asked_bands", part, kind, pa.table(columns), ASKED_BANDS, by="band")

    def match_bands(self, bucket: int, part: str) -> None:
        """Stage the candidates of a bucket of bands: evaluation texts by key, with the training texts that ask."""
        evaluation = self.shuffle.read("evaluation_bands", bucket, BANDS)
        lookups = self.shuffle.read("asked_bands", bucket, ASKED_BANDS)
        for kind in (Kind.QUERY, Kind.LABELLED_PAIR):
            order = [("band", "ascending"), ("origin", "descending"), ("key", "ascending")]
            ordered = _of_kind(evaluation, kind).sort_by(order).combine_chunks()
            requests = _of_kind(lookups, kind)
            at, row = _meet(ordered["band"].to_numpy(), requests["band"].to_numpy(), SAME_BAND)
            texts, askers = ordered.take(pa.array(row)), requests.take(pa.array(at))
            columns = {name: texts[name] for name in ("key", "origin")}
            columns |= {name: askers[name] for name in ("asked", "home")}
            self._stage("candidates", part, kind, _distinct(pa.table(columns)), CANDIDATES)

    def match_texts(self, bucket: int, part: str) -> dict[Kind, int]:
        """Send the evaluation texts of a bucket of keys home; returns the distinct evaluation texts by kind."""
        evaluation = self.shuffle.read("evaluation", bucket, TEXTS)
        lookups = self.shuffle.read("asked", bucket, KEYS)
        candidates = self.shuffle.read("candidates", bucket, CANDIDATES)
        parts, distinct = [], {}
        for kind in list(Kind)[: Kind.NEAR]:
            texts = _of_kind(evaluation, kind)
            distinct[kind] = pc.count_distinct(texts["key"]).as_py()
            rows = [_equal(texts, _of_kind(lookups, kind), ["key"])]
            if kind in (Kind.QUERY, Kind.LABELLED_PAIR):
                rows.append(_equal(texts, _of_kind(candidates, kind), ["key", "origin"]))
            row, home = np.unique(np.concatenate(rows), axis=0).T
            matches = texts.take(pa.array(row)).append_column("home", pa.array(home.astype(np.uint64)))
            parts.append(matches.select(FOUND.names).cast(FOUND))
        near = _distinct(candidates.select(["asked", "home"]))
        columns = {"key": near["asked"], "home": near["home"], "kind": np.full(len(near), Kind.NEAR, np.uint8)}
        columns |= {name: pa.nulls(len(near), FOUND.field(name).type) for name in ("text", "origin", "bits", "bands")}
        parts.append(pa.table({name: columns[name] for name in FOUND.names}, schema=FOUND))
        self.shuffle.write("found", part, pa.concat_tables(parts), by="home")
        return distinct

    def evaluation_of(self, home: int, summary: Summary) -> Evaluation:
        """Read what a bucket of training rows has to be compared with."""
        matches = self.shuffle.read("found", home, FOUND)
        queries, pairs = (
            EvaluationIndex(_of_kind(matches, kind).select(EVALUATION_TEXTS.names), self.config, summary.longest[kind])
            for kind in (Kind.QUERY, Kind.LABELLED_PAIR)
        )
        kinds = (Kind.RELEVANT_PAIR, Kind.RELEVANT_DOCUMENT, Kind.NEAR, Kind.RELEVANT_ID)
        relevant, documents, near, ids = (np.unique(_of_kind(matches, kind)["key"].to_numpy()) for kind in kinds)
        return Evaluation(queries, pairs, relevant, documents, near, ids)

    @property
    def _whole(self) -> Shuffle:
        """Staged tables in one bucket, for the task that reads all of them."""
        return Shuffle(self.shuffle.path, 1)

    def _stage(self, name: str, part: str, kind: Kind, rows: pa.Table, schema: pa.Schema, by: str = "key") -> None:
        kinds = pa.array(np.full(len(rows), kind, np.uint8))
        table = rows.append_column(KIND, kinds).select(schema.names).cast(schema)
        self.shuffle.write(name, f"{kind}-{part}", table, by=by)

    def _stage_filter(self, part: str, kind: Kind, keys: Hashes) -> None:
        self._whole.write("evaluation_keys", f"{kind}-{part}", pa.table([np.unique(keys)], schema=FILTER_KEYS), "key")


def _of_kind(rows: pa.Table, kind: Kind) -> pa.Table:
    return rows.filter(pc.equal(rows["kind"], pa.scalar(kind, pa.uint8())))


def _distinct(rows: pa.Table) -> pa.Table:
    return rows.group_by(rows.column_names, use_threads=False).aggregate([])


def _meet(values: Hashes, requests: Hashes, limit: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pairs (index of requests, index of sorted values) of equal hashes; of each value the first `limit` count."""
    low, high = np.searchsorted(values, requests, "left"), np.searchsorted(values, requests, "right")
    counts = np.minimum(high - low, limit)
    return np.repeat(np.arange(len(requests)), counts), expand_ranges(low, counts)


def _equal(texts: pa.Table, lookups: pa.Table, columns: Iterable[str]) -> npt.NDArray[np.int64]:
    """Pairs [P, 2] (row of texts, home) of equal values in some columns."""
    columns = list(columns)
    numbered = texts.select(columns).append_column("row", pa.array(np.arange(len(texts))))
    homes = _distinct(lookups.select([*columns, "home"]))
    met = numbered.join(homes, keys=columns, join_type="inner")
    return np.stack([met["row"].to_numpy(), met["home"].to_numpy().astype(np.int64)], axis=1)
