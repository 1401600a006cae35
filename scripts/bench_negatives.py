"""What mined negatives are worth: `python -m scripts.bench_negatives --root DATA [--sets ...] [--steps N] [--quick]`.

The shipped recipe of each set is trained with the same steps, rows and seeds on pairs alone (none), on the nearest
documents that are not known to be right (naive), on what the default rule leaves of them (mined), and with BM25 beside
the vectors as candidates and as second opinion (words). Queries are paired over all seeds and tested by permutation.
Every job is one of the project's own and resumes, so the same command goes on after a kill. Writes
{out}/negatives.json.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from pipeline.artifact import Artifact
from pipeline.config import answering, load_recipe
from pipeline.significance import permutation_test

ROOT = Path(__file__).resolve().parent.parent
SETS, METRIC = ("covidqa", "medquad", "movies", "debian"), "ndcg@10"
NAIVE = {"rule": {"max_percentage": None}, "exclude": {"same_text": False, "same_cluster": False}}
WORDS = {"lexical": {}, "rule": {"max_lexical_percentage": 0.95}}
ARMS: dict[str, dict[str, Any] | None] = {"none": None, "naive": NAIVE, "mined": {}, "words": WORDS}
Values = npt.NDArray[np.float64]


class Bench:
    """Runs the jobs of one set."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.options, self.folder = options, Path(options.run) / name
        self.recipe = load_recipe(str(ROOT / "scripts" / "recipes" / f"{name}.yaml"))
        self.encoder = {
            **self.recipe["train"].get("encoder", {}),
            **({"layers": options.layers} if options.layers else {}),
        }

    def job(self, job: str, settings: dict[str, Any], name: str, *more: str) -> None:
        """Run one job with a recipe of its own; a finished one returns at once."""
        path = self.folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        subprocess.run([sys.executable, "-m", f"scripts.{job}", "--config", str(path), *more], cwd=ROOT, check=True)

    def prepare(self) -> None:
        """Build the set, and mine for the arms that have negatives."""
        build = {"run": str(self.folder), "root": self.options.root, **self.recipe["build"]}
        self.job("build", build, "build")
        for arm, settings in ARMS.items():
            if settings is not None:
                own = {"encoder": self.encoder, "cache": str(self.folder / "vectors"), **settings}
                place = {"run": str(self.folder), "out": str(self.folder / f"negatives-{arm}")}
                self.job("mine", place | own, f"mine-{arm}")

    def train(self, arm: str, seed: int) -> Values:
        """Train one arm with one seed and measure it: the metric of each query."""
        options, name = self.options, f"{arm}-{seed}"
        train = self.recipe["train"] | {"encoder": self.encoder, "data": str(self.folder / "data")}
        loop = {**train.get("loop", {}), "max_steps": options.steps, "batch_size": options.batch_size, "seed": seed}
        train |= {"run": str(self.folder / name), "loop": loop, "rows": ["pairs"]}
        if ARMS[arm] is not None:
            train |= {"rows": ["mined"], "max_negatives": options.negatives}
            train |= {"negatives": str(self.folder / f"negatives-{arm}")}
        self.job("train", train, f"{name}/train")
        asked = {"max_queries": options.max_queries, **self.recipe["evaluate"]}
        evaluate = asked | {"run": str(self.folder / name), "data": str(self.folder / "data"), "bm25": False}
        self.job("evaluate", evaluate, f"{name}/evaluate")
        table = Artifact.open(str(self.folder / name / "report"), "evaluate").read("per_query").to_pandas()
        held = table[table["model"] == "tuned"].sort_values("query_id")
        values: Values = held[METRIC].to_numpy(np.float64)
        return values


def compare(name: str, found: dict[str, list[Values]]) -> list[dict[str, Any]]:
    """Rows of the report: each arm's mean, and the test of mined against the others over all seeds' queries."""
    every = {arm: np.concatenate(values) for arm, values in found.items()}
    rows = []
    for arm, peer in (("mined", "none"), ("mined", "naive"), ("words", "none"), ("words", "mined")):
        ours, theirs = every[arm], every[peer]
        rows.append(
            {
                "name": f"{METRIC}, {name}, {arm} against {peer}",
                "ours": float(ours.mean()), "peer": float(theirs.mean()), "unit": METRIC,
                "ratio": float(ours.mean() / theirs.mean()), "goal": ">= 1", "met": bool(ours.mean() >= theirs.mean()),
                "p": permutation_test(ours, theirs), "seeds": len(found[arm]),
                "by_seed": {arm: [float(one.mean()) for one in values] for arm, values in found.items()},
            }
        )  # fmt: skip
    return rows


def flags() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m scripts.bench_negatives", description=__doc__)
    parser.add_argument("--root", required=True, help="where relative paths of the recipes start")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
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
    """Run all arms of all sets and write what came of them, set by set."""
    options = flags()
    rows: list[dict[str, Any]] = []
    target = Path(options.out) / "negatives.json"
    with answering("bench_negatives"):
        for name in options.sets:
            bench = Bench(name, options)
            bench.prepare()
            found = {arm: [bench.train(arm, seed) for seed in options.seeds] for arm in ARMS}
            rows += compare(name, found)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
            for row in rows[-4:]:
                print(f"{row['name']}: {row['ours']:.4f} against {row['peer']:.4f}, p {row['p']:.4f}", flush=True)


if __name__ == "__main__":
    main()
