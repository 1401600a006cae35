"""The loop under plain torchrun, without Ray: two processes that share the weights, and the same command once more."""

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
        print(f"rank {dist.get_rank()} saved {store.steps}", flush=True)
    finally:
        dist.destroy_process_group()


def torchrun(folder: Path) -> list[str]:
    folder.mkdir(exist_ok=True)
    module = ["-m", "tests.training.loop.test_torchrun", str(folder)]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *module]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return sorted(line for line in done.stdout.splitlines() if line.startswith("rank "))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = [TensorFiles(folder, name) for name in (WEIGHTS, OPTIMIZER)]
    return {name: some.whole(name) for some in files for name in some}


def test_the_loop_runs_and_goes_on_under_torchrun(tmp_path: Path):
    run = tmp_path / "run"
    assert torchrun(run) == ["rank 0 saved [1, 2, 3]", "rank 1 saved [1, 2, 3]"]
    assert {path.name for path in (run / "3").iterdir()} >= {part_name(WEIGHTS, rank, 2) for rank in (0, 1)}
    shutil.move(run / "3", tmp_path / "whole")
    assert torchrun(run) == ["rank 0 saved [3]", "rank 1 saved [3]"]
    again, whole = weights(run / "3"), weights(tmp_path / "whole")
    assert find_damage(run / "3") == "" and again.keys() == whole.keys()
    assert all(torch.equal(again[name], whole[name]) for name in whole)


if __name__ == "__main__":
    main(sys.argv[1])
