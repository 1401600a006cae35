"""Kill builds and run them again: `python -m scripts.drills.build [--rows N] [--kills K] [--seed S]`.

At seeded moments the driver, or one of its Ray workers, is killed by SIGKILL. A killed driver's command is given again;
a killed worker is Ray's to replace. Every build must end as the uninterrupted one did: the same rows in every table,
the same drops, nothing left of what was staged. Exits with 1 where one does not.
"""

import argparse
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from pipeline.storage.artifact import Artifact

ROOT = Path(__file__).resolve().parents[2]
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}


class Drill:
    """One input, built again and again under `folder`."""

    def __init__(self, folder: Path, rows: int) -> None:
        self.folder = folder
        synthesize = [sys.executable, "-m", "scripts.synthesize", str(folder / "in"), "--rows", str(rows)]
        subprocess.run([*synthesize, "--format", "jsonl"], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
        source = {"type": "jsonl", "kind": "qa", "path": "rows/*.jsonl", "fields": {"split": "split"}}
        recipe: dict[str, Any] = {"root": str(folder / "in"), "sources": [source], "pairs": {"title_body": True}}
        recipe |= {"block_bytes": 2 << 20, "buckets": 5, "in_process_bytes": 0}
        (folder / "drill.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")

    def start(self, out: Path) -> subprocess.Popen[bytes]:
        """Begin a build."""
        command = [sys.executable, "-m", "scripts.build", "--config", str(self.folder / "drill.yaml")]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [*command, "--run", str(out)], cwd=ROOT, env=os.environ | QUIET, stdout=log, stderr=log
            )

    def finish(self, out: Path) -> int:
        """Build to the end and return how many tasks were seen to end."""
        process, tasks = self.start(out), 0
        while process.poll() is None:
            tasks = max(tasks, ended(out))
            time.sleep(0.02)
        self._passed(process)
        return tasks

    def kill_driver(self, out: Path, tasks: int) -> str:
        """Kill the driver when some tasks have ended, and give the command again."""
        process = self.start(out)
        seen = _wait(process, out, tasks)
        if process.poll() is not None:
            return "the build was faster"
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.finish(out)
        return f"driver killed after {seen} tasks"

    def kill_worker(self, out: Path, tasks: int) -> str:
        """Kill a busy worker when some tasks have ended, and let the build end."""
        import psutil

        process = self.start(out)
        seen, killed = _wait(process, out, tasks), False
        while process.poll() is None and not killed:
            family = psutil.Process(process.pid).children(recursive=True)
            busy = [child for child in family if re.match(r"ray::.*(Map|Read)", _command_line(child))]
            for worker in busy[:1]:
                worker.kill()
                killed = True
        process.wait()
        self._passed(process)
        return f"busy worker killed after {seen} tasks" if killed else "the build was faster"

    def _passed(self, process: subprocess.Popen[bytes]) -> None:
        if process.returncode:
            log = (self.folder / "log").read_text()[-3000:]
            raise SystemExit(f"drill_build: the build ended with {process.returncode}:\n{log}")


def ended(out: Path) -> int:
    """How many tasks of a running build have ended."""
    marks = out / "data" / "staging" / "marks"
    return len(list(marks.glob("*.json"))) if marks.exists() else 0


def _wait(process: subprocess.Popen[bytes], out: Path, tasks: int) -> int:
    """Wait until so many tasks have ended; how many had ended then."""
    while process.poll() is None and ended(out) < tasks:
        time.sleep(0.02)
    return ended(out)


def _command_line(process: Any) -> str:
    import psutil

    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def fingerprint(out: Path) -> dict[str, Any]:
    """Count and digest of the rows of every table, drops, and whether staged files were left."""
    artifact = Artifact.open(str(out / "data"), "build")
    content: dict[str, Any] = {"dropped": artifact.manifest.dropped, "left": (out / "data" / "staging").exists()}
    for name in artifact.manifest.tables:
        rows = sorted(json.dumps(row, sort_keys=True) for row in artifact.read(name).to_pylist())
        content[name] = [len(rows), hashlib.sha256("\n".join(rows).encode()).hexdigest()]
    return content


def flags() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m scripts.drills.build", description=__doc__)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--kills", type=int, default=6, help="half of them of the driver, half of a worker")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Build once undisturbed, then once for each kill, and compare."""
    options = flags()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="drill-") as name:
        drill = Drill(Path(name), options.rows)
        tasks = drill.finish(Path(name) / "peace")
        expected = fingerprint(Path(name) / "peace")
        print(f"uninterrupted: {tasks} tasks, {expected['pairs'][0]:,} pairs", flush=True)
        failed = 0
        for number in range(options.kills):
            out = Path(name) / f"run{number}"
            kill = (drill.kill_driver, drill.kill_worker)[number % 2]
            happened = kill(out, draw.randint(1, max(1, tasks - 2)))
            same = fingerprint(out) == expected
            failed += not same
            print(f"{happened}: {'equal' if same else 'DIFFERENT'}", flush=True)
    print(f"drill_build: {options.kills - failed} of {options.kills} builds equal the uninterrupted one")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
