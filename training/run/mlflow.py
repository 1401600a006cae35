"""MLflow: a run on a tracking server or in a folder."""

from typing import Any, Literal

from pydantic import Field

from pipeline.storage import files
from training.run.tracker import MetricsWriter, Tracker, figures, require


class MLflow(Tracker):
    """A run in MLflow, the same one when training is resumed."""

    type: Literal["mlflow"] = "mlflow"
    uri: str = Field(description="of the tracking server, such as http://127.0.0.1:5000")
    experiment: str = "tripletail"

    def check(self) -> None:
        """Raise UserError where the library is missing."""
        require("mlflow")

    def open(self, log: str, step: int) -> MetricsWriter:
        """Open the run whose id is in the directory of logs, or a new one."""
        return _RunWriter(self.uri, self.experiment, files.join(log, "mlflow.json"))


class _RunWriter:
    def __init__(self, uri: str, experiment: str, path: str) -> None:
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(uri)
        fs, name = files.filesystem(path)
        if fs.exists(name):
            self.run = files.read_json(path)["run_id"]
            return
        existing = self.client.get_experiment_by_name(experiment)
        number = existing.experiment_id if existing else self.client.create_experiment(experiment)
        self.run = self.client.create_run(number).info.run_id
        files.write_json(path, {"run_id": self.run, "uri": uri})

    def log(self, row: dict[str, Any]) -> None:
        for name, value in figures(row).items():
            self.client.log_metric(self.run, name.replace("@", "_at_"), value, step=row["step"])

    def close(self) -> None:
        self.client.set_terminated(self.run)
