"""The training of a reranker: check the inputs, train on Ray, leave a directory that reranks."""

from collections.abc import Mapping

from pipeline.core.errors import UserError
from pipeline.encoder.pair_classifier import PairClassifier
from pipeline.storage import artifact
from pipeline.storage.artifact import Artifact, Draft
from pipeline.storage.disk_space import require_space
from training.data.epoch_reader import epoch_path
from training.data.read_rows import open_mined
from training.loop.checkpoint import load_weights
from training.loop.embed_module import EmbedModule
from training.loop.reranker_step import as_encoder
from training.run import reranker_card
from training.run.carry_out import carry_out
from training.run.epochs import EpochComposer, epoch_settings, prepare_reranker_rows
from training.run.loop_defaults import settle_loop
from training.run.ray_trainer import fit
from training.run.rehearsal import run_bytes
from training.run.reranker_config import RerankerConfig
from training.run.resources import plan_resources
from training.run.row_kinds import resolve_rows
from training.run.run_store import remove_copies
from training.run.saved_reranker import SavedRerankerCheck, rehearse


def run(config: RerankerConfig) -> str:
    """Train a reranker and leave a directory that `CrossEncoder` of Sentence Transformers loads; returns its path.

    Runs go on, are left alone or refused as those of an encoder (`training.run.resume`). Raises UserError where the
    trained model equals its base, and where the saved directory, loaded anew, gives other scores.
    """
    for tracker in config.trackers:
        tracker.check()
    paths = config.paths
    data = Artifact.open(paths["data"], "build")
    settings = resolve_rows(config, data)
    check_loss(settings)
    negatives = open_mined(paths["negatives"]) if "mined" in settings.kinds else None
    settings = settle_loop(settings, data, negatives)
    base = PairClassifier.load(settings.cross_encoder, "cpu", settings.loop.seed)
    inputs = {"data": data.manifest.fingerprint, "cross_encoder": base.identity["weights"]}
    if negatives:
        inputs["negatives"] = negatives.manifest.fingerprint

    def rehearse_end() -> None:
        space = run_bytes(settings, base)
        require_space(paths["model"], space, f"the reranker and {settings.checkpoints.keep + 1} checkpoints")
        rehearse(data, base, paths["model"])

    return carry_out(
        settings, inputs, rehearse_end, lambda draft: _train(settings, draft, data, negatives, base, inputs)
    )


def check_loss(config: RerankerConfig) -> None:
    """Raise UserError where the loss takes every row for a right pair and some are not."""
    if "labelled" in config.kinds and config.loss.assumes_positives():
        raise UserError(
            f"loss {config.loss.type}: takes every row for a right pair, and rows: [labelled] hold wrong ones too; "
            "choose binary_cross_entropy, or other rows"
        )


def _train(
    config: RerankerConfig,
    draft: Draft,
    data: Artifact,
    negatives: Artifact | None,
    base: PairClassifier,
    inputs: Mapping[str, str],
) -> None:
    """Train, save the model and finish the run."""
    plan = artifact.digest([draft.settings, draft.inputs])
    cluster = plan_resources(config)
    rows = prepare_reranker_rows(config, data, negatives, base)
    how = epoch_settings(config, range(cluster.min_workers, cluster.max_workers + 1))
    with EpochComposer(rows, how, config, spare_cpus=cluster.spare_cpus):
        checkpoints = fit(config, plan)
    check = SavedRerankerCheck.begin(data, base)
    load_weights(EmbedModule(as_encoder(base), config.loss.learnable()), checkpoints.best())
    remove_copies()
    scores = check.require_change(base)
    path, notes, measured = config.paths["model"], rows.manifest.notes, checkpoints.validations
    settings = config.model_dump(mode="json")
    base.save(path, reranker_card.render(settings, measured, notes["rows"], notes["sources"], inputs))
    scores |= check.compare(base, path)
    draft.drop(Artifact.open(epoch_path(config.paths["epochs"], 0), "epoch").manifest.dropped)
    draft.finish([], model=path, rows=notes["rows"], plan=plan, validation=measured, scores=scores)
