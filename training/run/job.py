"""The training job: check the inputs, train on Ray, leave a model directory."""

from pipeline.core import ray_session
from pipeline.core.progress import say
from pipeline.encoder.encoder import Encoder
from pipeline.storage import artifact
from pipeline.storage.artifact import Artifact
from training.data.epoch import REPLAY
from training.data.guide_vectors import open_guide
from training.data.read_rows import open_mined
from training.losses.any_loss import check_rows
from training.run import model_card
from training.run.config import TrainConfig
from training.run.resume import settle
from training.run.rounds import Inputs, finished, rounds


def run(config: TrainConfig) -> str:
    """Train and leave a model directory that Sentence Transformers loads; returns its path.

    A finished run of the same data and settings is left as it is; an unfinished one goes on at its last checkpoint;
    `training.fit.again` says what --resume and --fresh change.
    """
    check_rows(
        config.loss,
        [*config.rows, *(config.replay.rows if config.replay else ())],
        guided=config.guide is not None,
    )
    for tracker in config.trackers:
        tracker.check()
    places = config.places
    data = Artifact.open(places["data"], "build")
    negatives = open_mined(places["negatives"]) if "mined" in config.rows else None
    base = Encoder.load(config.encoder.model_copy(update={"dtype": "float32"}), "cpu")
    inputs = {"data": data.manifest.fingerprint, "encoder": base.identity["weights"]}
    if negatives:
        inputs["negatives"] = negatives.manifest.fingerprint
    replayed = config.replay.open() if config.replay else None
    if replayed:
        inputs["replay"] = replayed.manifest.fingerprint
    inputs |= {name: one.manifest.fingerprint for name, one in open_guide(config.guide).items()}
    settle(config, places["log"], config.result_settings(), inputs)
    draft = artifact.begin(
        places["log"], "train", config.result_settings(), inputs, overwrite=config.overwrite, resume=True
    )
    if isinstance(draft, Artifact):
        say(f"train: already done: {places['model']}")
        return places["model"]
    ray_session.start()
    plan = artifact.digest([draft.settings, draft.inputs])
    trained = rounds(config, Inputs(data, negatives, replayed, base), plan)
    measured, notes = trained.kept.measured, trained.rows.manifest.notes
    beside = finished(config, base, trained.kept.best(), config.interpolation)
    own = sum(one["rows"] for name, one in notes["streams"].items() if name != REPLAY)
    told = model_card.write(config.model_dump(mode="json"), measured, own, notes["sources"], inputs)
    base.save(places["model"], told, beside)
    draft.drop(trained.first.manifest.dropped)
    refreshed = {"refreshed": trained.versions} if config.refresh else {}
    draft.finish([], model=places["model"], rows=own, plan=plan, validation=measured, **refreshed)
    say(f"train: done: {places['model']}")
    return places["model"]
