"""Kill every job of a run and go on: `python -m scripts.drills.jobs [--kills N] [--seed S] [--rows R]`.

A small corpus is built, mined, trained on, embedded and evaluated undisturbed. Then, for each kill, one of these jobs
is run again upon the undisturbed results of those before it, and its driver is killed by SIGKILL at a random moment;
in every second kill two drivers have been given the same command at once, and one of them is killed. What the command,
given again, or the other driver leaves must equal the undisturbed result: rows, vectors, weights bit for bit, scores.
One local Ray cluster serves all drivers. Exits with 1 where anything differs.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.storage.artifact import Artifact
from scripts.drills.data import THINGS

ROOT = Path(__file__).resolve().parents[2]
JOBS = ("build", "mine", "train", "embed", "evaluate")
OUTPUTS = {"build": ["data"], "mine": ["negatives"], "train": ["training", "rows", "model"]}
OUTPUTS |= {"embed": ["vectors"], "evaluate": ["report"]}
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1", "HF_HUB_OFFLINE": "1"}
LIMIT_S = 900.0  # of one job
ENCODER = {"layers": 1, "max_length": 24}
SETTINGS: dict[str, dict[str, Any]] = {
    "build": {"near_duplicates": {}, "buckets": 3, "block_bytes": 20_000},
    "mine": {"encoder": ENCODER, "top_k": 20, "rule": {"num_negatives": 2}, "rows_per_shard": 64},
    "train": {
        "encoder": ENCODER,
        "rows": ["mined"],
        "workers": 2,
        "loop": {"batch_size": 32, "validations": 1, "log_every": 1},
        "checkpoints": {"steps": 2},
    },
    "embed": {"encoder": {"max_length": 24}, "rows_per_shard": 64},
    "evaluate": {"split": "test"},
}


@dataclass(frozen=True)
class Kill:
    """What happened in one kill, for the table."""

    job: str
    drivers: int
    after_s: float
    happened: str
    equal: bool


class Drill:
    """A corpus and a Ray cluster, and runs upon them below `folder`."""

    def __init__(self, folder: Path, rows: int, address: str) -> None:
        self.folder, self.address = folder, address
        with (folder / "faq.jsonl").open("w", encoding="utf-8") as file:
            for row in faq(rows):
                file.write(json.dumps(row) + "\n")

    def start(self, job: str, run: Path) -> subprocess.Popen[bytes]:
        """Give a job's command, in a process group of its own."""
        environment = os.environ | QUIET | {"RAY_ADDRESS": self.address}
        with (self.folder / "log").open("ab") as log:
            streams = {"stdout": log, "stderr": log, "start_new_session": True}
            return subprocess.Popen(self.command(job, run), cwd=ROOT, env=environment, **streams)

    def command(self, job: str, run: Path) -> list[str]:
        """Write the recipe of a job; returns its command."""
        recipe = self.folder / f"{job}.json"
        settings = SETTINGS[job]
        if job == "build":
            source = {"type": "jsonl", "kind": "qa", "path": str(self.folder / "faq.jsonl")}
            settings = {**settings, "sources": [source]}
        recipe.write_text(json.dumps(settings), encoding="utf-8")
        return [sys.executable, "-m", f"scripts.{job}", "--config", str(recipe), "--run", str(run)]

    def finish(self, process: subprocess.Popen[bytes]) -> str:
        """Wait for a driver; returns what went wrong with it, empty for nothing."""
        try:
            code = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return f"did not end within {LIMIT_S:.0f} s"
        return "" if code == 0 else f"ended with {code}:\n{(self.folder / 'log').read_text()[-2000:]}"

    def undisturbed(self, run: Path) -> tuple[dict[str, float], dict[str, Any]]:
        """Run all jobs once; returns how long each took, and what it left."""
        seconds, left = {}, {}
        for job in JOBS:
            begun = time.monotonic()
            if wrong := self.finish(self.start(job, run)):
                raise SystemExit(f"drill jobs: undisturbed {job} {wrong}")
            seconds[job], left[job] = time.monotonic() - begun, RESULTS[job](run)
            print(f"undisturbed {job}: {seconds[job]:.0f} s", flush=True)
        return seconds, left

    def kill(self, job: str, before: Path, run: Path, drivers: int, after_s: float) -> str:
        """Run a job upon the results of the jobs before it, kill one of its drivers, and let it end; what happened."""
        for earlier in JOBS[: JOBS.index(job)]:
            for name in OUTPUTS[earlier]:
                shutil.copytree(before / name, run / name)
        processes = [self.start(job, run) for _ in range(drivers)]
        deadline = time.monotonic() + after_s
        while time.monotonic() < deadline and all(process.poll() is None for process in processes):
            time.sleep(0.01)
        victim, others = processes[0], processes[1:]
        early = victim.poll() is not None
        os.killpg(victim.pid, signal.SIGKILL) if not early else None
        victim.wait()
        wrong = [self.finish(process) for process in others] or [self.finish(self.start(job, run))]
        if any(wrong):
            return f"FAILED: {' '.join(wrong)}"
        return "ended before the kill" if early else "killed"


def faq(rows: int) -> list[dict[str, str]]:
    """Questions and answers of drawn words, a few of them shared by a question and its answer alone."""
    draw = random.Random(0)
    letters = "bdfgklmnprstvz"
    words = ["".join(draw.choice(letters) + draw.choice("aeiou") for _ in range(3)) for _ in range(600)]
    texts = []
    for number in range(rows):
        about = [*draw.sample(words, 3), f"{THINGS[number % len(THINGS)]}{number}"]
        question, answer = (" ".join(draw.sample(about + draw.sample(words, 6), 10)) for _ in range(2))
        texts.append({"id": f"r{number}", "question": f"{question}?", "answer": f"{answer}."})
    return texts


def tables(path: Path, kind: str) -> dict[str, Any]:
    """Digests of the rows of every table, and what was dropped."""
    artifact = Artifact.open(str(path), kind)
    content: dict[str, Any] = {"dropped": artifact.manifest.dropped}
    for name in artifact.manifest.tables:
        rows = sorted(json.dumps(row, sort_keys=True) for row in artifact.read(name).to_pylist())
        content[name] = [len(rows), hashlib.sha256("\n".join(rows).encode()).hexdigest()]
    return content


def weights(run: Path) -> dict[str, Any]:
    """Digests of the files of the model that decide a vector."""
    names = ("model.safetensors", "tokenizer.json", "1_Pooling/config.json", "sentence_bert_config.json")
    return {name: hashlib.sha256((run / "model" / name).read_bytes()).hexdigest() for name in names}


def scores(run: Path) -> dict[str, Any]:
    """Scores of every model, and the rankings."""
    metrics = json.loads((run / "report" / "metrics.json").read_text(encoding="utf-8"))
    return {"models": metrics["models"], "comparisons": metrics["comparisons"], **tables(run / "report", "evaluate")}


RESULTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "build": lambda run: tables(run / "data", "build"),
    "mine": lambda run: tables(run / "negatives", "mine"),
    "train": weights,
    "embed": lambda run: tables(run / "vectors", "embed"),
    "evaluate": scores,
}


def kill_again_and_again(drill: Drill, options: argparse.Namespace) -> list[Kill]:
    """Run undisturbed, then kill as often as asked, the jobs in turn."""
    before, kills = drill.folder / "undisturbed", list[Kill]()
    seconds, expected = drill.undisturbed(before)
    draw = random.Random(options.seed)
    for number in range(options.kills):
        job, drivers = JOBS[number % len(JOBS)], 1 + number // len(JOBS) % 2
        after_s, run = draw.uniform(0.05, 0.95) * seconds[job], drill.folder / f"run{number}"
        happened = drill.kill(job, before, run, drivers, after_s)
        equal = not happened.startswith("FAILED") and RESULTS[job](run) == expected[job]
        kills.append(Kill(job, drivers, after_s, happened, equal))
        result = "equal" if equal else "DIFFERENT"
        print(f"{number + 1:3} {job:9} {drivers} driver(s), after {after_s:5.1f} s: {happened}: {result}", flush=True)
        shutil.rmtree(run)
    return kills


def flags() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m scripts.drills.jobs", description=__doc__)
    parser.add_argument("--kills", type=int, default=40, help="the jobs take turns; in every second turn two drivers")
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Kill, compare and print a table."""
    import ray

    options = flags()
    os.environ.update(QUIET)
    with tempfile.TemporaryDirectory(prefix="drill-", dir="/tmp", ignore_cleanup_errors=True) as name:
        context = ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, _temp_dir=f"{name}/ray")
        try:
            kills = kill_again_and_again(Drill(Path(name), options.rows, context.address_info["address"]), options)
        finally:
            ray.shutdown()
    for job in JOBS:
        of_job = [kill for kill in kills if kill.job == job]
        two = sum(kill.drivers == 2 for kill in of_job)
        print(f"{job:9} {len(of_job)} kills, {two} with two drivers, {sum(kill.equal for kill in of_job)} equal")
    equal = sum(kill.equal for kill in kills)
    print(f"drill jobs: {equal} of {len(kills)} results equal the undisturbed one")
    sys.exit(0 if equal == len(kills) else 1)


if __name__ == "__main__":
    main()
