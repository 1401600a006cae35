"""What a run keeps while it trains: checkpoints by Ray Train, metrics as JSON lines, and a line on the terminal."""

import json
import tempfile
import threading
from pathlib import Path
from typing import Any

from pipeline import files
from pipeline.console import say
from training.checkpoint import STATE, State


class MetricsFile:
    """Metrics as JSON lines, written whole each time, so that any file system can hold them."""

    def __init__(self, path: str) -> None:
        self.fs, self.name = files.filesystem(path)

    def rows(self) -> list[dict[str, Any]]:
        """Return every row written so far."""
        if not self.fs.exists(self.name):
            return []
        lines = self.fs.cat_file(self.name).decode().splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Replace the file."""
        self.fs.pipe_file(self.name, "".join(json.dumps(row) + "\n" for row in rows).encode())


class RayKeeper:
    """Checkpoints by Ray Train, committed before training goes on; metrics in the run's own file."""

    def __init__(self, metrics: MetricsFile) -> None:
        self.metrics, self.lines = metrics, metrics.rows()

    def restore(self) -> Path | None:
        """Return the newest committed checkpoint; metrics of steps after it are forgotten."""
        import ray.train

        found = ray.train.get_checkpoint()
        if found is None:
            self.lines = []
            return None
        folder = Path(found.to_directory())
        step = json.loads((folder / STATE).read_text(encoding="utf-8"))["step"]
        self.lines = [row for row in self.lines if row["step"] <= step]
        return folder

    def log(self, row: dict[str, Any]) -> None:
        """Add a row of metrics."""
        self.lines.append(row)
        self.metrics.write(self.lines)

    def save(self, metrics: dict[str, float], state: State) -> None:
        """Report a checkpoint, written by rank 0, and wait until the controller has committed it."""
        import ray.train
        from ray.train import CheckpointConsistencyMode

        if ray.train.get_context().get_world_rank() == 0:
            with tempfile.TemporaryDirectory() as folder:
                state.write(Path(folder))
                ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))
        else:
            ray.train.report(metrics, checkpoint=None)
        ray.train.get_all_reported_checkpoints(consistency_mode=CheckpointConsistencyMode.COMMITTED)


class Follow:
    """Print the metrics file as it grows, while the driver waits for the workers."""

    def __init__(self, path: str, metric: str) -> None:
        self.file, self.metric, self.seen = MetricsFile(path), metric, 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Follow":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()
        self._print()

    def _watch(self) -> None:
        while not self.over.wait(1.0):
            self._print()

    def _print(self) -> None:
        rows = self.file.rows()
        for row in rows[min(self.seen, len(rows)) :]:
            say(_line(row, self.metric))
        self.seen = len(rows)


_OF_THE_RUN = frozenset(
    {"step", "steps", "epoch", "loss", "learning_rate", "scale", "grad_norm", "bad_steps", "padding"}
    | {"seconds_per_step", "pairs_per_s", "tokens_per_s"}
)


def _line(row: dict[str, Any], metric: str) -> str:
    if metric in row:
        return f"train: step {row['step']}: validation {metric} {row[metric]:.4f}"
    left = (row["steps"] - row["step"]) * row["seconds_per_step"]
    parts = [f"loss {row['loss']:.4f}"]
    parts += [f"{name.replace('_', ' ')} {value:.3f}" for name, value in row.items() if name not in _OF_THE_RUN]
    parts += [
        f"{row['pairs_per_s']:.1f} pairs/s",
        f"{row['tokens_per_s']:.0f} tokens/s",
        f"padding {row['padding']:.1%}",
    ]
    return f"train: step {row['step']}/{row['steps']}: {', '.join(parts)}, {left:.0f} s left"
