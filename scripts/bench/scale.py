"""What the jobs do at a size that nobody runs for a test: files, requests, bytes and memory, counted and not run.

`python -m scripts.bench.scale [--rows N --bytes N --cpus N --gpus N --nodes N --dim N --buckets N ...]` takes seconds.
The numbers of blocks, buckets, shards, chunks and levels come from the jobs' own functions and constants. The files
that each step of a build opens and writes are those of a real build, and the requests of a file are those of s3fs:
`tests/scripts/test_scale.py` compares both. Bytes and memory follow from the widths of rows and are estimates.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import lru_cache

from pipeline.building.config import MAX_BUCKETS
from scripts.bench.scaling import vectors
from scripts.bench.scaling.build import BuildPlan
from scripts.bench.scaling.size import COPIES, GIB, Size, Step
from scripts.bench.scaling.train import train

Measure = Callable[[Step, Size], float]
Limit = tuple[str, float, Measure]
LIMITS: list[Limit] = [
    ("10 M files opened in a step", 1e7, lambda step, _: step.opened),
    ("16 GiB on the head", 16 * GIB, lambda step, _: step.head_memory),
    ("4 GiB in a task", 4 * GIB, lambda step, _: step.task_memory),
    ("1,000 $ of requests in a step", 1000.0, lambda step, _: step.usd),
    ("24 h of waiting for requests", 86_400.0, lambda step, size: step.waiting_s(size.cpus)),
    ("1 PB read in a step", 1e15, lambda step, _: step.read_bytes),
    ("1 G items in the head's Python", 1e9, lambda step, _: step.driver_rows),
]
COLUMNS = ["step", "tasks", "opens", "files", "GET+HEAD", "PUT+LIST", "$", "wait h", "read", "written"]
COLUMNS += ["task", "node", "head"]
BUCKETS = (512, 1024, 2048, MAX_BUCKETS, 4 * MAX_BUCKETS)  # the last is beyond what a recipe may set
SUFFIXES = ("", "k", "M", "G", "T", "P", "E")
SMALLEST, BISECTIONS = 1e-6, 12  # share of the size at which the search for what breaks begins, and its steps


@lru_cache(maxsize=4096)
def plan(size: Size) -> tuple[Step, ...]:
    """All steps of all jobs at a size."""
    build = BuildPlan(size)
    files = build.buckets
    jobs = [build.steps, vectors.mine(size, files), train(size, files), vectors.embed(size, files)]
    jobs += [vectors.evaluate(size, files), vectors.index(size, files), vectors.search(size)]
    return tuple(step for steps in jobs for step in steps)


def breaks(size: Size) -> list[tuple[float, str, Step]]:
    """The first limit that each step exceeds up to this size: from how many rows on, which, the step; in that order."""
    first = []
    for step in plan(size):
        exceeded = [(_smallest(size, step, limit), limit[0]) for limit in LIMITS if limit[2](step, size) > limit[1]]
        first += [(*min(exceeded), step)] if exceeded else []
    return sorted(first, key=lambda item: item[0])


def _smallest(size: Size, step: Step, limit: Limit) -> float:
    """Rows from which on a step exceeds a limit, by bisection of the size."""
    low, high = SMALLEST, 1.0
    for _ in range(BISECTIONS):
        middle = (low * high) ** 0.5
        of_size = size.scaled(middle)
        same = (other for other in plan(of_size) if (other.job, other.name) == (step.job, step.name))
        exceeds = any(limit[2](other, of_size) > limit[1] for other in same)
        low, high = (low, middle) if exceeds else (middle, high)
    return size.rows * high


def short(number: float) -> str:
    """A number in two or three digits: 12, 3.4k, 111M."""
    power = 0
    number = round(number, 2)
    while number >= 999.5 and power < len(SUFFIXES) - 1:
        number, power = number / 1000, power + 1
    digits = f"{number:.0f}" if number >= 99.5 or not number % 1 else f"{number:.2g}"
    return f"{digits}{SUFFIXES[power]}"


def _cells(step: Step, size: Size) -> list[str]:
    numbers = [
        step.tasks,
        step.opened,
        step.written,
        step.reads,
        step.writes,
        step.usd,
        step.waiting_s(size.cpus) / 3600,
    ]
    sizes = [step.read_bytes, step.written_bytes, step.task_memory, step.node_memory(size), step.head_memory]
    memory = [f"{short(value)}B" for value in sizes]
    return [step.name, *map(short, numbers), *memory]


def _table(rows: list[list[str]]) -> Iterator[str]:
    for number, row in enumerate(rows):
        yield "| " + " | ".join(row) + " |"
        if not number:
            yield "|" + "---|" * len(row)


def _by_buckets(size: Size) -> Iterator[str]:
    """What other numbers of buckets cost a build: opens are files x buckets, and a bucket is what a task holds."""
    rows = [["buckets", "files x buckets", "opens of all steps", "$ of all steps", "largest bucket in a task"]]
    for buckets in sorted({*BUCKETS, BuildPlan(size).buckets}):
        build = BuildPlan(replace(size, buckets=buckets))
        steps = [step for step in build.steps if not step.large_tasks]
        merged = build.merged.bytes * COPIES if build.merged else 0.0  # which is in no bucket
        largest = max(
            step.task_memory - (merged if step.name in ("join_documents", "judgments") else 0) for step in steps
        )
        sums = [build.parts * buckets, sum(s.opened for s in build.steps), sum(s.usd for s in build.steps)]
        rows.append([f"{buckets:,}", *map(short, sums), f"{short(largest)}B"])
    return _table(rows)


def report(size: Size) -> str:
    """A table a job, other numbers of buckets, and what breaks first."""
    build = BuildPlan(size)
    lines = [
        f"{size.rows:,} rows, {size.bytes / 1e12:,.3g} TB, {size.cpus:,} CPUs, {size.gpus} GPUs, {size.nodes} nodes: "
        f"{build.blocks:,} blocks staged in {build.parts:,} files, {build.buckets:,} buckets. A step that joins opens "
        f"files x buckets, {build.parts:,} x {build.buckets:,} = {short(build.parts * build.buckets)} for each of the "
        "tables that the blocks staged."
    ]
    for job in dict.fromkeys(step.job for step in plan(size)):
        of_job = [step for step in plan(size) if step.job == job]
        lines += ["", f"`{job}`", "", *_table([COLUMNS, *(_cells(step, size) for step in of_job)])]
    lines += ["", "A build with other numbers of buckets:", "", *_by_buckets(size), "", "What breaks first:", ""]
    broken = [[short(rows), f"{step.job}: {step.name}", name] for rows, name, step in breaks(size)]
    lines += _table([["from rows", "step", "limit"], *broken]) if broken else ["Nothing does, up to this size."]
    return "\n".join(lines)


def main() -> None:
    """Print the report for the size that the flags name."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.scale", description=__doc__.splitlines()[0])
    for field in fields(Size):
        kind = int if field.name == "buckets" else type(field.default)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    print(report(Size(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
