"""One writer at a time for a directory of results, here or on an object store.

A lease is a file beside the directory that names its holder. It is made by an exclusive creation (a conditional write
on an object store), renewed while its holder lives, and taken over when it was not renewed for a while. A second job
waits: when the first one ends, it finds what that one left and goes on or returns at once.
"""

import getpass
import json
import os
import posixpath
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.progress import say
from pipeline.storage.files import filesystem

RENEW_S = 10.0
EXPIRE_S = 60.0  # without a renewal, as seen by the clock of the one who waits
POLL_S = 1.0
_ACTIVE: dict[str, "Lease"] = {}  # leases of this process, by path


@dataclass(frozen=True)
class Holder:
    """Who holds a lease: what a waiting user is told, and what tells one holder from another."""

    id: str
    job: str
    user: str
    host: str
    pid: int
    boot: str  # of the host's kernel, so that a number of a process is not mistaken for another one's
    since: str

    def __str__(self) -> str:
        return f"`{self.job}` of {self.user} on {self.host} (process {self.pid}, since {self.since})"

    def has_died(self) -> bool:
        """Whether it was a process of this machine that is gone; unknown, so False, for other machines."""
        if (self.host, self.boot) != (socket.gethostname(), _boot()):
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


class Lease:
    """The right to write into a directory, held until `release` or the end of the process."""

    def __init__(self, path: str, holder: Holder) -> None:
        self.path, self.holder = path, holder
        self.lost, self.users = False, 1
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"lease of {path}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise UserError where another job took the lease over, since this one seemed dead for a minute."""
        if self.lost:
            raise UserError(
                f"{self.path}: this job was not heard of for {EXPIRE_S:.0f} s and another one took its place; it stops "
                "here, and what is finished is the other one's"
            )

    def release(self) -> None:
        """Give the directory free, once every one who acquired the lease in this process has done so.

        A forked child, which has copies of its parent's objects and drops them when it ends, gives nothing free.
        """
        self.users -= 1
        if self.users > 0 or self._stop.is_set() or os.getpid() != self.holder.pid:
            return
        self._stop.set()
        _ACTIVE.pop(self.path, None)
        fs, name = _file(self.path)
        try:
            if _read(fs, name) in (None, self.holder):
                fs.rm(name)
        except (OSError, UserError):
            return  # it expires by itself

    def _renew(self) -> None:
        fs, name = _file(self.path)
        while not self._stop.wait(RENEW_S):
            try:
                if _read(fs, name) != self.holder:
                    self.lost = True
                    return
                fs.pipe_file(name, _content(self.holder))
            except (OSError, UserError):
                continue  # the next renewal may reach the store


def acquire(path: str, job: str, wait_s: float | None = None) -> Lease:
    """Take the lease of a directory, waiting for another job that holds it; one line says for whom.

    A holder that died on this machine gives way at once, one on another machine after `EXPIRE_S` without a renewal.
    Within one process a lease that is held already is returned. With `wait_s` the wait is bounded.

    Raises UserError naming the holder when the wait is over, and OSError where nothing can be written.
    """
    if path in _ACTIVE:
        _ACTIVE[path].users += 1
        return _ACTIVE[path]
    fs, name = _file(path)
    fs.makedirs(posixpath.dirname(name), exist_ok=True)
    holder = Holder(uuid.uuid4().hex, job, _user(), socket.gethostname(), os.getpid(), _boot(), _now())
    started, seen, changed, announced = time.monotonic(), b"", time.monotonic(), False
    while not _create(fs, name, _content(holder)):
        content = _bytes(fs, name)
        if content != seen:
            seen, changed = content, time.monotonic()
        other = _parse(content)
        if (other and other.has_died()) or time.monotonic() - changed > EXPIRE_S:
            _take_over(fs, name, content)
            continue
        if wait_s is not None and time.monotonic() - started > wait_s:
            raise UserError(
                f"{path}: is being written by {other or 'another job'}; wait for it, or choose another --run"
            )
        if not announced:
            say(f"{job}: {path} is being written by {other or 'another job'}; waiting for it")
            announced = True
        time.sleep(POLL_S)
    lease = Lease(path, holder)
    _ACTIVE[path] = lease
    return lease


def _file(path: str) -> tuple[Any, str]:
    fs, root = filesystem(path)
    return fs, root.rstrip("/") + ".lease"


def _create(fs: Any, name: str, content: bytes) -> bool:
    """Create a file that must not exist yet; False where it does."""
    try:
        if "file" in fs.protocol:
            with open(name, "xb") as file:  # noqa: PTH123  exclusive creation is the point
                file.write(content)
            return True
        if fs.exists(name):
            return False
        try:
            fs.pipe_file(name, content, mode="create")
        except (NotImplementedError, TypeError, ValueError):  # a store without conditional writes
            fs.pipe_file(name, content)
        return _bytes(fs, name) == content
    except FileExistsError:
        return False


def _take_over(fs: Any, name: str, content: bytes) -> None:
    """Remove the lease of a dead holder, unless it changed meanwhile; of several that try, a rename lets one do it."""
    if _bytes(fs, name) != content:
        return
    aside = f"{name}.{uuid.uuid4().hex[:8]}.expired"
    try:
        fs.mv(name, aside)
        if _bytes(fs, aside) != content and not fs.exists(name):
            fs.mv(aside, name)  # somebody's fresh lease was caught: put it back
        else:
            fs.rm(aside)
    except (FileNotFoundError, OSError):
        return


def _bytes(fs: Any, name: str) -> bytes:
    try:
        fs.invalidate_cache()
        return bytes(fs.cat_file(name))
    except (FileNotFoundError, OSError):
        return b""


def _read(fs: Any, name: str) -> Holder | None:
    return _parse(_bytes(fs, name))


def _parse(content: bytes) -> Holder | None:
    try:
        raw = json.loads(content)
        raw.pop("renewed", None)
        return Holder(**raw)
    except (ValueError, TypeError, AttributeError):
        return None


def _content(holder: Holder) -> bytes:
    return json.dumps(asdict(holder) | {"renewed": time.time()}).encode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:  # noqa: PTH123
            return file.read().strip()
    except OSError:
        return ""


os.register_at_fork(after_in_child=_ACTIVE.clear)
