"""What a job reports while it works: live bars where stderr is a terminal, plain lines in job logs and pipes."""

import os
import sys
import threading
import time
from functools import cache
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress


def say(text: str) -> None:
    """Write one line to stderr at once; above the bars, where some are shown."""
    if not _bars.print(text):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


@cache
def say_once(text: str) -> None:
    """Say a line that this process has not said yet."""
    say(text)


class Bar:
    """A live bar on a terminal, below the lines of `say`; `open_bar` makes one."""

    def __init__(self, label: str, total: int, unit: str) -> None:
        self.total, self.unit = total, unit
        self._task: TaskID | None = _bars.add(label, total, f"0/{total:,} {unit}")

    def update(self, done: int, text: str) -> None:
        """Move the bar to `done` of its total, with a text behind it."""
        if self._task is not None:
            _bars.update(self._task, done, f"{done:,}/{self.total:,} {self.unit}", text)

    def close(self) -> None:
        """Leave the bar as it is; more calls do nothing."""
        if self._task is not None:
            _bars.stop(self._task)
            self._task = None


def open_bar(label: str, total: int, unit: str) -> Bar | None:
    """Show a live bar; None where stderr is no terminal that can draw one."""
    drawable = sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
    return Bar(label, total, unit) if drawable else None


class Progress:
    """Progress, rate and time left of a long loop.

        with Progress("embed", total=len(texts), unit="texts") as progress:
            progress.skip(done_before)
            for batch in batches:
                progress.add(len(batch))

    On a terminal it is a bar that leaves its last state behind. Elsewhere it is a line such as
    `embed: 200/500 texts, 18.2/s, 16 s left`, at most one every `interval` seconds, and one at the end.
    """

    def __init__(self, label: str, total: int, unit: str, interval: float = 5.0) -> None:
        self.label, self.total, self.unit, self.interval = label, total, unit, interval
        self.start = self._last_line = time.monotonic()
        self.skipped = self.done = 0
        self._bar = open_bar(label, total, unit)

    def __enter__(self) -> Self:
        """Return the progress itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the bar, also where the loop ended early."""
        if self._bar:
            self._bar.close()

    @property
    def seconds(self) -> float:
        """Seconds since the start; never 0."""
        return max(time.monotonic() - self.start, 1e-9)

    def skip(self, count: int) -> None:
        """Count work that an earlier run had done: it is part of the total, not of the rate."""
        self.skipped += count
        self.done += count
        if self._bar:
            self._bar.update(self.done, "")

    def add(self, count: int, detail: str = "") -> None:
        """Count work that was done now; `detail` is shown after the rate, such as "96 tokens/s"."""
        self.done += count
        now = time.monotonic()
        if self._bar:
            self._bar.update(self.done, self._pace(detail))
        elif now - self._last_line >= self.interval or self.done >= self.total:
            self._last_line = now
            say(f"{self.label}: {self.done:,}/{self.total:,} {self.unit}, {self._pace(detail)}")

    def _pace(self, detail: str) -> str:
        rate = (self.done - self.skipped) / self.seconds
        left = (self.total - self.done) / max(rate, 1e-9)
        return ", ".join(filter(None, (f"{rate:,.1f}/s", detail, f"{left:,.0f} s left")))


class _Bars:
    """The bars of this process: one display for all that run at the same time, as a terminal holds only one."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._display: RichProgress | None = None
        self._running: set[TaskID] = set()

    def add(self, label: str, total: int, count: str) -> TaskID:
        """Show a new bar."""
        with self._lock:
            if self._display is None:
                self._display = RichProgress(
                    SpinnerColumn(),
                    TextColumn("{task.description}"),
                    BarColumn(),
                    TextColumn("{task.fields[count]}"),
                    TimeElapsedColumn(),
                    TextColumn("{task.fields[text]}"),
                    console=Console(file=sys.stderr, highlight=False),
                )
                self._display.start()
            task = self._display.add_task(label, total=total, count=count, text="")
            self._running.add(task)
            return task

    def update(self, task: TaskID, done: int, count: str, text: str) -> None:
        """Show how far a bar is."""
        with self._lock:
            if self._display is not None:
                self._display.update(task, completed=done, count=count, text=text)

    def stop(self, task: TaskID) -> None:
        """Stop a bar; the display ends with the last one."""
        with self._lock:
            self._running.discard(task)
            if self._display is None:
                return
            self._display.stop_task(task)
            if not self._running:
                self._display.stop()
                self._display = None

    def print(self, text: str) -> bool:
        """Print a line above the bars; False where none is shown."""
        with self._lock:
            if self._display is None:
                return False
            self._display.console.print(text, markup=False, highlight=False, soft_wrap=True)
            return True


_bars = _Bars()
