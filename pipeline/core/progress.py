"""What a job says while it works: plain lines on stderr, safe in job logs."""

import sys
import time


def say(text: str) -> None:
    """Write one line to stderr at once."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


class Progress:
    """Rate and remaining time of a long loop, one line every `interval` seconds."""

    def __init__(self, label: str, total: int, unit: str, interval: float = 5.0) -> None:
        self.label, self.total, self.unit, self.interval = label, total, unit, interval
        self.start = self.last = time.monotonic()
        self.first = self.done = 0

    def skip(self, count: int) -> None:
        """Count work that an earlier run had done: it moves the total, not the rate."""
        self.first += count
        self.done += count

    def add(self, count: int) -> None:
        """Count work that was done now and speak when it is time."""
        self.done += count
        now = time.monotonic()
        if now - self.last >= self.interval or self.done >= self.total:
            self.last = now
            rate = (self.done - self.first) / max(now - self.start, 1e-9)
            eta = (self.total - self.done) / max(rate, 1e-9)
            more = self.beside(max(now - self.start, 1e-9))
            say(f"{self.label}: {self.done:,}/{self.total:,} {self.unit}, {rate:,.1f}/s{more}, {eta:,.0f} s left")

    def beside(self, seconds: float) -> str:
        """Return what else there is to say after so many seconds; nothing here."""
        return ""
