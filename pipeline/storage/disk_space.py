"""Room on a disk, asked for before long work whose end would not fit."""

import shutil
from pathlib import Path

from pipeline.core.errors import UserError


def require_space(path: str, needed: float, what: str) -> None:
    """Raise UserError where `needed` bytes do not fit on the disk that holds (or will hold) a local path.

    Stores are not asked: they name no end.

    >>> require_space("runs/shop/vectors", 40e9, "10,000,000 vectors")
    """
    free = free_space(path)
    if free is not None and needed > free:
        raise UserError(
            f"{path}: {what} need about {as_text(needed)}, and {as_text(free)} are free there; make room or choose "
            "another --run"
        )


def free_space(path: str) -> int | None:
    """Bytes that are free on the disk that holds (or will hold) a local path; None of a store."""
    if "://" in path:
        return None
    folder = Path(path).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def as_text(size: float) -> str:
    """A number of bytes for a reader: 1.5 GiB."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.1f} {unit}" if unit != "bytes" else f"{size:.0f} bytes"
        size /= 1024
    return f"{size:.1f} TiB"
