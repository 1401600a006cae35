"""Change important lines one by one: `python -m scripts.drills.mutate [--only WORD] [--part 1/4] [--processes N]`.

`mutations.yaml` lists lines that must not be wrong (losses, masks, gather, batches, resume, identity, metrics, rules,
splits), for each a mistake that somebody could make in it, and the test that must notice. Every mistake is made alone,
in a copy of the checkout, and its test alone is run: in a fork of a process that has imported the libraries already, so
that a mutation costs seconds. A mutation that its test does not notice survives: a test is missing. Exits with 1 where
one survives, and with 2 where the list is wrong.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("mutations.yaml")
LIMIT_S = 300.0  # of one test; a mutation that makes it run on for ever is noticed, too
PASSED, FAILED = 0, 1  # exit codes of pytest
FOREIGN = 70  # exit code of a child that tested another checkout than its copy
LIBRARIES = ("numpy", "pyarrow.compute", "pydantic", "torch", "transformers", "datasets", "ray", "scipy", "hypothesis")


@dataclass(frozen=True)
class Mutation:
    """One line of a file (without its indentation), what it becomes, and the test that must notice."""

    file: str
    line: str
    becomes: str
    test: str

    def __str__(self) -> str:
        return f"{self.file}: {self.line}  ->  {self.becomes}"

    def apply(self, text: str) -> str:
        """Change the line in the text of its file; raises UserError where it is not there exactly once."""
        lines = text.split("\n")
        places = [number for number, line in enumerate(lines) if line.strip() == self.line]
        if len(places) != 1:
            raise UserError(f"{self.file}: the line is there {len(places)} times, wanted once: {self.line}")
        line = lines[places[0]]
        lines[places[0]] = line[: len(line) - len(line.lstrip())] + self.becomes
        return "\n".join(lines)


@dataclass(frozen=True)
class Outcome:
    """What became of a mutation: "caught", "survived" or "broken" (its test could not be run), and after how long."""

    mutation: Mutation
    result: str
    seconds: float
    output: str


def read_mutations(path: Path = LIST) -> list[Mutation]:
    """Read a list of mutations; raises UserError for an entry that lacks a field or has another."""
    try:
        return [Mutation(**entry) for entry in yaml.safe_load(path.read_text(encoding="utf-8"))]
    except TypeError as error:
        raise UserError(f"{path}: an entry needs file, line, becomes and test, and nothing else: {error}") from error


def copy_checkout(root: Path, folder: Path) -> None:
    """Copy what git knows, and what it would not ignore, so that the checkout itself is never changed."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=root, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, folder / name)


def try_mutation(mutation: Mutation, folder: Path) -> Outcome:
    """Make the mutation in a copy of the checkout, run its test, and put the line back."""
    path, begun = folder / mutation.file, time.monotonic()
    before = path.read_text(encoding="utf-8")
    path.write_text(mutation.apply(before), encoding="utf-8")
    try:
        code, output = run_tests([mutation.test], folder)
    finally:
        path.write_text(before, encoding="utf-8")
    result = {PASSED: "survived", FAILED: "caught", -signal.SIGALRM: "caught"}.get(code, "broken")
    return Outcome(mutation, result, time.monotonic() - begun, output)


def run_tests(tests: Sequence[str], folder: Path) -> tuple[int, str]:
    """Run tests of a copy of the checkout in a forked child; returns its exit code and what it printed."""
    with tempfile.TemporaryFile("w+") as printed:
        child = os.fork()
        if child == 0:
            os.dup2(printed.fileno(), 1)
            os.dup2(printed.fileno(), 2)
            signal.alarm(int(LIMIT_S))
            os._exit(_pytest_in(folder, tests))
        _, status = os.waitpid(child, 0)
        printed.seek(0)
        return os.waitstatus_to_exitcode(status), printed.read()


def _pytest_in(folder: Path, tests: Sequence[str]) -> int:
    """Run pytest on a copy of the checkout, of which nothing has been imported."""
    import pytest

    ours = {path.name for path in folder.iterdir() if (path / "__init__.py").is_file()}
    for name in [name for name in sys.modules if name.split(".")[0] in ours]:
        del sys.modules[name]
    os.chdir(folder)
    os.environ["PYTHONPATH"], os.environ["PYTHONDONTWRITEBYTECODE"] = str(folder), "1"
    sys.dont_write_bytecode = True  # a file of the same second and size would be taken for the one before
    sys.path[:] = [str(folder), *(entry for entry in sys.path if entry and Path(entry).resolve() != ROOT)]
    code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))
    imported = [module.__file__ for name, module in sys.modules.items() if name in ours and module.__file__]
    return code if all(Path(file).is_relative_to(folder) for file in imported) else FOREIGN


def import_libraries() -> None:
    """Import what most tests need besides this project, once for all forks."""
    for name in LIBRARIES:
        __import__(name)


def try_all(mutations: Sequence[Mutation], root: Path, processes: int) -> list[Outcome]:
    """Try mutations in several processes, each with a copy of the checkout; prints each as it is known.

    Raises UserError where one of the named tests fails without any mutation.
    """
    import multiprocessing

    import_libraries()
    with tempfile.TemporaryDirectory(prefix="mutate-") as name:
        folders = [Path(name) / str(number) for number in range(processes)]
        for folder in folders:
            copy_checkout(root, folder)
        code, output = run_tests(sorted({mutation.test for mutation in mutations}), folders[0])
        if code != PASSED:
            raise UserError(f"the tests fail without a mutation (exit code {code}):\n{output[-3000:]}")
        with multiprocessing.get_context("fork").Pool(processes, _own_folder, (_queue(folders),)) as pool:
            outcomes = []
            for outcome in pool.imap(_try_here, mutations, chunksize=1):
                print(f"{outcome.result:8} {outcome.seconds:4.1f} s  {outcome.mutation}", flush=True)
                outcomes.append(outcome)
            return outcomes


_here: list[Path] = []  # the copy of the checkout that this process changes


def _queue(folders: Sequence[Path]) -> Any:
    import multiprocessing

    queue = multiprocessing.get_context("fork").SimpleQueue()
    for folder in folders:
        queue.put(folder)
    return queue


def _own_folder(queue: Any) -> None:
    _here.append(queue.get())


def _try_here(mutation: Mutation) -> Outcome:
    return try_mutation(mutation, _here[0])


def report(outcomes: Sequence[Outcome]) -> int:
    """Print the score, and what was not caught with the end of its test's output; returns the exit code."""
    count = Counter(outcome.result for outcome in outcomes)
    for outcome in outcomes:
        if outcome.result != "caught":
            print(f"\n{outcome.result}: {outcome.mutation}\n    {outcome.mutation.test}\n{outcome.output[-1500:]}")
    print(f"mutate: {count['caught']} of {len(outcomes)} mutations caught ({count['caught'] / len(outcomes):.1%})")
    return 0 if count["caught"] == len(outcomes) else 1


def flags() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m scripts.drills.mutate", description=__doc__)
    parser.add_argument("--only", default="", help="mutations whose file, line or test holds this word")
    parser.add_argument("--part", default="1/1", help="a part of the list, such as 2/4: every fourth, from the second")
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 1) // 2))
    return parser.parse_args()


def main() -> None:
    """Try the mutations that were asked for, and report."""
    options = flags()
    number, parts = (int(text) for text in options.part.split("/"))
    try:
        mutations = [one for one in read_mutations() if options.only in f"{one} {one.test}"][number - 1 :: parts]
        if not mutations:
            raise UserError("no mutation of the list is meant; look at --only and --part")
        sys.exit(report(try_all(mutations, ROOT, options.processes)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
