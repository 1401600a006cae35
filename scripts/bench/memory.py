"""Memory of a process and all that it starts, while it runs."""

import threading

import psutil


class Memory:
    """Peak memory of a process and all its children together, as proportional set size in MiB."""

    def __init__(self, pid: int) -> None:
        self.root, self.peak, self.over = psutil.Process(pid), 0.0, threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Memory":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.over.wait(0.5):
            self.peak = max(self.peak, self._now())

    def _now(self) -> float:
        total = 0
        try:
            for process in [self.root, *self.root.children(recursive=True)]:
                try:
                    total += process.memory_full_info().pss
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue
        except psutil.NoSuchProcess:
            return 0.0
        return total / 2**20
