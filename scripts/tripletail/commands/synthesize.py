"""Write rows with planted truth, for scale work: `tripletail synthesize OUT --rows N [--kind qa|products]`.

Every word of row r is a hash of (seed, r, position): any row can be computed anywhere, so that copies point to rows of
other shards and the output depends on neither shards nor machine. Planted, and listed row by row in `truth/`:

- exact_duplicate: the text of an earlier row in other case and spacing, in the same split
- near_duplicate: an earlier text with its last words replaced; Jaccard of word `shingle`-grams at least `jaccard`
- leak_exact, leak_near: the same, but a train row that repeats a row of dev or test
- false_negative: another answer to an earlier row's question, not judged for it
- hard_negative: about the same topic and two of three subject words of an earlier row, and wrong for it
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.core.config import exit_on_user_error
from pipeline.core.errors import UserError
from pipeline.core.progress import say

Numbers = npt.NDArray[np.uint64]
ROLES = ("plain", "exact_duplicate", "near_duplicate", "leak_exact", "leak_near", "false_negative", "hard_negative")
TEXTS = {"qa": ("question", "answer"), "products": ("title", "description")}
CHUNK, TRIES, WORDS, TOPICS, SUBJECT, SHORT = 50_000, 96, 65_536, 997, 3, 6
SPLITS = np.array(["train", "dev", "test"])
TRUTH = pa.schema([("kind", pa.string()), ("row", pa.int64()), ("of", pa.int64()), ("jaccard", pa.float32())])


def mix(*parts: Numbers | int) -> Numbers:
    """Hash the parts into 64 bits, element by element (splitmix64's finaliser, Steele et al. 2014)."""
    state: Numbers = np.zeros(1, np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            state = (state ^ np.asarray(part, np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state


class Plan:
    """What each row is; pure functions of row numbers [n]."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.seed = args, args.seed
        shares = [args.duplicates, args.near, args.leaks / 2, args.leaks / 2, args.false_negatives, args.hard_negatives]
        if min(shares) < 0 or sum(shares) > 0.8:
            raise UserError(f"shares of planted rows are {shares}: each from 0, at most 0.8 in all")
        if not 0 < args.jaccard < 1:
            raise UserError(f"--jaccard is {args.jaccard}: between 0 and 1")
        if args.words < 2 * SUBJECT + args.shingle:
            raise UserError(f"--words is {args.words}: at least {2 * SUBJECT + args.shingle} with this --shingle")
        self.edges = np.cumsum([1 - sum(shares), *shares])[:-1]
        grams = args.words - args.shingle + 1
        self.replaced_words = int(grams * (1 - args.jaccard) / (1 + args.jaccard) + 1e-9)
        self.near_jaccard = (grams - self.replaced_words) / (grams + self.replaced_words)

    def share(self, rows: Numbers, name: int) -> npt.NDArray[np.float64]:
        """Uniform number in [0, 1) of each row."""
        return (mix(self.seed, name, rows) >> np.uint64(11)).astype(np.float64) / 2**53

    def split(self, rows: Numbers) -> npt.NDArray[np.int64]:
        """Split of rows that copy none: 0 train, 1 dev, 2 test."""
        held_out = self.args.held_out
        return np.searchsorted([1 - held_out, 1 - held_out / 2], self.share(rows, 2), side="right")

    def preferred_role(self, rows: Numbers) -> npt.NDArray[np.int64]:
        """Role of each row, by number, if there is a row for it to copy."""
        return np.searchsorted(self.edges, self.share(rows, 1), side="right")

    def assign(self, rows: Numbers) -> tuple[npt.NDArray[np.int64], Numbers]:
        """Role and original of each row: an earlier plain row, held out for a leak; without one the row is plain."""
        role, original = self.preferred_role(rows), rows.copy()
        pending = np.flatnonzero((role > 0) & (rows > 0))
        role[rows == 0] = 0
        for trial in range(TRIES):
            if not len(pending):
                break
            candidate = mix(self.seed, 3, trial, rows[pending]) % rows[pending]
            leak = (role[pending] == 3) | (role[pending] == 4)
            fits = (self.preferred_role(candidate) == 0) | (candidate == 0)
            fits &= ~leak | (self.split(candidate) > 0)
            original[pending[fits]] = candidate[fits]
            pending = pending[~fits]
        role[pending] = 0
        return role, original

    def words(self, rows: Numbers, role: npt.NDArray[np.int64], original: Numbers) -> tuple[Numbers, Numbers]:
        """Word numbers of the short texts [n, SHORT + SUBJECT] and the long ones [n, words]; none twice in a text."""
        copies = (role >= 1) & (role <= 4)
        filler = np.where(copies, original, rows)[:, None]
        root = np.where(role > 0, original, rows)[:, None]
        position = np.arange(SUBJECT, dtype=np.uint64)[None, :]
        subject = mix(self.seed, 4, root, position)
        hard = role == 6
        subject[hard, 0] = mix(self.seed, 4, rows[hard], 0)
        topic = mix(self.seed, 5, mix(self.seed, 6, root) % np.uint64(TOPICS), position)
        short = np.concatenate([subject, topic, self._filler(7, filler, SHORT - SUBJECT)], axis=1)
        long = np.concatenate([subject, topic, self._filler(8, filler, self.args.words - 2 * SUBJECT)], axis=1)
        near = (role == 2) | (role == 4)
        if self.replaced_words:
            long[near, -self.replaced_words :] = self._filler(9, rows[near][:, None], self.replaced_words)
        return self._by_position(short), self._by_position(long)

    def _filler(self, name: int, rows: Numbers, count: int) -> Numbers:
        return mix(self.seed, name, rows, np.arange(count, dtype=np.uint64)[None, :])

    def _by_position(self, hashes: Numbers) -> Numbers:
        """Words of each position come from a part of the vocabulary of its own, the same in both texts."""
        part = WORDS // self.args.words
        return hashes % np.uint64(part) + np.arange(hashes.shape[1], dtype=np.uint64)[None, :] * np.uint64(part)


def vocabulary() -> pa.Array:
    """Return `WORDS` distinct pronounceable words."""
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvzjh" for vowel in "aeiou"][:64]
    numbers = np.arange(WORDS)
    ends = np.array(list("nrlstmkd"))[(numbers >> 12) % 8]
    parts = np.array(syllables)
    return pa.array(
        [parts[n & 63] + parts[(n >> 6) & 63] + parts[(n >> 12) & 63] + e for n, e in zip(numbers, ends, strict=True)]
    )


def sentences(words: Numbers, vocabulary: pa.Array, loud: npt.NDArray[np.bool_]) -> pa.Array:
    """Texts of word numbers [n, L]; `loud` ones in capitals and with double blanks: the same after normalisation."""
    offsets = np.arange(0, words.size + 1, words.shape[1], dtype=np.int32)
    lists = pa.ListArray.from_arrays(offsets, vocabulary.take(pa.array(words.ravel().astype(np.int32))))
    texts = pc.binary_join(lists, " ")
    changed = pc.replace_substring(pc.ascii_upper(texts.filter(pa.array(loud))), " ", "  ")
    return pc.replace_with_mask(texts, pa.array(loud), changed)


def make(plan: Plan, first: int, last: int, vocabulary: pa.Array, kind: str) -> tuple[pa.Table, pa.Table]:
    """Rows first..last, and what is planted in them."""
    rows = np.arange(first, last, dtype=np.uint64)
    role, original = plan.assign(rows)
    root = np.where(role > 0, original, rows)
    short, long = plan.words(rows, role, original)
    loud = (role == 1) | (role == 3)
    split = np.where((role == 3) | (role == 4), 0, plan.split(root))
    short_name, long_name = TEXTS[kind]
    columns = {
        "id": pc.binary_join_element_wise("r", pc.cast(pa.array(rows), pa.string()), ""),
        short_name: sentences(short, vocabulary, loud),
        long_name: sentences(long, vocabulary, loud),
        "relevance": pa.array((1 + mix(plan.seed, 10, original) % np.uint64(3)).astype(np.int32)),
        "split": pa.array(SPLITS[split]),
    }
    if kind == "products":
        columns["category"] = _categories(mix(plan.seed, 6, root) % np.uint64(TOPICS), vocabulary)
    return pa.table(columns), _truth(plan, rows, role, original)


def _categories(topics: Numbers, vocabulary: pa.Array) -> pa.Array:
    """Categories of three levels, 'a > b > c', from topics [n]."""
    levels = [*((topics % np.uint64(count)).astype(np.int32) for count in (11, 77)), topics.astype(np.int32)]
    return pc.binary_join_element_wise(*(vocabulary.take(pa.array(level)) for level in levels), " > ")


def _truth(plan: Plan, rows: Numbers, role: npt.NDArray[np.int64], original: Numbers) -> pa.Table:
    """What is planted: kind, row, the row that it copies, and the Jaccard index of the two."""
    planted = role > 0
    jaccard = np.where((role == 2) | (role == 4), plan.near_jaccard, np.where(role <= 4, 1.0, np.nan))[planted]
    columns = [
        pa.array(np.array(ROLES)[role[planted]]),
        pa.array(rows[planted].astype(np.int64)),
        pa.array(original[planted].astype(np.int64)),
        pa.array(jaccard, pa.float32(), from_pandas=True),
    ]
    return pa.table(columns, schema=TRUTH)


def json_lines(table: pa.Table) -> bytes:
    """Rows as JSON lines; nothing in them needs an escape."""
    parts: list[pa.Array | str] = []
    before = "{"
    for field in table.schema:
        quote = '"' if pa.types.is_string(field.type) else ""
        parts += [f'{before}"{field.name}": {quote}', pc.cast(table[field.name], pa.string())]
        before = f"{quote}, "
    rows = pc.binary_join_element_wise(*parts, before.removesuffix(", ") + "}\n", "").combine_chunks()
    document = pa.ListArray.from_arrays([0, len(rows)], rows)
    return bytes(pc.binary_join(document, "")[0].as_buffer())


def parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = argparse.ArgumentParser(
        "tripletail synthesize",
        description="Write rows with planted duplicates, near duplicates, leaks, false and hard negatives.",
        formatter_class=partial(argparse.ArgumentDefaultsHelpFormatter, max_help_position=30),
        usage="tripletail synthesize OUT --rows N [FLAGS]",
    )
    flags.add_argument("out", metavar="OUT", help="a directory: rows/, truth/ and plan.json")
    flags.add_argument("--rows", type=int, required=True, metavar="N", help="how many")
    flags.add_argument("--kind", choices=sorted(TEXTS), default="qa", help="question and answer, or title and text")
    flags.add_argument("--format", choices=["parquet", "jsonl"], default="parquet", help="of the files")
    flags.add_argument("--rows-per-shard", type=int, default=250_000, metavar="N", help="rows of a file")
    flags.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes")
    flags.add_argument("--seed", type=int, default=0, metavar="N", help="of every word")
    flags.add_argument("--words", type=int, default=36, metavar="N", help="words of an answer or description")
    flags.add_argument("--shingle", type=int, default=3, metavar="N", help="words of a shingle of the planted Jaccard")
    flags.add_argument("--jaccard", type=float, default=0.8, metavar="X", help="least Jaccard of a near duplicate")
    flags.add_argument("--held-out", type=float, default=0.1, metavar="X", help="share of dev and test together")
    shares = {"duplicates": 0.05, "near": 0.05, "leaks": 0.01, "false-negatives": 0.02, "hard-negatives": 0.02}
    for name, share in shares.items():
        flags.add_argument(f"--{name}", type=float, default=share, metavar="X", help="share of the rows")
    return flags


def write_shard(args: argparse.Namespace, shard: int) -> dict[str, int]:
    """Write one shard of rows and its truth; return how many rows of each kind are planted in it."""
    plan, words, out = Plan(args), vocabulary(), Path(args.out)
    start = shard * args.rows_per_shard
    end = min(start + args.rows_per_shard, args.rows)
    chunks = [make(plan, first, min(first + CHUNK, end), words, args.kind) for first in range(start, end, CHUNK)]
    rows, truth = (pa.concat_tables(tables) for tables in zip(*chunks, strict=True))
    if args.format == "parquet":
        pq.write_table(rows, out / "rows" / f"part-{shard:05d}.parquet", compression="lz4", row_group_size=65_536)
    else:
        (out / "rows" / f"part-{shard:05d}.jsonl").write_bytes(b"".join(json_lines(table) for table, _ in chunks))
    pq.write_table(truth, out / "truth" / f"part-{shard:05d}.parquet", compression="lz4")
    return {count["values"]: count["counts"] for count in pc.value_counts(truth["kind"]).to_pylist()}


def main(argv: Sequence[str]) -> None:
    """Write shards of rows, their truth, and what was planted."""
    args = parser().parse_args(argv)
    with exit_on_user_error("synthesize"):
        synthesize(args)


def synthesize(args: argparse.Namespace) -> None:
    """Write what the flags say; raises UserError for shares that cannot be planted."""
    start, plan, out = time.perf_counter(), Plan(args), Path(args.out)
    for name in ("rows", "truth"):
        (out / name).mkdir(parents=True, exist_ok=True)
    shards = range(-(-args.rows // args.rows_per_shard))
    if min(args.workers, len(shards)) > 1:
        with ProcessPoolExecutor(args.workers, get_context("spawn")) as pool:
            planted = list(pool.map(partial(write_shard, args), shards))
    else:
        planted = [write_shard(args, shard) for shard in shards]
    seconds = time.perf_counter() - start
    record = {name: value for name, value in vars(args).items() if name not in ("out", "workers")}
    record |= {"planted": {kind: sum(counts.get(kind, 0) for counts in planted) for kind in ROLES[1:]}}
    record |= {"near_jaccard": plan.near_jaccard, "words_replaced": plan.replaced_words}
    (out / "plan.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    say(f"synthesize: {args.rows:,} rows in {seconds:.1f} s, {args.rows / seconds:,.0f} rows/s")
