"""Measure documents of thousands of tokens as passages: `python -m scripts.bench.long_documents [--quick]`.

Real texts are joined until a document has so many tokens, and a sentence of it is its query. A static model, distilled
from the sample's, embeds their passages, so that the jobs around the model are what is measured. Each of `--documents`
numbers of documents is built, embedded, indexed with BM25 and evaluated by the commands, and then searched for the
queries one by one, dense and with BM25 mixed in. Memory is that of a command and all that it starts. Writes
{out}/long_documents.json: a list of {name, ours, peer, unit, ratio, goal, met}; the peer of memory is the same job
with the fewest documents.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from pipeline.encoder.distillation import distill
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.encoder.model_directory import SAMPLE_MODEL
from pipeline.search.query import Searcher
from scripts.bench.harness import SETS, update_rows
from scripts.bench.memory import Memory

ROOT = Path(__file__).resolve().parents[2]
POOL_CHARACTERS, PART_ROWS = 20_000_000, 1_000
MIX = {"type": "mix"}


def pool_of_texts(data: str) -> list[str]:
    """Texts of the corpora up to `POOL_CHARACTERS`, each a sentence or more."""
    pool, size = list[str](), 0
    for folder in SETS.values():
        for text in pq.read_table(Path(data) / folder / "corpus.parquet", columns=["text"])["text"].to_pylist():
            if size >= POOL_CHARACTERS:
                return pool
            if text and len(text) > 100:
                pool.append(" ".join(text.split()))
                size += len(text)
    return pool


def long_documents(pool: list[str], documents: int, characters: int) -> Iterator[dict[str, str]]:
    """Documents of about so many characters, each of parts of texts in an order of its own."""
    draw = random.Random(13)
    for number in range(documents):
        parts, size = [], 0
        while size < characters:
            text = draw.choice(pool)
            start = draw.randrange(max(1, len(text) - 500))
            parts.append(text[start : start + 600])
            size += len(parts[-1])
        yield {"doc_id": f"d{number}", "title": "", "text": ". ".join(parts)}


def write_set(folder: Path, pool: list[str], documents: int, characters: int, queries: int) -> None:
    """Write a corpus, and as queries of two splits some words from the middle of some documents."""
    folder.mkdir(parents=True, exist_ok=True)
    every, questions = max(1, documents // queries), []
    rows: list[dict[str, str]] = []
    with pq.ParquetWriter(folder / "corpus.parquet", pa.schema([(n, pa.string()) for n in COLUMNS])) as writer:
        for number, document in enumerate(long_documents(pool, documents, characters)):
            rows.append(document)
            if number % every == 0:
                middle = len(document["text"]) // 2
                words = document["text"][middle : middle + 160].split()[1:-1]
                questions.append({"query_id": f"q{number}", "doc_id": document["doc_id"], "text": " ".join(words)})
            if len(rows) == PART_ROWS or number == documents - 1:
                writer.write_table(pa.Table.from_pylist(rows))
                rows = []
    for split, part in (("dev", questions[::2]), ("train", questions[1::2])):
        table = pa.Table.from_pylist(part)
        pq.write_table(table.select(["query_id", "text"]), folder / f"queries.{split}.parquet")
        judged = table.select(["query_id", "doc_id"]).append_column("relevance", pa.array([1] * len(part)))
        pq.write_table(judged, folder / f"qrels.{split}.parquet")


COLUMNS = ("doc_id", "title", "text")


class Bench:
    """Runs the jobs on one number of documents after the other and collects the rows of the report."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.work, self.rows = options, Path(options.work).resolve(), list[dict[str, Any]]()
        self.smallest: dict[str, float] = {}

    def static_model(self) -> str:
        """A static model out of the sample model, made once."""
        folder = self.work / "static"
        if not folder.exists():
            distill(Encoder.load(EncoderConfig(model=SAMPLE_MODEL), "cpu"), 256, "embeddings").save(folder)
        return str(folder)

    def job(self, name: str, settings: dict[str, Any], home: Path) -> tuple[float, float]:
        """Run a command; return its seconds and the most MiB of all its processes together."""
        recipe = home / f"{name}.yaml"
        recipe.write_text(yaml.safe_dump({"run": str(home), **settings}), encoding="utf-8")
        command = [sys.executable, "-m", f"scripts.{name}", "--config", str(recipe)]
        started = time.monotonic()
        with (home / f"{name}.log").open("w") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
            with Memory(process.pid) as memory:
                process.wait()
        if process.returncode:
            raise SystemExit(f"bench_long_documents: {name} failed\n{(home / f'{name}.log').read_text()[-3000:]}")
        return time.monotonic() - started, memory.peak

    def add(self, name: str, ours: float, unit: str, peer: float | None = None, goal: str = "") -> None:
        """Add a row; a goal is on the ratio to the peer."""
        ratio = ours / peer if peer else None
        met = ratio <= float(goal.split()[1]) if ratio is not None and goal else None
        row = {"name": name, "ours": ours, "peer": peer, "unit": unit, "ratio": ratio, "goal": goal, "met": met}
        self.rows.append(row)
        beside = "" if ratio is None else f", {ratio:.2f} times that of the fewest documents"
        print(f"  {name}: {ours:,.4g} {unit}{beside}", flush=True)

    def measure(self, documents: int, pool: list[str]) -> None:
        """All jobs on one number of documents, and searches."""
        options, home = self.options, self.work / str(documents)
        if not (home / "set").exists():
            write_set(home / "set", pool, documents, options.characters, options.queries)
        encoder = {"model": self.static_model(), "max_length": 128}
        source = {"type": "parquet", "name": "long", "path": "set"}
        jobs: dict[str, dict[str, Any]] = {
            "build": {"root": str(home), "sources": [source]},
            "embed": {"encoder": encoder, "passages": {"tokens": 128}, "max_actors": 1},
            "index": {"bm25": True, "index": {"type": "flat"}},
            "evaluate": {"models": {"static": encoder}, "split": "dev", "passages": {"tokens": 128}, "variants": None},
        }
        for name, settings in jobs.items():
            seconds, peak = self.job(name, settings, home)
            self.add(f"{name}, {documents:,} documents", seconds, "s")
            goal = "<= 1.5" if name in ("embed", "evaluate") and name in self.smallest else ""
            self.add(f"memory, {name}, {documents:,} documents", peak, "MiB", self.smallest.get(name), goal)
            self.smallest.setdefault(name, peak)
        passages = json.loads((home / "vectors" / "manifest.json").read_text())["tables"]["vectors"]["rows"]
        self.add(f"passages of {documents:,} documents", passages, "rows")
        figures = json.loads((home / "report" / "metrics.json").read_text())["models"]
        for name, scores in figures.items():
            self.add(f"ndcg@10, {name}, {documents:,} documents", scores["ndcg@10"], "ndcg@10")
        self.search(home, documents, passages)

    def search(self, home: Path, documents: int, passages: int) -> None:
        """Latency of single searches in this process, and what opening the index adds to its memory."""
        queries = pq.read_table(home / "set" / "queries.dev.parquet")["text"].to_pylist()[: self.options.searches]
        for name, system in (("dense", "dense"), ("mix", MIX)):
            before, started = psutil.Process().memory_full_info().uss, time.monotonic()
            searcher = Searcher(str(home / "index"), system=system)
            searcher(queries[0])
            self.add(f"opening, {name}, {passages:,} passages", time.monotonic() - started, "s")
            spans = []
            for query in queries:
                start = time.monotonic()
                searcher(query)
                spans.append(1_000 * (time.monotonic() - start))
            label = f"search, {name}, {passages:,} passages of {documents:,} documents"
            self.add(f"{label}, median", statistics.median(spans), "ms")
            self.add(f"{label}, 95th of 100", statistics.quantiles(spans, n=20)[-1], "ms")
            self.add(f"{label}, memory", (psutil.Process().memory_full_info().uss - before) / 2**20, "MiB")
            del searcher


def flags() -> argparse.Namespace:
    """Read the command line."""
    near = os.environ.get("TRIPLETAIL_DATA") or str(ROOT.parent / "shared" / "data")
    parser = argparse.ArgumentParser("python -m scripts.bench.long_documents", description=__doc__)
    parser.add_argument("--documents", nargs="+", type=int, default=[10_000, 100_000], help="numbers of documents")
    parser.add_argument("--characters", type=int, default=9_000, help="of a document; about 4.5 a token")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--searches", type=int, default=200, help="queries that are searched one by one")
    parser.add_argument("--data", default=near, help="directory of the corpora")
    parser.add_argument("--work", default="runs/long_documents", help="directory of corpora and runs")
    parser.add_argument("--out", default="runs/bench", help="directory of long_documents.json")
    parser.add_argument("--quick", action="store_true", help="50 and 200 documents: does it run")
    options = parser.parse_args()
    if options.quick:
        options.documents, options.queries, options.searches = [50, 200], 20, 20
    return options


def main() -> None:
    """Measure and write the report after each number of documents."""
    options = flags()
    bench = Bench(options)
    bench.work.mkdir(parents=True, exist_ok=True)
    pool = pool_of_texts(options.data)
    for documents in options.documents:
        print(f"{documents:,} documents", flush=True)
        bench.measure(documents, pool)
        update_rows(Path(options.out) / "long_documents.json", bench.rows)


if __name__ == "__main__":
    main()
