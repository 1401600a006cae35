"""A training job from its checked settings to its model: what exists already, the rehearsal, the cluster, the end."""

from collections.abc import Callable, Mapping

from pipeline.core import capacity, ray_session
from pipeline.core.progress import say
from pipeline.storage import artifact
from pipeline.storage.artifact import Artifact, Draft
from training.run.config import ElasticWorkers, TrainingConfig
from training.run.ray_trainer import prune_checkpoints
from training.run.resume import resolve_existing_run
from training.run.tracker import tell_trackers


def carry_out(
    config: TrainingConfig,
    inputs: Mapping[str, str],
    rehearse: Callable[[], None],
    train: Callable[[Draft], None],
) -> str:
    """Leave a finished run as it is, or rehearse its end, start Ray, and train; returns the path of the model.

    `inputs` are fingerprints of all that the run is made of. `train` writes the model and finishes the draft.
    """
    paths = config.paths
    resolve_existing_run(config, paths["log"], config.result_settings(), inputs)
    draft = artifact.begin(
        paths["log"], config.job, config.result_settings(), inputs, overwrite=config.overwrite, resume=True
    )
    if isinstance(draft, Artifact):
        prune_checkpoints(config)
        say(f"train: already done: {paths['model']}")
        return paths["model"]
    rehearse()
    ray_session.start()
    workers = config.workers.min if isinstance(config.workers, ElasticWorkers) else config.workers
    capacity.bring_gpus("train", config.gpus, workers)
    with tell_trackers(config.trackers, paths["log"], paths["model"]):
        train(draft)
        prune_checkpoints(config)
        say(f"train: done: {paths['model']}")
    return paths["model"]
