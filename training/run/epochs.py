"""Rows of a run, tokenised once, and its epochs, each composed while training reads the one before."""

import math
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from types import TracebackType
from typing import Any

from pipeline.core.config import user_cause
from pipeline.core.progress import say
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.encoder.pair_classifier import PairClassifier
from pipeline.encoder.passages import PassageCutter
from pipeline.storage import files, shuffle
from pipeline.storage.artifact import Artifact, digest
from pipeline.storage.counts import Counts
from pipeline.storage.files import join, write_json
from pipeline.storage.shuffle import Shuffle
from training.data.bulk_rows import BulkRows, count_buckets, write_bulk_rows
from training.data.epoch import EpochSettings, RunTasks, run_in_process
from training.data.epoch_composer import compose_epoch
from training.data.epoch_reader import FAILED, OPENED, epoch_path, slots_for
from training.data.guide_vectors import open_guide
from training.data.passage_choice import PassageChoice
from training.data.read_rows import Kind, load_rows, read_table, sample_rows, with_guide
from training.data.replay import load_with_replay
from training.data.rows import Rows
from training.data.rows_artifact import tokenise_in_pieces, write_rows
from training.loop.step import LoopConfig
from training.run.config import TrainConfig, TrainingConfig
from training.run.reranker_config import RerankerConfig

MAX_SLOTS = 60  # for a number of workers that changes: a slot is a piece of its own in every pass with dropout
ROW_SETTINGS = frozenset(
    {"rows", "max_negatives", "negative_sampling", "max_rows", "homogeneous_batches", "mix", "mix_temperature", "guide"}
    | {"replay", "passages"}
)
LOCAL_ROWS = 50_000  # rows up to which composing in this process is over before Ray has started its tasks


def prepare_rows(
    config: TrainConfig,
    data: Artifact,
    negatives: Artifact | None,
    replayed: Artifact | None,
    encoder: Encoder,
    version: int = 0,
) -> Artifact:
    """Rows of a run with a version of its negatives, as an artifact; written again where inputs or settings changed."""
    path, settings = config.version(version)["rows"], row_settings(config)
    inputs = {"data": data.manifest.fingerprint, "encoder": digest(encoder.identity)}
    choice = passage_choice(config, encoder)
    inputs |= {"passages": digest(choice.chooser.identity)} if choice else {}
    other_inputs = {"negatives": negatives, "replay": replayed, **open_guide(config.guide)}
    inputs |= {name: item.manifest.fingerprint for name, item in other_inputs.items() if item}
    if stored_rows(config, data, negatives) <= LOCAL_ROWS or replayed:
        rows = _load_rows(config, data, negatives, replayed)
        rows = choice(rows) if choice else rows
        rows_artifact = write_rows(path, settings, inputs, tokenise_in_pieces(rows, encoder.tokenize))
    else:
        bulk = _bulk_rows(config, data, negatives, path)
        rows_artifact = write_bulk_rows(settings, inputs, bulk, on_ray(join(bulk.shuffle.path, "marks")))
    return _announced(rows_artifact)


def prepare_reranker_rows(
    config: RerankerConfig, data: Artifact, negatives: Artifact | None, model: PairClassifier
) -> Artifact:
    """Rows of a run of a reranker, as `prepare_rows`: texts are tokenised once, and joined to pairs in each step."""
    path, settings = config.paths["rows"], row_settings(config)
    inputs = {"data": data.manifest.fingerprint, "cross_encoder": digest(model.identity)}
    inputs |= {"negatives": negatives.manifest.fingerprint} if negatives else {}
    limit = config.max_negatives if config.negative_sampling == "first" else None
    choice = (limit, config.max_rows, config.mix, config.mix_temperature)
    if stored_rows(config, data, negatives) <= LOCAL_ROWS:
        rows = load_rows(config.kinds, data, negatives, *choice)
        rows = replace(rows, stream=rows.source) if config.one_source_batches else rows
        return _announced(write_rows(path, settings, inputs, tokenise_in_pieces(rows, model.tokenize)))
    shuffle = Shuffle(join(path, "staging"), 1)
    bulk = BulkRows(
        config.kinds, data, negatives, config.cross_encoder, shuffle, path, *choice, config.one_source_batches
    )
    bulk = replace(bulk, shuffle=Shuffle(shuffle.path, count_buckets(bulk)))
    return _announced(write_bulk_rows(settings, inputs, bulk, on_ray(join(shuffle.path, "marks"))))


def row_settings(config: TrainingConfig) -> dict[str, Any]:
    """Settings that decide the rows of a run."""
    settings = {name: value for name, value in config.result_settings().items() if name in ROW_SETTINGS}
    return settings | {"homogeneous_batches": config.one_source_batches}


def _announced(rows: Artifact) -> Artifact:
    """The rows, of which a line says how many they are."""
    notes = rows.manifest.notes
    say(f"train: {notes['rows']:,} rows with {notes['tokens']:,} tokens of {', '.join(notes['sources'])}")
    return rows


def passage_choice(config: TrainConfig, base: Encoder) -> PassageChoice | None:
    """What replaces documents by passages, if the settings ask for it; `base` is the model that training begins with.

    Raises UserError for passages that it cannot read.
    """
    if config.passages is None:
        return None
    settings = chooser_settings(config)
    chooser = Encoder.load(settings, "cpu") if config.passages.encoder else base
    say(f"train: documents are the passages of {config.passages.tokens} tokens that {settings.model} finds nearest")
    return PassageChoice(PassageCutter(base, config.passages), chooser)


def chooser_settings(config: TrainConfig) -> EncoderConfig:
    """The encoder that chooses passages: in float32, so that the choice is the same in every process."""
    settings = (config.passages and config.passages.encoder) or config.encoder
    return settings.model_copy(update={"dtype": "float32", "backend": "torch"})


def stored_rows(config: TrainingConfig, data: Artifact, negatives: Artifact | None) -> int:
    """Rows of the tables that the rows of a run are made of."""
    return sum(_stored_rows(kind, data, negatives) for kind in config.kinds)


def _stored_rows(kind: Kind, data: Artifact, negatives: Artifact | None) -> int:
    """Rows of the table that a kind of rows is made of."""
    if kind == "mined":
        return negatives.rows("triplets") if negatives else 0
    return data.rows("queries" if kind == "judged" else kind)


def _bulk_rows(config: TrainConfig, data: Artifact, negatives: Artifact | None, path: str) -> BulkRows:
    bulk = BulkRows(
        config.kinds,
        data,
        negatives,
        config.encoder,
        Shuffle(join(path, "staging"), 1),
        path,
        config.max_negatives if config.negative_sampling == "first" else None,
        config.max_rows,
        config.mix,
        config.mix_temperature,
        config.one_source_batches,
        open_guide(config.guide),
        passages=config.passages,
        chooser=chooser_settings(config),
    )
    return replace(bulk, shuffle=Shuffle(bulk.shuffle.path, count_buckets(bulk)))


def on_ray(marks: str) -> RunTasks:
    """Run tasks on Ray; each writes a mark when it is done, so that a killed job continues from there."""
    return lambda name, count, task: shuffle.run_tasks(name, count, task, marks, shuffle.ignore_progress)


def _load_rows(config: TrainConfig, data: Artifact, negatives: Artifact | None, replayed: Artifact | None) -> Rows:
    """Rows of a run, those of the replayed artifact in a stream of their own."""
    max_negatives = config.max_negatives if config.negative_sampling == "first" else None
    if config.replay and replayed:
        run_rows = sample_rows(read_table(config.kinds, data, negatives), config.max_rows)
        rows = load_with_replay(run_rows, data, config.replay, replayed, max_negatives)
    else:
        rows = load_rows(
            config.kinds, data, negatives, max_negatives, config.max_rows, config.mix, config.mix_temperature
        )
    if config.one_source_batches:
        rows = replace(rows, stream=rows.source)
    return with_guide(rows, open_guide(config.guide)) if config.guide else rows


def epoch_settings(config: TrainingConfig, ranks: Iterable[int]) -> EpochSettings:
    """How the epochs of a run are composed, for any of these numbers of workers.

    Slots divide among all of them while that takes few; else among the most, and other numbers balance less well.
    """
    loop, ranks = config.loop, list(ranks)
    even = math.lcm(*ranks)
    return EpochSettings(
        loop.batch_size,
        loop.seed,
        slots_for(loop.slots, even if even <= MAX_SLOTS or loop.slots else max(ranks)),
        config.max_negatives,
        config.negative_sampling == "random",
        config.replay_share,
    )


def count_steps(home: str, stop: int) -> int:
    """Count the steps of the epochs before epoch `stop`, all of which exist."""
    return sum(Artifact.open(epoch_path(home, number), "epoch").manifest.notes["steps"] for number in range(stop))


def total_steps(home: str, loop: LoopConfig) -> int:
    """Steps of a run, as its first epoch decides; `loop_defaults` has decided on the number of epochs."""
    return min(loop.max_steps or 1 << 60, (loop.epochs or 1) * count_steps(home, 1))


class _TrainingEnded(Exception):
    """Training has ended, so the epoch that is being composed is not needed."""


class EpochComposer:
    """Composes the epochs of a run: the first before training begins, each other while the one before is read.

    A run whose rows change composes those from `start` to before `stop` of the same rows. Where training leaves
    `spare_cpus` and the rows are many, the later ones are composed by as many tasks on Ray, else by a thread here.
    """

    def __init__(
        self,
        rows: Artifact,
        how: EpochSettings,
        config: TrainingConfig,
        start: int = 0,
        stop: int | None = None,
        spare_cpus: int = 0,
    ) -> None:
        self.rows, self.how, self.home, self.loop = rows, how, config.paths["epochs"], config.loop
        self.start, self.stop, self.spare_cpus = start, stop, spare_cpus
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._compose_ahead, daemon=True)
        self.first = self._compose(start, self._spread(start))
        left = ", ".join(f"{count:,} {reason}" for reason, count in self.first.manifest.dropped.items()) or "no row"
        notes = self.first.manifest.notes
        say(f"train: epoch {start} has {notes['steps']:,} steps, {notes['tokens']:,} tokens; left out of it: {left}")

    def __enter__(self) -> "EpochComposer":
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over.set()
        self.thread.join()

    def _compose(self, number: int, spread: RunTasks) -> Artifact:
        path = epoch_path(self.home, number)
        fs, failed = files.filesystem(path + FAILED)
        if fs.exists(failed):
            fs.rm(failed)
        return compose_epoch(self.rows, self.how, number, path, spread)

    def _spread(self, number: int) -> RunTasks:
        """Run tasks on Ray where there are many rows; only before training takes the CPUs."""
        if self.rows.rows("rows") <= LOCAL_ROWS:
            return run_in_process
        return on_ray(join(epoch_path(self.home, number), "staging", "marks"))

    def _spread_ahead(self, number: int) -> RunTasks:
        """Run tasks on the CPUs that training leaves, where that pays, until training has ended."""
        if self.rows.rows("rows") <= LOCAL_ROWS or not self.spare_cpus:
            return self._run_until_ended
        marks = join(epoch_path(self.home, number), "staging", "marks")
        return lambda name, count, task: shuffle.run_tasks(
            name, count, task, marks, self._check_ended, at_once=self.spare_cpus
        )

    def _check_ended(self, _: int) -> None:
        if self.over.is_set():
            raise _TrainingEnded

    def _run_until_ended(self, _: str, count: int, task: Callable[[int], Counts]) -> list[Counts]:
        """Run tasks in this process, until training has ended."""
        counts = []
        for number in range(count):
            self._check_ended(number)
            counts.append(task(number))
        return counts

    def _compose_ahead(self) -> None:
        """Compose epochs until there are enough steps."""
        number = self.start + 1
        done, total = count_steps(self.home, number), total_steps(self.home, self.loop)
        while done < total and number != self.stop:
            opened_before = epoch_path(self.home, number - 1) + OPENED
            fs, mark = files.filesystem(opened_before)
            while not fs.exists(mark):
                if self.over.wait(0.2):
                    return
            try:
                done += self._compose(number, self._spread_ahead(number)).manifest.notes["steps"]
            except _TrainingEnded:
                return
            except BaseException as error:
                cause = user_cause(error)
                write_json(epoch_path(self.home, number) + FAILED, {"error": cause or repr(error)})
                if cause is None:
                    raise
                return
            number += 1
