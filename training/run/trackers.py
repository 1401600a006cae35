"""Where metrics go besides the run's own file: TensorBoard's event files, or an MLflow server or folder."""

from abc import abstractmethod
from importlib.util import find_spec
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field

from pipeline.core.config import Plugin
from pipeline.core.errors import UserError
from pipeline.core.plugins import Registry
from pipeline.storage import files


class Writer(Protocol):
    """What takes the metrics of a run, on rank 0."""

    def log(self, row: dict[str, Any]) -> None:
        """Take a row of metrics; what is not a number is left out."""

    def close(self) -> None:
        """Write what is held back."""
        return None


class Tracker(Plugin):
    """Where metrics go besides the run's own file; subclasses are settings, and open a writer on rank 0."""

    def check(self) -> None:
        """Raise UserError where something that it needs is missing; called before the run starts."""
        return None

    @abstractmethod
    def open(self, log: str, step: int) -> Writer:
        """Open for a run that begins after `step`; `log` is the run's directory of logs."""


class TensorBoard(Tracker):
    """Event files for `tensorboard --logdir`."""

    type: Literal["tensorboard"] = "tensorboard"
    place: str | None = Field(None, description="directory; default {run}/training/tensorboard")

    def check(self) -> None:
        """Raise UserError where the library is missing."""
        _needs("tensorboard")

    def open(self, log: str, step: int) -> Writer:
        """Open for a run that begins after `step`; later points of an earlier attempt disappear."""
        return _Events(files.absolute(self.place) if self.place else files.join(log, "tensorboard"), step)


class MLflow(Tracker):
    """A run in MLflow, the same one when training goes on."""

    type: Literal["mlflow"] = "mlflow"
    uri: str = Field(description="of the tracking server, such as http://127.0.0.1:5000")
    experiment: str = "tripletail"

    def check(self) -> None:
        """Raise UserError where the library is missing."""
        _needs("mlflow")

    def open(self, log: str, step: int) -> Writer:
        """Open the run whose id lies in the log directory, or a new one."""
        return _MLflowRun(self.uri, self.experiment, files.join(log, "mlflow.json"))


AnyTracker = Annotated[TensorBoard | MLflow, Registry("tracker", Tracker)]


class _Events:
    def __init__(self, folder: str, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        make: Any = SummaryWriter
        self.writer = make(log_dir=folder, purge_step=step + 1 if step else None)

    def log(self, row: dict[str, Any]) -> None:
        for name, value in _numbers(row).items():
            self.writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        self.writer.close()


class _MLflowRun:
    def __init__(self, uri: str, experiment: str, place: str) -> None:
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(uri)
        fs, name = files.filesystem(place)
        if fs.exists(name):
            self.run = files.read_json(place)["run_id"]
            return
        found = self.client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else self.client.create_experiment(experiment)
        self.run = self.client.create_run(number).info.run_id
        files.write_json(place, {"run_id": self.run, "uri": uri})

    def log(self, row: dict[str, Any]) -> None:
        for name, value in _numbers(row).items():
            self.client.log_metric(self.run, name.replace("@", "_at_"), value, step=row["step"])

    def close(self) -> None:
        self.client.set_terminated(self.run)


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    """The figures of a row without its place."""
    return {n: float(v) for n, v in row.items() if isinstance(v, int | float) and n not in ("step", "steps")}


def _needs(library: str) -> None:
    if find_spec(library) is None:
        raise UserError(f"trackers: {library} is not installed; pip install 'tripletail[trackers]'")
