"""Prints the metrics of a run on the terminal: progress, validations, notes, and a rank that is slow."""

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.core.progress import Bar, open_bar, say
from pipeline.report.training_log import seconds_of_steps
from training.loop.trainer import VALIDATION_S
from training.run.jsonl_log import JsonlLog

SLOW = 1.5  # a rank that takes so many times the mean of all to reach the gather is named


class ProgressPrinter:
    """Print the metrics file as it grows, while the driver waits for the workers.

    On a terminal the steps move a live bar, and what is worth keeping (validations, notes, a slow rank) is a line above
    it; elsewhere the steps are lines too.
    """

    def __init__(self, path: str, metric: str) -> None:
        self.file, self.metric = JsonlLog(path), metric
        self.interval_s = 1.0 if self.file.local else 10.0
        self.offset = self.file.size()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.bar: Bar | None = None

    def __enter__(self) -> "ProgressPrinter":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()
        self._print()
        if self.bar:
            self.bar.close()

    def _watch(self) -> None:
        while not self.over.wait(self.interval_s):
            self._print()

    def _print(self) -> None:
        """Print new rows. Where the file was cut back to a checkpoint, print from its newest note on."""
        cut = self.file.cut(self.offset)
        text, self.offset = self.file.read(0 if cut else self.offset)
        rows = [json.loads(line) for line in text.splitlines()]
        if cut:
            notes = [at for at, row in enumerate(rows) if "note" in row]
            rows = rows[notes[-1] :] if notes else []
        for row in rows:
            on_bar = self._move_bar(row)
            for line in _slow(row) if on_bar else format_row(row, self.metric):
                say(line)

    def _move_bar(self, row: dict[str, Any]) -> bool:
        """Show a row of progress on the bar; False where the row is of another kind, or there is no bar."""
        if "steps" not in row:
            return False
        self.bar = self.bar or open_bar("train", row["steps"], "steps")
        if self.bar is None:
            return False
        pace = f"{row['pairs_per_s']:.1f} pairs/s, {_span(_seconds_left(row))} left"
        self.bar.update(row["step"], f"loss {_number(row['loss'], 4)}, {pace}")
        return True


def validation_share(rows: Sequence[Mapping[str, Any]]) -> float:
    """Share of validations in the seconds of steps and validations, by the rows of a metrics file; 0 without any."""
    validating = sum(row.get(VALIDATION_S, 0.0) for row in rows)
    return float(validating / (validating + seconds_of_steps(rows))) if validating else 0.0


_OF_THE_RUN = frozenset(
    {"step", "steps", "epoch", "loss", "learning_rate", "scale", "grad_norm", "bad_steps", "padding", "wait", "workers"}
    | {"seconds_per_step", "pairs_per_s", "tokens_per_s", "slowest_rank", "slowest_rank_s", "mean_rank_s"}
)


def format_row(row: dict[str, Any], metric: str) -> list[str]:
    """Format a row of the metrics file."""
    if "note" in row:
        return [f"train: {row['note']}"]
    if metric in row:
        return [f"train: step {row['step']}: validation {metric} {row[metric]:.4f}"]
    return [] if "steps" not in row else [_progress(row), *_slow(row)]


def _progress(row: dict[str, Any]) -> str:
    parts = [f"loss {_number(row['loss'], 4)}"]
    parts += [f"{name.replace('_', ' ')} {_number(row[name], 3)}" for name in row if name not in _OF_THE_RUN]
    parts += [
        f"gradient {_number(row['grad_norm'], 3)}",
        f"{row['pairs_per_s']:.1f} pairs/s",
        f"{row['tokens_per_s']:.0f} tokens/s",
        f"padding {row['padding']:.1%}",
        f"wait {row['wait']:.1%}",
    ]
    parts += [f"{row['bad_steps']} steps skipped"] if row["bad_steps"] else []
    return f"train: step {row['step']}/{row['steps']}: {', '.join(parts)}, {_span(_seconds_left(row))} left"


def _seconds_left(row: dict[str, Any]) -> float:
    """Seconds to the end of the run at the pace of a row of progress."""
    return float((row["steps"] - row["step"]) * row["seconds_per_step"])


def _slow(row: dict[str, Any]) -> list[str]:
    """A line about a rank that the others wait for, if there is one."""
    slowest, mean = row.get("slowest_rank_s", 0.0), row.get("mean_rank_s", 0.0)
    if slowest < SLOW * mean or slowest - mean < 0.05:
        return []
    return [f"train: worker {row['slowest_rank']} is slow: {slowest:.2f} s to the gather of a step, all {mean:.2f} s"]


def _number(value: float | None, digits: int) -> str:
    return "not finite" if value is None else f"{value:.{digits}f}"


def _span(seconds: float) -> str:
    """Format a duration."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
