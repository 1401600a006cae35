"""The training job: check the inputs, train on Ray, leave a model directory."""

from collections.abc import Mapping

from pipeline.encoder.encoder import Encoder
from pipeline.storage import artifact
from pipeline.storage.artifact import Artifact, Draft
from training.data.epoch import REPLAY
from training.data.guide_vectors import open_guide
from training.data.read_rows import open_mined, read_sources
from training.data.teacher_projection import fit_width
from training.losses.any_loss import check_rows
from training.losses.by_source import check_sources
from training.run import model_card, truncation
from training.run.carry_out import carry_out
from training.run.config import TrainConfig
from training.run.loop_defaults import settle_loop
from training.run.rehearsal import rehearse_end
from training.run.rounds import Inputs, load_trained, train_rounds
from training.run.row_kinds import resolve_rows
from training.run.saved_model import SavedModelCheck
from training.run.similarity import follow_similarity


def run(config: TrainConfig) -> str:
    """Train and leave a model directory that Sentence Transformers loads; returns its path.

    A finished run of the same data and settings is left as it is; an unfinished one goes on at its last checkpoint;
    `training.run.resume` says what --resume and --fresh change. Raises UserError where the trained model equals its
    base, and where the saved directory, loaded anew, gives other vectors than the model in memory.
    """
    if config.rows != "auto":
        _check_loss(config)
    for tracker in config.trackers:
        tracker.check()
    paths = config.paths
    data = Artifact.open(paths["data"], "build")
    config = resolve_rows(config, data)
    _check_loss(config)
    negatives = open_mined(paths["negatives"]) if "mined" in config.kinds else None
    config = settle_loop(config, data, negatives)
    if config.loss.needs_sources():
        check_sources(config.loss, read_sources(config.kinds, data, negatives))
    base = Encoder.load(config.encoder.model_copy(update={"dtype": "float32", "backend": "torch"}), "cpu")
    config = follow_similarity(config, base)
    inputs = {"data": data.manifest.fingerprint, "encoder": base.identity["weights"]}
    if negatives:
        inputs["negatives"] = negatives.manifest.fingerprint
    replayed = config.replay.open() if config.replay else None
    if replayed:
        inputs["replay"] = replayed.manifest.fingerprint
    inputs |= {name: item.manifest.fingerprint for name, item in open_guide(config.guide).items()}
    settings, made_of = config, Inputs(data, negatives, replayed, base)
    return carry_out(
        settings, inputs, lambda: rehearse_end(settings, base), lambda draft: _train(settings, draft, made_of, inputs)
    )


def _check_loss(config: TrainConfig) -> None:
    """Raise UserError where the loss does not fit the kinds of rows."""
    kinds = [*config.kinds, *(config.replay.rows if config.replay else ())]
    check_rows(config.loss, kinds, guided=config.guide is not None)


def _train(config: TrainConfig, draft: Draft, made_of: Inputs, inputs: Mapping[str, str]) -> None:
    """Train, save the model and finish the run."""
    paths, base = config.paths, made_of.base
    plan = artifact.digest([draft.settings, draft.inputs])
    if config.guide and config.loss.needs_teacher_width():
        guide = fit_width(config.guide, base.dim, paths["teacher"])
        config = config.model_copy(update={"guide": guide})
    cut = truncation.measure(config, made_of.data, made_of.negatives, base)
    trained = train_rounds(config, made_of, plan)
    measured, notes = trained.checkpoints.validations, trained.rows.manifest.notes
    check = SavedModelCheck.begin(made_of.data, base)
    extra_files = load_trained(config, base, trained.checkpoints.best(), config.interpolation)
    vectors = check.require_change(base)
    run_rows = sum(stream["rows"] for name, stream in notes["streams"].items() if name != REPLAY)
    settings = config.model_dump(mode="json")
    card = model_card.render(settings, measured, run_rows, notes["sources"], inputs, truncation=list(cut.values()))
    base.save(paths["model"], card, extra_files)
    vectors |= check.compare(base, paths["model"], config.encoder)
    draft.drop(trained.first.manifest.dropped)
    refreshed = {"refreshed": trained.versions} if config.refresh else {}
    facts = {"validation": measured, "vectors": vectors, "truncation": cut, **refreshed}
    draft.finish([], model=paths["model"], rows=run_rows, plan=plan, **facts)
