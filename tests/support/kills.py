"""Kill a job before each change that it makes to files below a directory, one after the other, and see what is left.

An audit hook sees every file that Python opens for writing, renames, removes or makes, whatever library does it, so
that a new file of a job cannot escape. The job runs in a forked child, which ends as by SIGKILL: nothing is flushed,
no `finally` runs.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate"}
_watched: dict[str, object] = {"root": None}


def _is_change(event: str, args: tuple) -> bool:
    if event == "open":
        path, mode, flags = args
        writes = (isinstance(mode, str) and any(c in mode for c in "wax+")) or (
            isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        )
        return bool(writes) and _below(path)
    return event in CHANGES and any(_below(arg) for arg in args)


def _below(path: object) -> bool:
    root = _watched["root"]
    return isinstance(path, str | bytes | os.PathLike) and isinstance(root, str) and os.fsdecode(path).startswith(root)


def _hook(event: str, args: tuple) -> None:
    if _watched["root"] is None or not _is_change(event, args):
        return
    _watched["count"] = count = int(str(_watched["count"])) + 1
    if count == _watched["kill_at"]:
        os.kill(os.getpid(), signal.SIGKILL)


def run_until_killed(job: Callable[[], object], root: Path, kill_at: int) -> bool:
    """Run a job in a child that is killed before its change number `kill_at` below `root`; False where it ended first.

    Raises AssertionError where the child failed by itself.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            sys.addaudithook(_hook)
            _watched.update(root=str(root), count=0, kill_at=kill_at)
            job()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, f"the job failed by itself when killed at {kill_at}"
    return False
