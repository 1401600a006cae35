"""TensorBoard: event files of the metrics."""

from typing import Any, Literal

from pydantic import Field

from pipeline.storage import files
from training.run.tracker import MetricsWriter, RunState, Tracker, figures, parameters, require


class TensorBoard(Tracker):
    """Event files for `tensorboard --logdir`."""

    type: Literal["tensorboard"] = "tensorboard"
    path: str | None = Field(None, description="directory; default {run}/training/tensorboard")

    def check(self) -> None:
        """Raise UserError where the library is missing."""
        require("tensorboard")

    def open(self, log: str, step: int) -> MetricsWriter:
        """Open for a run that begins after `step`; later points of an earlier attempt disappear."""
        writer = _EventWriter(self._directory(log), step)
        if not step and (settings := parameters(log)):
            rows = "".join(f"| {name} | {value} |\n" for name, value in settings.items())
            writer.note("settings", f"| setting | value |\n|---|---|\n{rows}", 0)
        return writer

    def end(self, log: str, state: RunState, model: str) -> None:
        """Note how the run ended, as a text beside the scalars."""
        writer = _EventWriter(self._directory(log), 0)
        writer.note("state", f"{state}: {model}" if state is RunState.FINISHED else str(state), 0)
        writer.close()

    def _directory(self, log: str) -> str:
        return files.absolute(self.path) if self.path else files.join(log, "tensorboard")


class _EventWriter:
    def __init__(self, directory: str, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        make: Any = SummaryWriter
        self.writer = make(log_dir=directory, purge_step=step + 1 if step else None)

    def log(self, row: dict[str, Any]) -> None:
        for name, value in figures(row).items():
            self.writer.add_scalar(name, value, row["step"])

    def note(self, name: str, text: str, step: int) -> None:
        self.writer.add_text(name, text, step)

    def close(self) -> None:
        self.writer.close()
