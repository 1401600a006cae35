"""Compare a recipe without `loop` and `loss` with recipes by hand: `python -m scripts.bench.defaults --root DATA`.

Arms of each shipped set, each trained once a seed on what its recipe builds: `default` (no `loop`, no `loss`),
`recipe` (its own settings), `peer` (Sentence Transformers' trainer: MultipleNegativesRankingLoss, batches of 64
without duplicates, 5e-5, as many steps as fit into the seconds that the default's whole job took), and arms that
change one setting of the default, from which it was chosen. All models of a set rank its corpus by whole texts in one
evaluation on the dev split. A query's metric is its mean over the seeds; queries are tested in pairs by permutation,
the p-values of all sets corrected by Holm. Jobs resume, so the same command goes on after a kill, or with more sets,
seeds and arms. Prints a table and writes {out}/defaults.json.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.core.config import exit_on_user_error, load_recipe
from pipeline.metrics.significance import holm, permutation_test
from pipeline.storage.artifact import Artifact
from scripts.bench.harness import update_rows
from scripts.bench.systems import METRIC, ROOT, SETS, job

ONE_DIRECTION = {"directions": ["query_to_document"], "partition": "joint"}
VARIANTS: dict[str, dict[str, Any]] = {  # the default with one setting changed
    "default": {},
    "one_direction": {"loss": ONE_DIRECTION},
    "dropout": {"loop": {"dropout": None}},
    "learning_rate": {"loop": {"learning_rate": 1e-4}},
    "temperature": {"loss": {"temperature": 0.02}},
    "one_epoch": {"loop": {"epochs": 1}},
}
ARMS = (*VARIANTS, "recipe", "peer")
NOT_COMPARED = ("loop", "loss", "interpolation")  # what a recipe of an arm leaves to the default
PEER = "scripts.bench.workers.peer_training"
Values = npt.NDArray[np.float64]


class Bench:
    """Runs the jobs of one set."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.options, self.folder = options, (Path(options.run) / name).resolve()
        self.recipe = load_recipe(str(ROOT / "scripts" / "recipes" / f"{name}.yaml"))
        self.encoder = {**self.recipe["train"].get("encoder", {}), **({"layers": 1} if options.quick else {})}

    def prepare(self) -> None:
        """Build the set."""
        settings = {"run": str(self.folder), **self.recipe["build"], "root": self.options.root}
        job("build", settings, self.folder / "build.yaml")

    def train(self, arm: str, seed: int) -> str:
        """Train one arm with one seed; returns the directory of the model."""
        home = self.folder / f"{arm}-{seed}"
        if (home / "seconds.json").exists():
            return str(home / "model")
        started = time.monotonic()
        if arm == "peer":
            self._train_peer(home, seed)
        else:
            job("train", self._settings(arm, seed, home), home / "train.yaml")
        (home / "seconds.json").write_text(json.dumps(time.monotonic() - started), encoding="utf-8")
        return str(home / "model")

    def _settings(self, arm: str, seed: int, home: Path) -> dict[str, Any]:
        """Settings of the training of an arm."""
        train = self.recipe["train"]
        if arm != "recipe":
            train = {key: value for key, value in train.items() if key not in NOT_COMPARED} | VARIANTS[arm]
        loop = {**train.get("loop", {}), "seed": seed} | ({"max_steps": 2, "epochs": 1} if self.options.quick else {})
        same = {"run": str(home), "data": str(self.folder / "data"), "encoder": self.encoder}
        return train | same | {"loop": loop}

    def _train_peer(self, home: Path, seed: int) -> None:
        seconds = self.seconds("default", seed)
        settings = {"data": str(self.folder / "data"), "out": str(home / "model"), "seconds": seconds, "seed": seed}
        settings |= {"max_length": self.encoder["max_length"], "threads": os.cpu_count() or 1}
        home.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", PEER, json.dumps(settings)]
        with (home / "log").open("w") as log:
            subprocess.run(command, cwd=ROOT, check=True, stdout=log, stderr=subprocess.STDOUT)

    def seconds(self, arm: str, seed: int) -> float:
        """Seconds that the training of an arm took, all in all."""
        return float(json.loads((self.folder / f"{arm}-{seed}" / "seconds.json").read_text(encoding="utf-8")))

    def measure(self, models: dict[str, str]) -> dict[str, Values]:
        """Rank the corpus by every model and BM25: the metric of each query, in one order."""
        evaluation = {
            key: self.recipe["evaluate"][key] for key in ("split", "max_queries") if key in self.recipe["evaluate"]
        }
        encoders = {name: {"model": path, "max_length": self.encoder["max_length"]} for name, path in models.items()}
        paths = {"run": str(self.folder), "out": str(self.folder / "report"), "overwrite": True}
        settings = {**paths, **evaluation, "encoder": self.encoder, "models": encoders, "variants": None}
        job("evaluate", settings | ({"max_queries": 50} if self.options.quick else {}), self.folder / "evaluate.yaml")
        table = Artifact.open(str(self.folder / "report"), "evaluate").read("per_query").to_pandas()
        wide = table.pivot(index="query_id", columns="model", values=METRIC)
        return {name: wide[name].to_numpy(np.float64) for name in wide.columns}

    def by_arm(self) -> dict[str, list[Values]]:
        """Prepare, train and measure; the metric of each query, by arm and seed."""
        self.prepare()
        options = self.options
        models = {f"{arm}-{seed}": self.train(arm, seed) for seed in options.seeds for arm in options.arms}
        values = self.measure(models)
        trained = {arm: [values[f"{arm}-{seed}"] for seed in options.seeds] for arm in options.arms}
        return trained | {name: [of_queries] for name, of_queries in values.items() if name not in models}


def rows_of(name: str, bench: Bench, values: dict[str, list[Values]]) -> list[dict[str, Any]]:
    """Rows of the report of a set: the default beside each other arm, without the correction of p."""
    mean = {arm: np.mean(of_seeds, axis=0) for arm, of_seeds in values.items()}
    seconds = {
        arm: float(np.mean([bench.seconds(arm, seed) for seed in bench.options.seeds])) for arm in bench.options.arms
    }
    ours = mean["default"]
    return [
        {
            "name": f"{METRIC}, {name}, default against {arm}", "ours": float(ours.mean()), "peer": float(peer.mean()),
            "unit": METRIC, "ratio": float(ours.mean() / peer.mean()), "goal": ">= 1",
            "met": bool(ours.mean() >= peer.mean()), "p": permutation_test(ours, peer), "queries": len(ours),
            "by_seed": {one: [float(seed.mean()) for seed in values[one]] for one in ("default", arm)},
            "seconds": {one: seconds.get(one) for one in ("default", arm)},
        }
        for arm, peer in mean.items() if arm != "default"
    ]  # fmt: skip


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print the rows of all sets, with p corrected by Holm."""
    corrected = holm([row["p"] for row in rows])
    print("| comparison | default | other | p | p, Holm | seconds |\n|---|---|---|---|---|---|")
    for row, p in zip(rows, corrected, strict=True):
        spent = " / ".join("" if value is None else f"{value:.0f}" for value in row["seconds"].values())
        print(f"| {row['name']} | {row['ours']:.3f} | {row['peer']:.3f} | {row['p']:.4f} | {p:.4f} | {spent} |")


def flags() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m scripts.bench.defaults", description=__doc__)
    parser.add_argument("--root", required=True, help="where relative paths of the recipes start")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["default", "recipe", "peer"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[13, 14, 15])
    parser.add_argument("--run", default="runs/defaults", help="directory of all jobs")
    parser.add_argument("--out", default="runs/bench", help="directory of defaults.json")
    parser.add_argument("--quick", action="store_true", help="one layer, two steps: does it run")
    options = parser.parse_args()
    if "default" not in options.arms:
        parser.error("the arms need default, which the others are compared with")
    return options


def main() -> None:
    """Measure one set after the other; the table grows and is printed after each."""
    options, rows = flags(), list[dict[str, Any]]()
    with exit_on_user_error("bench_defaults"):
        for name in options.sets:
            bench = Bench(name, options)
            rows += rows_of(name, bench, bench.by_arm())
            update_rows(Path(options.out) / "defaults.json", rows)
            print_table(rows)


if __name__ == "__main__":
    main()
