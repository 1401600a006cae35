"""Measure the server beside its peer: `python -m scripts.bench.serve [--seconds 10] [--requests 400]`.

One text a request, on loopback, at 1, 8 and 32 clients that each send the next request when the last is answered; every
measurement ends after so many seconds or requests, whichever comes first. Peer: `SentenceTransformer.encode` behind
FastAPI and uvicorn. Both run in processes of their own, one after the other, and the clients in this one. Writes
{out}/serve.json: a row {name, ours, peer, unit, ratio} for requests a second, p50, p99, and the CPU time that all
processes of the server spend on a request, at each number of clients.
"""

import argparse
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from scripts.bench.harness import SETS, read_text_pairs, update_rows

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = "gt:all-minilm-l6-v2"
CLIENTS = (1, 8, 32)
Figures = dict[str, float]


@contextmanager
def server(words: Sequence[str], threads: int | None) -> Iterator[tuple[int, int]]:
    """Start a server that writes `http://127.0.0.1:PORT` when it answers; process and port, until the block ends."""
    env = os.environ | {"HF_HUB_OFFLINE": "1"} | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    process = subprocess.Popen(
        [sys.executable, "-m", *words], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr
    for line in process.stderr:
        if match := re.search(r"http://127\.0\.0\.1:(\d+)", line):
            break
    else:
        raise SystemExit(f"bench serve: {' '.join(words)}: did not start")
    threading.Thread(target=process.stderr.read, daemon=True).start()
    try:
        yield process.pid, int(match[1])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def embed(connection: http.client.HTTPConnection, texts: str | list[str]) -> list[list[float]]:
    """Vectors of texts; raises SystemExit for any answer but 200."""
    connection.request("POST", "/v1/embeddings", json.dumps({"input": texts}), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise SystemExit(f"bench serve: status {answer.status}: {body[:200]!r}")
    return [row["embedding"] for row in json.loads(body)["data"]]


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and of all below it."""
    process = psutil.Process(pid)
    times = [part.cpu_times() for part in (process, *process.children(recursive=True))]
    return float(sum(part.user + part.system for part in times))


def load(address: tuple[int, int], texts: Sequence[str], clients: int, seconds: float, requests: int) -> Figures:
    """Requests a second, p50 and p99 of an answer and CPU time of a request in milliseconds, of a number of clients."""
    pid, port = address
    numbers, times, lock = count(), [], threading.Lock()
    end = time.perf_counter() + seconds

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while (number := next(numbers)) < requests and time.perf_counter() < end:
            started = time.perf_counter()
            embed(connection, texts[number % len(texts)])
            with lock:
                times.append(time.perf_counter() - started)
        connection.close()

    started, spent = time.perf_counter(), cpu_seconds(pid)
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds, cpu = time.perf_counter() - started, (cpu_seconds(pid) - spent) / len(times) * 1000
    p50, p99 = (float(share) for share in np.percentile(times, [50, 99]) * 1000)
    return {"requests/s": len(times) / seconds, "p50 ms": p50, "p99 ms": p99, "CPU ms": cpu}


def measure(words: Sequence[str], texts: Sequence[str], options: argparse.Namespace) -> tuple[list[Figures], Any]:
    """Figures at each number of clients, and the vectors of some texts."""
    with server(words, options.threads) as address:
        connection = http.client.HTTPConnection("127.0.0.1", address[1], timeout=120)
        vectors = np.array(embed(connection, list(texts[:16])))
        for text in texts[:20]:
            embed(connection, text)
        connection.close()
        return [load(address, texts, clients, options.seconds, options.requests) for clients in CLIENTS], vectors


def main() -> None:
    """Measure both, print the rows, and write them."""
    near = os.environ.get("TRIPLETAIL_DATA") or str(ROOT.parent / "shared" / "data")
    flags = argparse.ArgumentParser("python -m scripts.bench.serve", description=__doc__)
    flags.add_argument("--seconds", type=float, default=10.0, help="of one measurement at most")
    flags.add_argument("--requests", type=int, default=400, help="of one measurement at most")
    flags.add_argument("--dtype", default="float32", help="of ours: float32 as the peer's, or auto")
    flags.add_argument("--threads", type=int, help="of both; default: what each takes by itself")
    flags.add_argument("--side", choices=["queries", "documents"], default="queries", help="texts that are sent")
    flags.add_argument("--data", default=near, help="directory of the corpora")
    flags.add_argument("--set", choices=SETS, default="medquad", help="corpus of the texts")
    flags.add_argument("--out", default="runs/bench", help="directory of serve.json")
    options = flags.parse_args()
    pairs = read_text_pairs(options.data, options.set)[::7][:200]
    texts = [pair[options.side == "documents"] for pair in pairs]
    ours = ["scripts.serve", "--encoder.model", SAMPLE, "--encoder.dtype", options.dtype, "--port", "0"]
    ours += ["--threads", str(options.threads)] if options.threads else []
    by_ours, vectors = measure(ours, texts, options)
    by_peer, others = measure(["scripts.bench.workers.serve", SAMPLE], texts, options)
    print(f"  vectors differ by at most {np.abs(vectors - others).max():.2e}")
    rows: list[dict[str, Any]] = []
    for clients, figures, theirs in zip(CLIENTS, by_ours, by_peer, strict=True):
        for unit, figure in figures.items():
            name = f"{options.side}, {options.dtype}, {clients} clients, {unit}"
            row = {"name": name, "ours": figure, "peer": theirs[unit], "unit": unit, "ratio": figure / theirs[unit]}
            rows.append(row)
            print(f"  {name}: {figure:,.1f} against {theirs[unit]:,.1f}, ratio {row['ratio']:.2f}", flush=True)
    update_rows(Path(options.out) / "serve.json", rows)


if __name__ == "__main__":
    main()
