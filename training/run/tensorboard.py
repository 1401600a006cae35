"""TensorBoard: event files of the metrics."""

from typing import Any, Literal

from pydantic import Field

from pipeline.storage import files
from training.run.tracker import MetricsWriter, Tracker, figures, require


class TensorBoard(Tracker):
    """Event files for `tensorboard --logdir`."""

    type: Literal["tensorboard"] = "tensorboard"
    path: str | None = Field(None, description="directory; default {run}/training/tensorboard")

    def check(self) -> None:
        """Raise UserError where the library is missing."""
        require("tensorboard")

    def open(self, log: str, step: int) -> MetricsWriter:
        """Open for a run that begins after `step`; later points of an earlier attempt disappear."""
        return _EventWriter(files.absolute(self.path) if self.path else files.join(log, "tensorboard"), step)


class _EventWriter:
    def __init__(self, directory: str, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        make: Any = SummaryWriter
        self.writer = make(log_dir=directory, purge_step=step + 1 if step else None)

    def log(self, row: dict[str, Any]) -> None:
        for name, value in figures(row).items():
            self.writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        self.writer.close()
