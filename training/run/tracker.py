"""Base of trackers: settings of a tool that gets the metrics of a run, and the writer that it opens."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Protocol

from pipeline.core.config import Plugin
from pipeline.core.errors import UserError
from pipeline.core.progress import say


class MetricsWriter(Protocol):
    """Writes the metrics of a run; used on rank 0 alone."""

    def log(self, row: dict[str, Any]) -> None:
        """Write a row of metrics: "step" and figures by name; what is not a number is left out."""

    def close(self) -> None:
        """Write what is buffered."""
        return None


class Tracker(Plugin):
    """A tool that gets the metrics of a run, besides the run's own file: settings that open a writer on rank 0.

    A tracker of your own derives from this and goes by its import path:

        class Printer(Tracker):
            def open(self, log, step):
                return PrintingWriter()
    """

    def check(self) -> None:
        """Raise UserError where something that it needs is missing; called before the run starts."""
        return None

    @abstractmethod
    def open(self, log: str, step: int) -> MetricsWriter:
        """Open for a run that begins after `step`; `log` is the directory of the run's logs."""

    def end(self, log: str, *, failed: bool) -> None:
        """Say that training has ended, well or not; called once on the driver, whatever became of the workers."""
        return None


@contextmanager
def tell_trackers(trackers: Sequence[Tracker], log: str) -> Iterator[None]:
    """Tell trackers when the training inside ends, and whether in an error; none of them can hide that error."""
    try:
        yield
    except BaseException:
        for tracker in trackers:
            try:
                tracker.end(log, failed=True)
            except Exception as error:
                say(f"train: tracker {tracker.type}: {error}")
        raise
    for tracker in trackers:
        tracker.end(log, failed=False)


def figures(row: dict[str, Any]) -> dict[str, float]:
    """The numbers of a row, without the step."""
    return {name: float(value) for name, value in row.items() if _is_figure(name, value)}


def require(library: str) -> None:
    """Raise UserError where a library is not installed."""
    if find_spec(library) is None:
        raise UserError(f"trackers: {library} is not installed; pip install 'tripletail[trackers]'")


def _is_figure(name: str, value: Any) -> bool:
    return isinstance(value, int | float) and name not in ("step", "steps")
