"""The suite in two processes: a file's tests are run by one of them, and so is all that needs the Ray cluster."""

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = ["tests/pipeline/core/test_progress.py", "tests/pipeline/text/test_analyzer.py"]


def test_the_tests_of_a_file_stay_in_one_process():
    command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadgroup", "-v", "-p", "no:cacheprovider", *FILES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    processes = defaultdict(set)
    for process, file in re.findall(r"\[(gw\d)\].*?PASSED (\S+?\.py)::", done.stdout):
        processes[file].add(process)
    assert sorted(processes) == FILES
    assert all(len(used) == 1 for used in processes.values()), f"a file's tests are spread: {dict(processes)}"
