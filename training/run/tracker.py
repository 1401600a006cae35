"""Base of trackers: settings of a tool that gets the metrics of a run, and the writer that it opens."""

import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from importlib.util import find_spec
from typing import Any, Protocol

from pipeline.core.config import Plugin
from pipeline.core.errors import UserError
from pipeline.core.progress import say
from pipeline.storage import files
from pipeline.storage.artifact import CONFIG


class RunState(StrEnum):
    """How a training ended, in MLflow's words; KILLED is an interrupt of the user or of the cluster."""

    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"

    @classmethod
    def of(cls, error: BaseException) -> "RunState":
        """The state of a training that ended in an error: Ctrl-C and the SIGTERM of `ray job stop` kill it."""
        return cls.KILLED if isinstance(error, KeyboardInterrupt | SystemExit) else cls.FAILED


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

    def end(self, log: str, state: RunState, model: str) -> None:
        """Say how training has ended; called once on the driver, whatever became of the workers.

        `model` is the directory of the trained model, which is whole where the state is FINISHED.
        """
        return None


@contextmanager
def tell_trackers(trackers: Sequence[Tracker], log: str, model: str) -> Iterator[None]:
    """Tell trackers when and how the training inside ends; none of them can hide its error, or undo its success."""
    state = RunState.FINISHED
    try:
        yield
    except BaseException as error:
        state = RunState.of(error)
        raise
    finally:
        for tracker in trackers:
            try:
                tracker.end(log, state, model)
            except Exception as error:
                say(f"train: tracker {tracker.type}: {error}")


def figures(row: dict[str, Any]) -> dict[str, float]:
    """The numbers of a row, without the step."""
    return {name: float(value) for name, value in row.items() if _is_figure(name, value)}


def parameters(log: str) -> dict[str, str]:
    """Settings of the run that are set, by their names in a recipe (`loop.batch_size`), as its log has them."""
    path = files.join(log, CONFIG)
    fs, name = files.filesystem(path)
    return dict(_flat(files.read_json(path))) if fs.exists(name) else {}


def _flat(settings: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(settings, dict):
        for key, value in settings.items():
            yield from _flat(value, f"{name}.{key}" if name else key)
    elif settings is not None:
        yield re.sub(r"[^\w./ -]", "_", name), str(settings)


def stored_run(log: str, name: str) -> str | None:
    """Id of the run that an earlier worker opened, as the file `name` of the run's log has it."""
    path = files.join(log, name)
    fs, root = files.filesystem(path)
    return str(files.read_json(path)["run_id"]) if fs.exists(root) else None


def require(library: str, extra: str = "trackers") -> None:
    """Raise UserError where a library is not installed; `extra` is the one of this project that brings it."""
    if find_spec(library) is None:
        raise UserError(f"trackers: {library} is not installed; pip install 'tripletail[{extra}]'")


def _is_figure(name: str, value: Any) -> bool:
    return isinstance(value, int | float) and name not in ("step", "steps")
