"""A run whose workers share the weights (FSDP2), on real Ray Train: killed, it goes on, with other workers too."""

from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from pipeline.core.errors import UserError
from pipeline.encoder.encoder import Encoder, EncoderConfig
from tests.support.runs import SETTINGS, killed_worker, make_data, settings
from training.loop.checkpoint import WEIGHTS
from training.loop.tensor_files import part_name
from training.run import job

TEXTS = ["how do I mend hose2?", "pan", "The lamp number 1 is repaired with part lamp1."]
KEEP = {"keep_finished": True}
LOOP = SETTINGS["loop"] | {"parallel": "fsdp", "learning_rate": 1e-3, "precision": "float32"}


def vectors(model: str) -> np.ndarray:
    return Encoder.load(EncoderConfig(model=model, dtype="float32"), "cpu").encode(TEXTS, "query")


def shards(run: Path) -> set[str]:
    """Names of the files of weights in all checkpoints of a run; no file has all rows of a weight."""
    paths = sorted((run / "training").rglob(f"{Path(WEIGHTS).stem}*.safetensors"))
    for path in paths:
        with safe_open(path, "pt") as file:
            name = next(name for name in file.keys() if name.endswith("word_embeddings.weight"))  # noqa: SIM118
            assert file.get_slice(name).get_shape()[0] < 30522
    return {path.name for path in paths}


@pytest.mark.ray
def test_a_sharded_run_goes_on_after_a_kill_with_as_many_workers_and_with_others(ray_session, tmp_path: Path):
    """Bit for bit with as many, by rounding with four in place of two."""
    undisturbed, killed, grown = (tmp_path / name for name in ("whole", "killed", "grown"))
    for run in (undisturbed, killed, grown):
        make_data(run)
    expected = vectors(job.run(settings(undisturbed, loop=LOOP, checkpoints=KEEP)))
    assert shards(undisturbed) == {part_name(WEIGHTS, rank, 2) for rank in (0, 1)}
    with killed_worker(killed, 3):
        restarted = job.run(settings(killed, loop=LOOP))
    np.testing.assert_array_equal(vectors(restarted), expected)
    with pytest.raises(UserError, match=r"a worker died|lost each other"), killed_worker(grown, 3):
        job.run(settings(grown, loop=LOOP, max_failures=0))
    others = job.run(settings(grown, loop=LOOP, workers=4, resume=True, checkpoints=KEEP))
    assert "with 4 workers, 2 before" in (grown / "training" / "metrics.jsonl").read_text()
    assert shards(grown) >= {part_name(WEIGHTS, rank, 4) for rank in range(4)}
    base = Encoder.load(EncoderConfig(layers=1, max_length=32, dtype="float32"), "cpu").encode(TEXTS, "query")
    moved, apart = np.linalg.norm(expected - base), np.linalg.norm(vectors(others) - expected)
    assert moved > 0.1 and apart < 5e-3 * moved
