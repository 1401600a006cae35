"""Versions of a release in one folder, and the link `current` to the one in use, which is turned in one step.

releases/00001-20261130/   index/, model/, report/, release.json
releases/00002-20261201/
releases/current -> 00002-20261201
releases/history.jsonl     what was released, refused and rolled back, and by which figures
"""

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError

CURRENT, HISTORY, FACTS, PARTIAL = "current", "history.jsonl", "release.json", ".partial"


@dataclass(frozen=True)
class Versions:
    """The folder of all versions."""

    home: Path

    @classmethod
    def open(cls, path: str) -> "Versions":
        """Take a local folder; raises UserError for another file system, which has no link that turns in one step."""
        if "://" in path:
            raise UserError(f"{path}: versions of a release are folders of a file system; copy one to where it is used")
        return cls(Path(path).absolute())

    def names(self) -> list[str]:
        """Whole versions, oldest first."""
        if not self.home.is_dir():
            return []
        folders = [folder for folder in self.home.iterdir() if not folder.is_symlink()]
        return sorted(folder.name for folder in folders if folder.suffix != PARTIAL and (folder / FACTS).is_file())

    @property
    def current(self) -> str | None:
        """The version in use."""
        link = self.home / CURRENT
        return link.readlink().name if link.is_symlink() else None

    def facts(self, name: str) -> dict[str, Any]:
        """What is known of a version."""
        facts: dict[str, Any] = json.loads((self.home / name / FACTS).read_text(encoding="utf-8"))
        return facts

    def of(self, digest: str) -> str | None:
        """The version of an index and report, if there is one."""
        return next((name for name in self.names() if self.facts(name)["digest"] == digest), None)

    def add(self, folders: dict[str, Path], facts: dict[str, Any], adapt: Callable[[Path, Path], None]) -> str:
        """Copy folders into a new version, which counts when all of it is there; returns its name.

        `adapt(copy, final)` may change the copy before it is at its final path.
        """
        self._remove_partial()
        numbers = [int(event["version"].partition("-")[0]) for event in self.history() if "version" in event]
        numbers += [int(name.partition("-")[0]) for name in self.names()]
        name = f"{max(numbers, default=0) + 1:05d}-{time.strftime('%Y%m%d', time.gmtime())}"
        partial = self.home / f"{name}{PARTIAL}"
        partial.mkdir(parents=True)
        for target, source in folders.items():
            shutil.copytree(source, partial / target)
        adapt(partial, self.home / name)
        (partial / FACTS).write_text(json.dumps({"version": name, **facts}, indent=2) + "\n", encoding="utf-8")
        partial.rename(self.home / name)
        return name

    def use(self, name: str) -> None:
        """Turn `current` to a version in one step: a reader sees the old one or the new one."""
        new = self.home / f"{CURRENT}{PARTIAL}"
        new.unlink(missing_ok=True)
        new.symlink_to(name)
        new.replace(self.home / CURRENT)

    def before(self, name: str) -> str | None:
        """The version that was in use before one, by the history; of those that are still there."""
        used = [event["version"] for event in self.history() if event["event"] in ("released", "rolled back")]
        earlier = used[: len(used) - used[::-1].index(name) - 1] if name in used else used
        return next((item for item in reversed(earlier) if item != name and item in self.names()), None)

    def prune(self, keep: int) -> list[str]:
        """Remove the oldest versions beyond `keep`, never the one in use or the one before it, and what a kill left."""
        self._remove_partial()
        current = self.current
        safe = {current, self.before(current) if current else None}
        removed = [name for name in self.names()[:-keep] if name not in safe]
        for name in removed:
            shutil.rmtree(self.home / name)
        return removed

    def _remove_partial(self) -> None:
        """Remove copies that a kill has left."""
        for folder in self.home.glob(f"*{PARTIAL}"):
            if folder.is_dir() and not folder.is_symlink():
                shutil.rmtree(folder)

    def log(self, event: str, **facts: Any) -> None:
        """Add a line to the history."""
        self.home.mkdir(parents=True, exist_ok=True)
        line = {"event": event, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **facts}
        with (self.home / HISTORY).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def history(self) -> list[dict[str, Any]]:
        """What happened, oldest first; a line that a kill cut off is left out."""
        path = self.home / HISTORY
        if not path.is_file():
            return []
        events = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                events.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return events
