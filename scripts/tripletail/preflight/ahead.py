"""What earlier jobs of the same recipe will have made when a later one begins."""

from dataclasses import dataclass, field
from typing import Any

from pipeline.storage.artifact import MANIFEST
from pipeline.storage.disk_space import as_text, free_space
from pipeline.storage.files import absolute, filesystem, join

LEAVES = {  # by job
    **{"build": "data", "mine": "negatives", "train_reranker": "reranker", "train": "model"},
    **{"embed": "vectors", "evaluate": "report", "index": "index", "release": "releases"},
}
TRAININGS = ("train", "train_reranker")  # their artifact is the log, their result a model


@dataclass
class Ahead:
    """Directories that jobs before this one leave, by absolute path, each with the settings that it is made with."""

    results: dict[str, Any] = field(default_factory=dict)

    def add(self, job: str, config: Any) -> None:
        """Note what a job will leave; jobs are added in their order."""
        paths = [result(job, config), *([config.paths["model"]] if job in TRAININGS else [])]
        self.results |= dict.fromkeys(map(absolute, paths), config)

    def has(self, path: str) -> bool:
        """Whether a job before this one leaves something at a path."""
        return absolute(path) in self.results

    def settings(self, path: str) -> Any:
        """The settings of the job that will leave something at a path."""
        return self.results[absolute(path)]


def result(job: str, config: Any) -> str:
    """Where a job leaves its artifact; that of a training is its log."""
    if job in TRAININGS:
        return str(config.paths["log"])
    return str(config.out or join(config.run, LEAVES[job]))


def exists(path: str) -> bool:
    """Whether a file or folder is there."""
    fs, name = filesystem(path)
    return bool(fs.exists(name))


def is_finished(job: str, config: Any) -> bool:
    """Whether a job has left its artifact already; never of one that leaves none here."""
    return job in LEAVES and exists(join(result(job, config), MANIFEST))


def room(run: str) -> str:
    """Room on the disk of a run, in words; nothing of a store."""
    space = free_space(run)
    return "" if space is None else f", {as_text(space)} free"
