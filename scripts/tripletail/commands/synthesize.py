"""Rows with planted truth, for scale work: `python -m scripts.synthesize OUT --rows N [--kind qa|products]`.

Every word of row r is a hash of (seed, r, place): any row can be made again anywhere, so that copies point to rows of
other shards and the output depends on neither shards nor machine. Planted, and told row by row in `truth/`:

- exact_duplicate: the text of an earlier row in other case and spacing, in the same split
- near_duplicate: an earlier text with its last words replaced; Jaccard of word `shingle`-grams at least `jaccard`
- leak_exact, leak_near: the same, but a train row that repeats a row of dev or test
- false_negative: another answer to an earlier row's question, not judged for it
- hard_negative: about the same topic and two of three subject words of an earlier row, and wrong for it
"""

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

Numbers = npt.NDArray[np.uint64]
ROLES = ("plain", "exact_duplicate", "near_duplicate", "leak_exact", "leak_near", "false_negative", "hard_negative")
TEXTS = {"qa": ("question", "answer"), "products": ("title", "description")}
CHUNK, TRIES, WORDS, TOPICS, SUBJECT, ASKED = 50_000, 96, 65_536, 997, 3, 6
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
        if min(shares) < 0 or sum(shares) > 0.8 or not 0 < args.jaccard < 1 or args.words < 2 * SUBJECT + args.shingle:
            raise SystemExit("synthesize: error: shares from 0, at most 0.8 in all; 0 < jaccard < 1; more words")
        self.edges = np.cumsum([1 - sum(shares), *shares])[:-1]
        grams = args.words - args.shingle + 1
        self.changed = int(grams * (1 - args.jaccard) / (1 + args.jaccard) + 1e-9)
        self.reached = (grams - self.changed) / (grams + self.changed)

    def share(self, rows: Numbers, name: int) -> npt.NDArray[np.float64]:
        """Uniform number in [0, 1) of each row."""
        return (mix(self.seed, name, rows) >> np.uint64(11)).astype(np.float64) / 2**53

    def split(self, rows: Numbers) -> npt.NDArray[np.int64]:
        """Split of rows that copy none: 0 train, 1 dev, 2 test."""
        held = self.args.held_out
        return np.searchsorted([1 - held, 1 - held / 2], self.share(rows, 2), side="right")

    def drawn(self, rows: Numbers) -> npt.NDArray[np.int64]:
        """Role that a row would like."""
        return np.searchsorted(self.edges, self.share(rows, 1), side="right")

    def settle(self, rows: Numbers) -> tuple[npt.NDArray[np.int64], Numbers]:
        """Role and original of each row: an earlier plain row, held out for a leak; without one the row is plain."""
        role, of = self.drawn(rows), rows.copy()
        open_ = np.flatnonzero((role > 0) & (rows > 0))
        role[rows == 0] = 0
        for trial in range(TRIES):
            if not len(open_):
                break
            candidate = mix(self.seed, 3, trial, rows[open_]) % rows[open_]
            leak = (role[open_] == 3) | (role[open_] == 4)
            fits = (self.drawn(candidate) == 0) | (candidate == 0)
            fits &= ~leak | (self.split(candidate) > 0)
            of[open_[fits]] = candidate[fits]
            open_ = open_[~fits]
        role[open_] = 0
        return role, of

    def words(self, rows: Numbers, role: npt.NDArray[np.int64], of: Numbers) -> tuple[Numbers, Numbers]:
        """Word numbers of both texts [n, ASKED + SUBJECT] and [n, words]; no word stands twice in a text."""
        copies = (role >= 1) & (role <= 4)
        own, root = np.where(copies, of, rows)[:, None], np.where(role > 0, of, rows)[:, None]
        place = np.arange(SUBJECT, dtype=np.uint64)[None, :]
        subject = mix(self.seed, 4, root, place)
        hard = role == 6
        subject[hard, 0] = mix(self.seed, 4, rows[hard], 0)
        topic = mix(self.seed, 5, mix(self.seed, 6, root) % np.uint64(TOPICS), place)
        asked = np.concatenate([subject, topic, self._filler(7, own, ASKED - SUBJECT)], axis=1)
        told = np.concatenate([subject, topic, self._filler(8, own, self.args.words - 2 * SUBJECT)], axis=1)
        near = (role == 2) | (role == 4)
        if self.changed:
            told[near, -self.changed :] = self._filler(9, rows[near][:, None], self.changed)
        return self._placed(asked), self._placed(told)

    def _filler(self, name: int, rows: Numbers, count: int) -> Numbers:
        return mix(self.seed, name, rows, np.arange(count, dtype=np.uint64)[None, :])

    def _placed(self, hashed: Numbers) -> Numbers:
        """Words of each place come from a part of the vocabulary of its own, the same in both texts."""
        part = WORDS // self.args.words
        return hashed % np.uint64(part) + np.arange(hashed.shape[1], dtype=np.uint64)[None, :] * np.uint64(part)


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
    role, of = plan.settle(rows)
    asked, told = plan.words(rows, role, of)
    loud = (role == 1) | (role == 3)
    split = np.where((role == 3) | (role == 4), 0, plan.split(np.where(role > 0, of, rows)))
    ids = pc.binary_join_element_wise("r", pc.cast(pa.array(rows), pa.string()), "")
    left, right = TEXTS[kind]
    columns = {
        "id": ids,
        left: sentences(asked, vocabulary, loud),
        right: sentences(told, vocabulary, loud),
        "relevance": pa.array((1 + mix(plan.seed, 10, of) % np.uint64(3)).astype(np.int32)),
        "split": pa.array(SPLITS[split]),
    }
    if kind == "products":
        topic = mix(plan.seed, 6, np.where(role > 0, of, rows)) % np.uint64(TOPICS)
        levels = [(topic % np.uint64(n)).astype(np.int32) for n in (11, 77)]
        words = [vocabulary.take(pa.array(level)) for level in (*levels, topic.astype(np.int32))]
        columns["category"] = pc.binary_join_element_wise(*words, " > ")
    planted = role > 0
    jaccard = np.where((role == 2) | (role == 4), plan.reached, np.where(role <= 4, 1.0, np.nan))[planted]
    kinds = np.array(ROLES)[role[planted]]
    truth = [pa.array(kinds), pa.array(rows[planted].astype(np.int64)), pa.array(of[planted].astype(np.int64))]
    return pa.table(columns), pa.table([*truth, pa.array(jaccard, pa.float32(), from_pandas=True)], schema=TRUTH)


def json_lines(table: pa.Table) -> bytes:
    """Rows as JSON lines; nothing in them needs an escape."""
    parts: list[pa.Array | str] = []
    before = "{"
    for field in table.schema:
        quote = '"' if pa.types.is_string(field.type) else ""
        parts += [f'{before}"{field.name}": {quote}', pc.cast(table[field.name], pa.string())]
        before = f"{quote}, "
    rows = pc.binary_join_element_wise(*parts, before.removesuffix(", ") + "}\n", "").combine_chunks()
    whole = pa.ListArray.from_arrays([0, len(rows)], rows)
    return bytes(pc.binary_join(whole, "")[0].as_buffer())


def arguments() -> argparse.Namespace:
    """Flags of the command line."""
    parser = argparse.ArgumentParser(prog="python -m scripts.synthesize", description=__doc__.splitlines()[0])
    parser.add_argument("out", help="a directory: rows/, truth/ and plan.json")
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--kind", choices=sorted(TEXTS), default="qa")
    parser.add_argument("--format", choices=["parquet", "jsonl"], default="parquet")
    parser.add_argument("--rows-per-shard", type=int, default=250_000)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes; the rows are the same")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--words", type=int, default=36, help="words of an answer or description")
    parser.add_argument("--shingle", type=int, default=3, help="words of a shingle, for the Jaccard that is planted")
    parser.add_argument("--jaccard", type=float, default=0.8, help="least Jaccard of a near-duplicate")
    parser.add_argument("--held-out", type=float, default=0.1, help="share of dev and test together")
    for name, share in (("duplicates", 0.05), ("near", 0.05), ("leaks", 0.01), ("false-negatives", 0.02)):
        parser.add_argument(f"--{name}", type=float, default=share, help="share of the rows")
    parser.add_argument("--hard-negatives", type=float, default=0.02, help="share of the rows")
    return parser.parse_args()


def write(args: argparse.Namespace, shard: int) -> dict[str, int]:
    """Write one shard of rows and its truth; return how many rows of each kind are planted in it."""
    plan, known, out = Plan(args), vocabulary(), Path(args.out)
    begin = shard * args.rows_per_shard
    end = min(begin + args.rows_per_shard, args.rows)
    made = [make(plan, first, min(first + CHUNK, end), known, args.kind) for first in range(begin, end, CHUNK)]
    rows, truth = (pa.concat_tables(part) for part in zip(*made, strict=True))
    if args.format == "parquet":
        pq.write_table(rows, out / "rows" / f"part-{shard:05d}.parquet", compression="lz4", row_group_size=65_536)
    else:
        (out / "rows" / f"part-{shard:05d}.jsonl").write_bytes(b"".join(json_lines(part) for part, _ in made))
    pq.write_table(truth, out / "truth" / f"part-{shard:05d}.parquet", compression="lz4")
    return {found["values"]: found["counts"] for found in pc.value_counts(truth["kind"]).to_pylist()}


def main() -> None:
    """Write shards of rows, their truth, and what was planted."""
    args, start = arguments(), time.perf_counter()
    plan, out = Plan(args), Path(args.out)
    for name in ("rows", "truth"):
        (out / name).mkdir(parents=True, exist_ok=True)
    shards = range(-(-args.rows // args.rows_per_shard))
    if min(args.workers, len(shards)) > 1:
        with ProcessPoolExecutor(args.workers, get_context("spawn")) as pool:
            planted = list(pool.map(partial(write, args), shards))
    else:
        planted = [write(args, shard) for shard in shards]
    counts = {kind: sum(found.get(kind, 0) for found in planted) for kind in ROLES[1:]}
    seconds = time.perf_counter() - start
    facts = {name: value for name, value in vars(args).items() if name not in ("out", "workers")}
    facts |= {"planted": counts, "near_jaccard": plan.reached, "words_replaced": plan.changed}
    (out / "plan.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    sys.stderr.write(f"synthesize: {args.rows:,} rows in {seconds:.1f} s, {args.rows / seconds:,.0f} rows/s\n")


if __name__ == "__main__":
    main()
