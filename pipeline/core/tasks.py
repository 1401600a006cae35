"""Tasks of a job: Ray runs them where a session is up, else they run one after the other in this process.

A job says what is to be done and never asks which of the two it is (`ray_session.start_for` decides). Rows and files
are the same, since no result depends on the number of workers.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pipeline.core import ray_session
from pipeline.core.config import user_cause
from pipeline.core.errors import UserError

RETRIES = 10  # of a task whose worker died


@dataclass(frozen=True)
class LocalValue:
    """What stands for a reference to Ray's object store where there is none: the value itself."""

    value: Any


def put(value: Any) -> Any:
    """Store a value once for many tasks and return a reference to it, which tasks take in its place."""
    if not ray_session.is_up():
        return LocalValue(value)
    import ray

    return ray.put(value)


def get(reference: Any) -> Any:
    """Return the value of a reference that `put` or `submit` returned; waits for its task."""
    if isinstance(reference, LocalValue):
        return reference.value
    import ray

    return ray.get(reference)


def submit(function: Callable[..., Any], *arguments: Any, on_gpu: bool = False, returns: int = 1) -> Any:
    """Start a task and return a reference to its result, or a list of `returns` references.

    `on_gpu` gives it one of the GPUs, if there are any. In this process it has ended when this returns.
    """
    if not ray_session.is_up():
        result = _call(function, arguments)
        return LocalValue(result) if returns == 1 else [LocalValue(part) for part in result]
    import ray

    gpus = min(1, ray_session.gpus()) if on_gpu else 0
    return ray.remote(num_cpus=1, num_gpus=gpus, num_returns=returns)(function).remote(*arguments)


def results(
    function: Callable[..., Any], arguments: Sequence[Sequence[Any]], at_once: int | None = None
) -> Iterator[Any]:
    """Call a function with each list of arguments and yield the results as they come; a lost task runs again.

    At most `at_once` tasks are started at a time, all where it is not given. Those that have not begun are cancelled
    where the caller stops early. Raises UserError for the first task that ended
    in one, or in an error of the operating system; it travels as a value, so that Ray logs no traceback for it.
    """
    if not ray_session.is_up():
        yield from (_call(function, values) for values in arguments)
        return
    import ray

    remote, shared = ray.remote(max_retries=RETRIES)(_guarded), ray.put(function)
    todo = iter(arguments)
    waiting = [remote.remote(shared, *values) for values in islice(todo, at_once)]
    try:
        while waiting:
            (ready,), waiting = ray.wait(waiting, num_returns=1)
            waiting += [remote.remote(shared, *values) for values in islice(todo, 1)]
            result, error = ray.get(ready)
            if error:
                raise UserError(error)
            yield result
    finally:
        for task in waiting:
            ray.cancel(task)


def _guarded(function: Callable[..., Any], *arguments: Any) -> tuple[Any, str | None]:
    """Call a function; an error that the user can fix is returned as its message."""
    try:
        return function(*arguments), None
    except (UserError, OSError) as error:
        if (message := user_cause(error)) is None:
            raise
        return None, message


def _call(function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """Call with values in place of references, as Ray does."""
    return function(*(item.value if isinstance(item, LocalValue) else item for item in arguments))
