"""Measure what mined negatives are worth in training: `python -m scripts.bench.negatives --root DATA [--quick]`.

The shipped recipe of each set is trained with the same steps, rows and seeds on pairs alone (none), on the nearest
documents that are not known to be right (naive), on what the default rule leaves of them (mined), and with BM25 beside
the vectors as candidates and as second opinion (words). All models of a set rank one corpus in one evaluation. A
query's metric is its mean over the seeds; queries are tested in pairs by permutation. `--share` keeps a part of large
sets. Every job is one of the project's own and resumes, so the same command goes on after a kill, or with more arms.
Writes {out}/negatives.json.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from xxhash import xxh3_64_intdigest

from pipeline.core.config import exit_on_user_error, load_recipe
from pipeline.encoder.config import EncoderConfig
from pipeline.metrics.significance import permutation_test
from pipeline.storage.artifact import Artifact

ROOT = Path(__file__).resolve().parents[2]
SETS, METRIC = ("covidqa", "medquad", "movies", "debian"), "ndcg@10"
NAIVE = {"rule": {"max_percentage": None}, "exclude": {"same_text": False, "same_cluster": False}}
WORDS = {"lexical": {}, "rule": {"max_lexical_percentage": 0.95}}
ARMS: dict[str, dict[str, Any] | None] = {"none": None, "naive": NAIVE, "mined": {}, "words": WORDS}
TESTS = (("mined", "none"), ("mined", "naive"), ("words", "none"), ("words", "naive"), ("words", "mined"))
Values = npt.NDArray[np.float64]


def reduced(folder: Path, group: str, share: float, out: Path) -> None:
    """Copy a folder of Parquet files: a share of its documents, in whole groups, with their queries and judgments."""

    def chosen(values: pa.ChunkedArray) -> pa.Array:
        return pa.array([xxh3_64_intdigest(str(value).encode()) < share * 2**64 for value in values.to_pylist()])

    out.mkdir(parents=True, exist_ok=True)
    tables = {path.name: pq.read_table(path) for path in sorted(folder.glob("*.parquet"))}
    corpus = tables["corpus.parquet"].filter(chosen(tables["corpus.parquet"][group]))
    tables["corpus.parquet"] = corpus
    for name, table in tables.items():
        if "doc_id" in table.column_names:
            tables[name] = table.filter(pc.is_in(table["doc_id"], corpus["doc_id"].combine_chunks()))
    for name, table in tables.items():
        if name.startswith("queries."):
            query_ids = tables[name.replace("queries", "qrels")]["query_id"].combine_chunks()
            tables[name] = table.filter(pc.is_in(table["query_id"], query_ids))
        pq.write_table(tables[name], out / name)


class Bench:
    """Runs the jobs of one set."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.options, self.folder, self.root = options, Path(options.run) / name, options.root
        self.recipe = load_recipe(str(ROOT / "scripts" / "recipes" / f"{name}.yaml"))
        self.encoder = {
            **self.recipe["train"].get("encoder", {}),
            **({"layers": options.layers} if options.layers else {}),
        }
        self.share = float(dict(text.split("=") for text in options.share).get(name, 1))

    def job(self, job: str, settings: dict[str, Any], name: str, *more: str) -> None:
        """Run one job with a recipe of its own; a finished one returns at once."""
        path = self.folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        subprocess.run([sys.executable, "-m", f"scripts.{job}", "--config", str(path), *more], cwd=ROOT, check=True)

    def prepare(self) -> None:
        """Build the set, and mine for the arms that have negatives."""
        if self.share < 1:
            (source,) = self.recipe["build"]["sources"]
            self.root = str((self.folder / "source").resolve())
            original, out = Path(self.options.root) / source["path"], Path(self.root) / source["path"]
            reduced(original, source.get("group", "doc_id"), self.share, out)
        self.job("build", {"run": str(self.folder), "root": self.root, **self.recipe["build"]}, "build")
        for arm in self.options.arms:
            settings = ARMS[arm]
            if settings is not None:
                mining = {"encoder": self.encoder, "cache": str(self.folder / "vectors"), **settings}
                paths = {"run": str(self.folder), "out": str(self.folder / f"negatives-{arm}")}
                self.job("mine", paths | mining, f"mine-{arm}")

    def train(self, arm: str, seed: int) -> str:
        """Train one arm with one seed; returns the directory of the model."""
        options, name = self.options, f"{arm}-{seed}"
        train = self.recipe["train"] | {"encoder": self.encoder, "data": str(self.folder / "data")}
        loop = {**train.get("loop", {}), "max_steps": options.steps, "batch_size": options.batch_size, "seed": seed}
        loop.pop("epochs", None)
        train |= {"run": str(self.folder / name), "loop": loop, "rows": ["pairs"]}
        if ARMS[arm] is not None:
            train |= {"rows": ["mined"], "max_negatives": options.negatives}
            train |= {"negatives": str(self.folder / f"negatives-{arm}")}
        self.job("train", train, f"{name}/train")
        return str(self.folder / name / "model")

    def measure(self, models: dict[str, str]) -> dict[str, Values]:
        """Rank the corpus by every model: the metric of each query, in one order."""
        base = EncoderConfig.model_validate(self.encoder)
        evaluation = {
            "max_queries": self.options.max_queries,
            **self.recipe["evaluate"],
            "bm25": False,
            "variants": None,
        }
        encoders = {name: base.of_saved(directory).model_dump() for name, directory in models.items()}
        paths = {"run": str(self.folder), "out": str(self.folder / "report"), "overwrite": True}
        self.job("evaluate", {**paths, **evaluation, "models": encoders}, "evaluate")
        table = Artifact.open(str(self.folder / "report"), "evaluate").read("per_query").to_pandas()
        wide = table.pivot(index="query_id", columns="model", values=METRIC)
        return {name: wide[name].to_numpy(np.float64) for name in models}

    def per_query_metrics(self) -> dict[str, list[Values]]:
        """Prepare, train and measure; the metric of each query, by arm and seed."""
        self.prepare()
        names = {f"{arm}-{seed}": self.train(arm, seed) for arm in self.options.arms for seed in self.options.seeds}
        values = self.measure(names)
        return {arm: [values[f"{arm}-{seed}"] for seed in self.options.seeds] for arm in self.options.arms}


def compare(name: str, values_by_arm: dict[str, list[Values]]) -> list[dict[str, Any]]:
    """Rows of the report: means of both arms, and the paired test over queries, each the mean of its seeds."""
    mean = {arm: np.mean(values, axis=0) for arm, values in values_by_arm.items()}
    rows = []
    for arm, peer in TESTS:
        if {arm, peer} <= set(mean):
            ours, theirs = mean[arm], mean[peer]
            rows.append(
                {
                    "name": f"{METRIC}, {name}, {arm} against {peer}",
                    "ours": float(ours.mean()), "peer": float(theirs.mean()), "unit": METRIC,
                    "ratio": float(ours.mean() / theirs.mean()), "goal": ">= 1",
                    "met": bool(ours.mean() >= theirs.mean()), "p": permutation_test(ours, theirs),
                    "queries": len(ours),
                    "by_seed": {a: [float(seed.mean()) for seed in v] for a, v in values_by_arm.items()},
                }
            )  # fmt: skip
    return rows


def flags() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m scripts.bench.negatives", description=__doc__)
    parser.add_argument("--root", required=True, help="where relative paths of the recipes start")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--share", nargs="+", default=[], metavar="SET=SHARE", help="part of a set's documents to use")
    parser.add_argument("--seeds", nargs="+", type=int, default=[13, 14, 15])
    parser.add_argument("--steps", type=int, default=64, help="optimiser steps of every training")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--negatives", type=int, default=1, help="negatives a row")
    parser.add_argument("--max-queries", type=int, default=800)
    parser.add_argument("--layers", type=int, help="keep only the first layers of the model")
    parser.add_argument("--run", default="runs/negatives", help="directory of all jobs")
    parser.add_argument("--out", default="runs/bench", help="directory of negatives.json")
    parser.add_argument("--quick", action="store_true", help="one seed, 8 steps, two layers: does it run")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.steps, options.layers, options.max_queries = options.seeds[:1], 8, 2, 200
    return options


def main() -> None:
    """Run all arms of all sets and write the results, set by set."""
    options = flags()
    rows: list[dict[str, Any]] = []
    target = Path(options.out) / "negatives.json"
    with exit_on_user_error("bench_negatives"):
        for name in options.sets:
            new = compare(name, Bench(name, options).per_query_metrics())
            rows += new
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
            for row in new:
                print(f"{row['name']}: {row['ours']:.4f} against {row['peer']:.4f}, p {row['p']:.4f}", flush=True)


if __name__ == "__main__":
    main()
