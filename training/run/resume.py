"""What a run does where an earlier run exists: continue it, start anew, or refuse and name what is different.

plain      a finished run of the same data and settings is left as it is, an unfinished one goes on at its last
checkpoint; another one is refused, unless it lost nothing yet (no checkpoint) or --overwrite is given
--resume   as plain, but refused where there is nothing to go on with
--fresh    whatever is there is removed first
"""

from collections.abc import Mapping
from typing import Any

from pipeline.core.errors import UserError
from pipeline.storage import artifact, files
from training.run.config import TrainingConfig
from training.run.ray_trainer import committed


def resolve_existing_run(config: TrainingConfig, log: str, settings: dict[str, Any], inputs: Mapping[str, str]) -> None:
    """Remove or keep an earlier run as the settings say, or raise UserError."""
    fs, root = files.filesystem(log)
    ours = fs.exists(files.join(root, artifact.CONFIG))
    if config.fresh and ours:
        artifact.clear(log)
        return
    if fs.exists(files.join(root, artifact.MANIFEST)):
        return  # a finished run: the artifact itself says what is different
    checkpoints = committed(log) if ours else {}
    if not checkpoints:
        if config.resume:
            raise UserError(f"--resume: {log} holds no checkpoint to go on from; leave --resume out to begin")
        return
    changed = artifact.describe_difference(log, config.job, settings, inputs)
    if changed and not config.overwrite:
        step = max(figures["step"] for figures in checkpoints.values())
        raise UserError(
            f"{log}: holds an unfinished run at step {step}, {changed}; put that back to go on, give --fresh to start "
            "anew, or another --run"
        )
