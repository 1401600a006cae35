"""A PostgreSQL server with pgvector for one test: in a folder, on a socket, without a port."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _binary(name: str) -> str | None:
    """A program of PostgreSQL: Debian keeps the server's out of PATH."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(versions[-1]) if versions else shutil.which(name)


@contextmanager
def postgres() -> Iterator[str]:
    """The address of a server that has pgvector; the test is skipped, with the reason, where there is none."""
    initdb, control = _binary("initdb"), _binary("pg_ctl")
    if not initdb or not control:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql postgresql-17-pgvector)")
    as_root = os.geteuid() == 0
    if as_root and not shutil.which("runuser"):
        pytest.skip("PostgreSQL refuses to run as root, and there is no runuser")
    user = ["runuser", "-u", "nobody", "--"] if as_root else []
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as folder:
        if as_root:
            shutil.chown(folder, "nobody")
        data = f"{folder}/data"

        def do(*command: str) -> None:
            subprocess.run([*user, *command], cwd=folder, check=True, capture_output=True)

        do(initdb, "-D", data, "-A", "trust", "-U", "tester", "-E", "UTF8", "--no-sync")
        do(control, "-D", data, "-w", "-l", f"{folder}/log", "-o", f"-c listen_addresses='' -k {folder}", "start")
        try:
            address = f"host={folder} user=tester dbname=postgres"
            _require_pgvector(address)
            yield address
        finally:
            do(control, "-D", data, "-m", "immediate", "stop")


def _require_pgvector(address: str) -> None:
    import psycopg

    with psycopg.connect(address, autocommit=True) as connection:
        query = "SELECT 1 FROM pg_available_extensions WHERE name = 'vector'"
        if connection.execute(query).fetchone() is None:
            pytest.skip("this PostgreSQL has no pgvector (Debian: apt-get install postgresql-17-pgvector)")
