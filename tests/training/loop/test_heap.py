"""Memory that was freed between blocks still in use goes back to the system."""

import ctypes
from pathlib import Path

import pytest

from training.loop import heap


def resident() -> float:
    """Resident memory of this process in MiB."""
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def test_holes_in_the_heap_are_given_back():
    if not Path("/proc/self/status").exists() or not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("needs Linux with glibc")
    blocks = [bytearray(b"x" * 60_000) for _ in range(4_000)]
    held = blocks[::50]
    blocks.clear()
    before = resident()
    heap.trim()
    assert before - resident() > 100
    assert all(block[0] == ord("x") for block in held)
