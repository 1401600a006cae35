"""MLflow: a run on a tracking server or in a folder."""

import re
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from pipeline.storage import files
from pipeline.storage.artifact import CONFIG
from training.run.tracker import MetricsWriter, Tracker, figures, require

RUN = "mlflow.json"  # in the run's log: which run of the server it is
LONGEST = 6000  # characters of a parameter that a server takes


class MLflow(Tracker):
    """A run in MLflow, the same one when training is resumed, with the settings of the run as its parameters."""

    type: Literal["mlflow"] = "mlflow"
    uri: str = Field(description="of the tracking server, such as http://127.0.0.1:5000")
    experiment: str = "tripletail"

    def check(self) -> None:
        """Raise UserError where the library is missing."""
        require("mlflow")

    def open(self, log: str, step: int) -> MetricsWriter:
        """Open the run whose id is in the directory of logs, or a new one."""
        return _RunWriter(self._client(), self.experiment, log)

    def end(self, log: str, *, failed: bool) -> None:
        """End the run as FINISHED or FAILED."""
        if run := _stored_run(log):
            self._client().set_terminated(run, "FAILED" if failed else "FINISHED")

    def _client(self) -> Any:
        from mlflow.tracking import MlflowClient

        return MlflowClient(self.uri)


class _RunWriter:
    def __init__(self, client: Any, experiment: str, log: str) -> None:
        self.client = client
        if stored := _stored_run(log):
            self.run = stored
            client.update_run(stored, "RUNNING")
            return
        existing = client.get_experiment_by_name(experiment)
        number = existing.experiment_id if existing else client.create_experiment(experiment)
        self.run = client.create_run(number).info.run_id
        files.write_json(files.join(log, RUN), {"run_id": self.run})
        for name, value in parameters(log).items():
            client.log_param(self.run, name, value)

    def log(self, row: dict[str, Any]) -> None:
        for name, value in figures(row).items():
            self.client.log_metric(self.run, name.replace("@", "_at_"), value, step=row["step"])

    def close(self) -> None:
        return None  # every figure has been sent; `MLflow.end` says how the run ended


def parameters(log: str) -> dict[str, str]:
    """Settings of the run that are set, by their names in a recipe (`loop.batch_size`), as its log has them."""
    path = files.join(log, CONFIG)
    fs, name = files.filesystem(path)
    return dict(_flat(files.read_json(path))) if fs.exists(name) else {}


def _flat(settings: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(settings, dict):
        for key, value in settings.items():
            yield from _flat(value, f"{name}.{key}" if name else key)
    elif settings is not None:
        yield re.sub(r"[^\w./ -]", "_", name), str(settings)[:LONGEST]


def _stored_run(log: str) -> str | None:
    """Id of the run that an earlier worker opened."""
    path = files.join(log, RUN)
    fs, name = files.filesystem(path)
    return str(files.read_json(path)["run_id"]) if fs.exists(name) else None
