"""The loop under plain torchrun, without Ray: two processes that share the weights, and the same command once more."""

import json
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from tests.support.checkout import ROOT
from tests.support.loop import MemoryStore, make_parts
from training.loop.checkpoint import OPTIMIZER, WEIGHTS, CheckpointConfig, find_damage
from training.loop.step import TrainStep
from training.loop.tensor_files import TensorFiles, part_name
from training.loop.trainer import Trainer
from training.losses.infonce import InfoNCE


def main(folder: str) -> None:
    """What every process runs: three steps with a checkpoint each, from the newest that is there."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    try:
        encoder, rows, config = make_parts(16, 8, parallel="fsdp", max_steps=3, epochs=3, learning_rate=1e-3)
        store = MemoryStore(Path(folder))
        Trainer(TrainStep(encoder, InfoNCE(), rows, config), store, None, "plan", "", CheckpointConfig(steps=1)).run()
        saved_steps(Path(folder), dist.get_rank()).write_text(json.dumps(store.steps))
    finally:
        dist.destroy_process_group()


def saved_steps(folder: Path, rank: int) -> Path:
    """The file where a process says which steps it saved: lines of two processes may mix in one output."""
    return folder.with_name(f"saved-by-{rank}.json")


def torchrun(folder: Path) -> list[list[int]]:
    """The steps that each of two processes saved."""
    folder.mkdir(exist_ok=True)
    module = ["-m", "tests.training.loop.test_torchrun", str(folder)]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *module]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(saved_steps(folder, rank).read_text()) for rank in range(2)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = [TensorFiles(folder, name) for name in (WEIGHTS, OPTIMIZER)]
    return {name: some.whole(name) for some in files for name in some}


def test_the_loop_runs_and_goes_on_under_torchrun(tmp_path: Path):
    run = tmp_path / "run"
    assert torchrun(run) == [[1, 2, 3], [1, 2, 3]]
    assert {path.name for path in (run / "3").iterdir()} >= {part_name(WEIGHTS, rank, 2) for rank in (0, 1)}
    shutil.move(run / "3", tmp_path / "whole")
    assert torchrun(run) == [[3], [3]]
    again, whole = weights(run / "3"), weights(tmp_path / "whole")
    assert find_damage(run / "3") == "" and again.keys() == whole.keys()
    assert all(torch.equal(again[name], whole[name]) for name in whole)


if __name__ == "__main__":
    main(sys.argv[1])
