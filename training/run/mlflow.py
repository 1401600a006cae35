"""MLflow: a run on a tracking server or in a folder."""

import socket
import tempfile
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field

from pipeline import __version__
from pipeline.core.errors import UserError
from pipeline.storage import files
from training.run.tracker import MetricsWriter, RunState, Tracker, figures, parameters, require, stored_run

RUN = "mlflow.json"  # in the run's log: which run of the server it is
ANSWER_S = 5.0  # seconds that a server has to answer
LONGEST = 6000  # characters of a parameter that a server takes


class MLflow(Tracker):
    """A run in MLflow, the same one when training is resumed, with the settings of the run as its parameters."""

    type: Literal["mlflow"] = "mlflow"
    uri: str = Field(description="of the tracking server, such as http://127.0.0.1:5000")
    experiment: str = "tripletail"
    artifacts: Literal["none", "log", "model"] = Field(
        "log",
        description="what the run gets when it has finished: its settings, metrics and card, the whole model too, or "
        "nothing",
    )

    def check(self) -> None:
        """Raise UserError where the library is missing, or where nobody answers at the address of a server."""
        require("mlflow")
        address = urlsplit(self.uri)
        if address.scheme not in ("http", "https") or not address.hostname:
            return
        port = address.port or {"http": 80, "https": 443}[address.scheme]
        try:
            socket.create_connection((address.hostname, port), timeout=ANSWER_S).close()
        except OSError as error:
            raise UserError(
                f"trackers: mlflow: {self.uri} does not answer ({error.strerror or error}); start it, or take the "
                "tracker out"
            ) from error

    def open(self, log: str, step: int) -> MetricsWriter:
        """Open the run whose id is in the directory of logs, or a new one."""
        return _RunWriter(self._client(), self.experiment, log)

    def end(self, log: str, state: RunState, model: str) -> None:
        """End the run as FINISHED, FAILED or KILLED; a finished one gets its artifacts before."""
        if not (run := stored_run(log, RUN)):
            return
        client = self._client()
        try:
            if state is RunState.FINISHED and self.artifacts != "none":
                _log_artifacts(client, run, log, model, with_weights=self.artifacts == "model")
        finally:
            client.set_terminated(run, str(state))

    def _client(self) -> Any:
        from mlflow.tracking import MlflowClient

        return MlflowClient(self.uri)


class _RunWriter:
    def __init__(self, client: Any, experiment: str, log: str) -> None:
        self.client = client
        if stored := stored_run(log, RUN):
            self.run = stored
            client.update_run(stored, "RUNNING")
            return
        existing = client.get_experiment_by_name(experiment)
        number = existing.experiment_id if existing else client.create_experiment(experiment)
        self.run = client.create_run(number).info.run_id
        files.write_json(files.join(log, RUN), {"run_id": self.run})
        for name, value in parameters(log).items():
            client.log_param(self.run, name, value[:LONGEST])
        for name, value in {"tripletail.version": __version__, "tripletail.log": log}.items():
            client.set_tag(self.run, name, value)

    def log(self, row: dict[str, Any]) -> None:
        for name, value in figures(row).items():
            self.client.log_metric(self.run, name.replace("@", "_at_"), value, step=row["step"])

    def close(self) -> None:
        return None  # every figure has been sent; `MLflow.end` says how the run ended


def _log_artifacts(client: Any, run: str, log: str, model: str, *, with_weights: bool) -> None:
    """Upload settings, manifest and metrics as `training`, and the card, or `with_weights` all files, as `model`."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("config.json", "manifest.json", "metrics.jsonl"):
            _copy(files.join(log, name), Path(folder) / "training" / name)
        if not with_weights:
            _copy(files.join(model, "README.md"), Path(folder) / "model" / "README.md")
        client.log_artifacts(run, folder)
        if with_weights:
            client.log_artifacts(run, files.download_folder(model) if "://" in model else model, "model")


def _copy(path: str, target: Path) -> None:
    fs, name = files.filesystem(path)
    if fs.exists(name):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(fs.cat_file(name))
