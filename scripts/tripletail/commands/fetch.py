"""Fetch a published corpus and prepare it for its recipe: `tripletail fetch [NAME ...] [--root data]`.

Without a name it lists the corpora, their licences and which are there. What is there is not fetched again; a download
that was cut off goes on where it stopped.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from pipeline.core.config import exit_on_user_error
from pipeline.core.errors import UserError
from pipeline.core.progress import say

from ..corpora.corpus import Corpus, Outputs
from ..corpora.download import download
from ..corpora.registry import CORPORA

RECORD = "source.json"


def fetch(corpus: Corpus, root: Path, mirror: str = "", overwrite: bool = False) -> Path:
    """Download and prepare one corpus below `root`; return its folder. One that is there is left alone.

    Raises:
        UserError: a file cannot be had, or the folder holds something else.

    """
    target = root / corpus.folder
    if (target / RECORD).exists() and not overwrite:
        say(f"fetch: {corpus.name} is there: {target}")
        return target
    if target.exists() and not overwrite:
        raise UserError(f"{target} exists and was not made by this command: move it away, or pass --overwrite")
    downloads = root / ".downloads" / corpus.name
    for item in corpus.downloads:
        download(item, downloads, mirror)
    outputs = corpus.prepare(downloads)
    write(corpus, outputs, target)
    shutil.rmtree(downloads)
    rows = ", ".join(f"{name} ({table.num_rows:,})" for name, table in outputs.items() if isinstance(table, pa.Table))
    say(f"fetch: {corpus.name}: {target}: {rows or ', '.join(outputs)}; {corpus.licence}, {corpus.origin}")
    return target


def write(corpus: Corpus, outputs: Outputs, target: Path) -> None:
    """Write what a corpus became, and where it came from, into a folder of its own that appears as a whole."""
    staging = target.with_name(f".{target.name}.staging")
    shutil.rmtree(staging, ignore_errors=True)
    for name, output in outputs.items():
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(output, pa.Table):
            pq.write_table(output, staging / name, compression="zstd")
        else:
            shutil.copyfile(output, staging / name)
    record = {
        "name": corpus.name,
        "origin": corpus.origin,
        "licence": corpus.licence,
        "note": corpus.note,
        "files": [{"url": item.url, "sha256": item.sha256} for item in corpus.downloads],
    }
    (staging / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    staging.replace(target)


def show(root: Path) -> None:
    """Print the corpora and which are there."""
    table = Table("name", "task", "licence", "MB", "folder", box=None)
    for corpus in CORPORA.values():
        size = sum(item.size for item in corpus.downloads) / 1e6
        folder = root / corpus.folder
        there = str(folder) if (folder / RECORD).exists() else "-"
        table.add_row(corpus.name, corpus.task, corpus.licence, f"{size:.1f}", there)
    Console().print(table)


def parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = argparse.ArgumentParser(
        "tripletail fetch", description="Fetch published corpora, as the recipes read them."
    )
    flags.add_argument("names", nargs="*", metavar="NAME", help="corpora to fetch, or all; none lists them")
    flags.add_argument("--root", default="data", help="folder that they are written below (default: data)")
    flags.add_argument(
        "--mirror", default="", help="address of a copy: https://HOST/PATH is read from MIRROR/HOST/PATH"
    )
    flags.add_argument("--overwrite", action="store_true", help="fetch again what is there")
    return flags


def main(argv: Sequence[str]) -> None:
    """List the corpora, or fetch those that are named."""
    options = parser().parse_args(argv)
    with exit_on_user_error("fetch"):
        unknown = [name for name in options.names if name not in CORPORA and name != "all"]
        if unknown:
            raise UserError(f"no corpus {', '.join(unknown)}: choose from {', '.join(CORPORA)}, all")
        names = list(CORPORA) if "all" in options.names else options.names
        if not names:
            show(Path(options.root))
        for name in names:
            fetch(CORPORA[name], Path(options.root), options.mirror, options.overwrite)
