"""The jobs by name: the class of their settings and the function that runs them, imported when they are asked for."""

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple


class Job(NamedTuple):
    """A job: what it does in a line, "module:function" that runs it, and "module:class" of its settings.

    `section` is the section of a recipe that its settings are read from; empty for a job that has a recipe of its own.
    """

    summary: str
    run: str
    config: str
    section: str = ""

    def load(self) -> tuple[Any, Callable[[Any], Any]]:
        """Import the class of the settings and the function."""
        return load(self.config), load(self.run)


def load(path: str) -> Any:
    """Import what "module:name" names."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


JOBS = {
    "build": Job(
        "Turn raw corpora into clean, split tables: corpus, queries, judgments, pairs.",
        "pipeline.building.job:run",
        "pipeline.building.config:BuildConfig",
        "build",
    ),
    "generate": Job(
        "Make training queries from documents, by a language model or by rules.",
        "pipeline.generation.job:run",
        "pipeline.generation.config:GenerateConfig",
    ),
    "mine": Job(
        "Find hard negatives for training pairs.",
        "pipeline.mining.job:run",
        "pipeline.mining.config:MineConfig",
        "mine",
    ),
    "train_reranker": Job(
        "Train a reranker, which reads a query and a document at once.",
        "training.run.reranker_job:run",
        "training.run.reranker_config:RerankerConfig",
        "train_reranker",
    ),
    "train": Job(
        "Fine-tune an encoder by contrastive learning.",
        "training.run.job:run",
        "training.run.config:TrainConfig",
        "train",
    ),
    "embed": Job(
        "Embed a corpus, its queries or any files of texts.",
        "pipeline.embedding.job:run",
        "pipeline.embedding.job:EmbedConfig",
        "embed",
    ),
    "evaluate": Job(
        "Compare models over the whole corpus and write a report.",
        "pipeline.evaluation.job:run",
        "pipeline.evaluation.config:EvaluateConfig",
        "evaluate",
    ),
    "index": Job(
        "Build a FAISS index or a Lance dataset of embedded vectors.",
        "pipeline.search.job:run",
        "pipeline.search.job:IndexConfig",
        "index",
    ),
    "release": Job(
        "Put an index into use, unless it is worse than the one in use.",
        "pipeline.releases.job:run",
        "pipeline.releases.job:ReleaseConfig",
        "release",
    ),
    "serve": Job(
        "Serve vectors and search over HTTP, on loopback unless asked.",
        "pipeline.serving.job:run",
        "pipeline.serving.config:ServeConfig",
    ),
    "publish": Job(
        "Bring vectors into pgvector, Qdrant, LanceDB or OpenSearch, as far as they changed.",
        "pipeline.stores.job:run",
        "pipeline.stores.job:PublishConfig",
        "publish",
    ),
    "sweep": Job(
        "Try many selection rules on mined candidates.",
        f"{__package__}.commands.sweep:run",
        "pipeline.mining.sweep:SweepConfig",
        "mine",
    ),
    "export": Job(
        "Write graphs of a model for ONNX Runtime and OpenVINO, or upload it.",
        "pipeline.encoder.export:run",
        "pipeline.encoder.export:ExportConfig",
    ),
    "distil": Job(
        "Make a static encoder, which needs no transformer, out of a model.",
        f"{__package__}.commands.distil:run",
        f"{__package__}.commands.distil:DistilConfig",
    ),
}
