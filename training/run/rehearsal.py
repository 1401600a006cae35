"""The end of a training on its untrained model, before the first step: what cannot be saved is found in seconds."""

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from pipeline.core.errors import UserError
from pipeline.encoder.encoder import Encoder
from pipeline.storage import files
from pipeline.storage.disk_space import require_space
from pipeline.storage.vectors import cosines
from training.loop.lora import attach_adapters, merge_adapters
from training.run.config import TrainConfig, TrainingConfig
from training.run.saved_model import load_saved

TEXTS = ["a", "which of these two texts is the longer one, and does a saved model see it as the one in memory did?"]
NEAREST = 0.9999  # cosine of a text's vectors before and after; both are of float32


def rehearse_end(config: TrainConfig, base: Encoder) -> None:
    """Save the model as it is now, load it, and compare vectors; then see that the place of the model can be written.

    With adapters a copy gets them and has them merged, as the trained ones will be. Raises UserError where the model
    cannot be saved or is another one when loaded, and where the disk has no room for the run.
    """
    path = config.paths["model"]
    require_space(path, run_bytes(config, base), f"the model and {config.checkpoints.keep + 1} checkpoints")
    model, extra_files = base, dict[str, bytes]()
    if config.lora:
        model = copy.deepcopy(base)
        extra_files = merge_adapters(model, attach_adapters(model, config.lora, 0), config.encoder.model)
    before = base.encode(TEXTS, "query")
    with place_beside(path) as folder:
        try:
            model.save(folder, extra_files=extra_files)
            after = load_saved(folder, config.encoder).encode(TEXTS, "query")
        except OSError:
            raise
        except Exception as error:
            layers = ", with encoder.layers" if config.encoder.layers else ""
            raise UserError(
                f"model {config.encoder.model}: cannot be saved{layers} and loaded again, so that training it would "
                f"leave nothing: {' '.join(str(error).split())[:300]}"
            ) from error
    cosine = cosines(before, after)
    if not (cosine > NEAREST).all():
        raise UserError(
            f"model {config.encoder.model}: is another one after it was saved and loaded (cosine {cosine.min():.4f}), "
            "so that the trained one would be lost; is there a newer version of the model's code or of transformers?"
        )


def run_bytes(config: TrainingConfig, base: nn.Module) -> float:
    """Bytes that a run keeps on its disk at the same time: the model, and weights and optimiser states a checkpoint."""
    weights = sum(value.numel() for value in base.parameters())
    trained = config.trained_share * weights
    copies = 1 + (1 if config.loop.optimizer_states == "bfloat16" else 2) + (1 if config.loop.average else 0)
    return 4.0 * (weights + copies * trained * (config.checkpoints.keep + 1))


@contextmanager
def place_beside(path: str) -> Iterator[str]:
    """A folder beside the model's; on a store one of this machine, after a trial file was written to the store."""
    parent = path.rstrip("/").rpartition("/")[0]
    if "://" in path:
        trial = files.join(parent, ".rehearsal.json")
        files.write_json(trial, {})
        fs, name = files.filesystem(trial)
        fs.rm(name)
        with tempfile.TemporaryDirectory() as folder:
            yield folder + "/model"
        return
    Path(parent).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=".rehearsal-") as folder:
        yield folder + "/model"
