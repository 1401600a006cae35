"""Failures of a run: which are final, and one line for the user for each that is not a defect of this program."""

import math
from collections.abc import Iterable
from typing import Any

from ray.train import UserCallback

from pipeline.core.config import user_cause
from pipeline.core.errors import UserError


class WorkerDefect(RuntimeError):
    """An error of the program in a worker, with its traceback; it is no fault, whatever words are in the traceback."""


class StopOnRepeatableError(UserCallback):  # type: ignore[misc]
    """Ends a run at once on a failure that a restart would meet again, so that only faults are restarted.

    Such are a user's error, a full or read-only disk, and a defect: an exception of the program itself.
    """

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise what is no fault; called in Ray's controller, which does not retry its own errors."""
        for _, error in sorted(worker_exceptions.items()):
            if cause := user_cause(error):
                raise UserError(cause)
        for rank, error in sorted(worker_exceptions.items()):
            if is_defect(error):
                raise WorkerDefect(f"worker {rank} failed, and would again: {describe(error)}") from error


_DEFECTS = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, TypeError, ValueError)
_FAULTS = ("connect", "timed out", "timeout", "peer", "socket", "store", "broken pipe", "memory", "cuda", "nccl")


def is_defect(error: BaseException) -> bool:
    """Whether an error of a worker is the program's own: the same step would end in it again.

    What a machine, a network or another worker's death can cause is none, so RuntimeErrors count by what they say.
    """
    cause = getattr(error, "cause", None)
    while isinstance(cause, BaseException):
        error, cause = cause, getattr(cause, "cause", None)
    if isinstance(error, (*_DEFECTS, NotImplementedError)):
        return True
    return type(error) is RuntimeError and not any(mark in str(error).lower() for mark in _FAULTS)


def describe(error: BaseException) -> str:
    """Error and traceback of a worker, which `train_worker` has noted on it, since Ray keeps the error alone."""
    return "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])


def explain_failure(error: BaseException, failures: int, limit_s: float) -> UserError | None:
    """One line for a run that failed because of the cluster; None for a defect, which keeps its traceback.

    `failures` is how many restarts were allowed, `limit_s` the time limit of a collective.
    """
    if cause := user_cause(error):
        return UserError(cause)
    causes = list(_causes(error))
    if any(isinstance(cause, WorkerDefect) for cause in causes):
        return None
    texts = [f"{type(cause).__name__}: {cause}" for cause in causes]
    again = f"{failures} restarts" if failures != 1 else "one restart"
    for marks, line in _MESSAGES:
        if any(mark in text.lower() for text in texts for mark in marks):
            return UserError(line.format(again=again, limit=f"{limit_s:g}" if math.isfinite(limit_s) else "no"))
    return None


_MESSAGES: list[tuple[tuple[str, ...], str]] = [
    (
        ("outofmemoryerror", "memoryerror", "out of memory", "can't allocate memory", "not enough memory"),
        "a worker ran out of memory, after {again} from the last checkpoint too; lower loop.batch_size or "
        "encoder.max_length, or set loop.cache_tokens",
    ),
    (
        ("does not exist anymore",),
        "a checkpoint that the run kept is gone from its directory; give --fresh to start anew",
    ),
    (
        ("workergroupstartuptimeouterror", "workergroupstartupfailederror"),
        "the workers found no place on the cluster; give fewer workers, or workers.min and workers.max, or raise "
        "placement_timeout_s",
    ),
    (
        ("actordiederror", "actorunavailableerror", "worker died", "the actor died", "node_died", "preemptionerror"),
        "a worker died, after {again} from the last checkpoint too (killed, out of memory, or its node was lost); the "
        "same command goes on",
    ),
    (
        ("timed out", "timeout", "wait timeout"),
        "a worker was not heard of within collective_timeout_s {limit} s, after {again} from the last checkpoint too; "
        "raise it where single steps take that long",
    ),
    (
        ("connection closed by peer", "connection reset by peer"),
        "the workers lost each other, after {again} from the last checkpoint too; the same command goes on",
    ),
]


def _causes(error: BaseException) -> Iterable[BaseException]:
    """An error, the errors that it wraps, and those that the workers of a group raised."""
    seen: dict[int, BaseException] = {}
    stack: list[BaseException | None] = [error]
    while stack:
        current = stack.pop()
        if current is None or id(current) in seen:
            continue
        seen[id(current)] = current
        stack += [current.__cause__, current.__context__, getattr(current, "controller_failure", None)]
        stack += list((getattr(current, "worker_failures", None) or {}).values())
    return seen.values()
