"""Weights & Biases: a run on its server, or in a folder that `wandb sync` uploads later."""

import secrets
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pipeline import __version__
from pipeline.core.errors import UserError
from pipeline.storage import files
from training.run.tracker import MetricsWriter, RunState, Tracker, figures, parameters, require, stored_run

RUN = "wandb.json"  # in the run's log: which run it is
LOG_FILES = ("config.json", "manifest.json", "metrics.jsonl")


class WeightsAndBiases(Tracker):
    """A run in Weights & Biases, the same one when training is resumed, with the settings of the run as its config.

    The key of the server is read from WANDB_API_KEY or what `wandb login` has stored, never from a recipe.
    """

    type: Literal["wandb"] = "wandb"
    project: str = "tripletail"
    entity: str | None = Field(None, description="user or team; default: the one that the key belongs to")
    mode: Literal["online", "offline"] = Field(
        "online", description="offline: into the folder alone, for `wandb sync` later"
    )
    path: str | None = Field(None, description="directory of its files; default {run}/training")
    artifacts: Literal["none", "log", "model"] = Field(
        "log", description="what a finished run gets: its settings and metrics, the whole model too, or nothing"
    )

    def check(self) -> None:
        """Raise UserError where the library is missing, where no key is known, and for files that are not local."""
        require("wandb", "wandb")
        if "://" in (self.path or ""):
            raise UserError(f"trackers: wandb: {self.path} is no local directory, which its files need")
        if self.mode == "online":
            _require_key()

    def open(self, log: str, step: int) -> MetricsWriter:
        """Open the run whose id is in the directory of logs, or a new one."""
        return _RunWriter(self._start(log))

    def end(self, log: str, state: RunState, model: str) -> None:
        """Say how the run ended; a finished one gets its artifacts before, another one counts as failed there."""
        if stored_run(log, RUN) is None:
            return
        run = self._start(log)
        run.summary["state"] = str(state)
        if state is RunState.FINISHED and self.artifacts != "none":
            self._log_artifacts(run, log, model)
        run.finish(exit_code=0 if state is RunState.FINISHED else 1)

    def _start(self, log: str) -> Any:
        import wandb

        number = stored_run(log, RUN)
        if number is None:
            number = secrets.token_hex(4)
            files.write_json(files.join(log, RUN), {"run_id": number})
        directory = self._directory(log)
        _wait_for_a_new_second(Path(directory or "."), number)
        run = wandb.init(
            project=self.project,
            entity=self.entity,
            id=number,
            resume="allow" if self.mode == "online" else None,
            mode=self.mode,
            dir=directory,
            config={**parameters(log), "tripletail.version": __version__, "tripletail.log": log},
            settings=wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True),
        )
        run.define_metric("*", step_metric="step")
        return run

    def _directory(self, log: str) -> str | None:
        """Local directory of its files; where the log is on a store, the library's own default."""
        directory = files.absolute(self.path) if self.path else log
        return None if "://" in directory else directory

    def _log_artifacts(self, run: Any, log: str, model: str) -> None:
        """Upload settings and metrics as `training`, and the model's files as `model` where that is asked for."""
        import wandb

        records = wandb.Artifact(f"training-{run.id}", type="training")
        for name in LOG_FILES:
            path = files.join(log, name)
            fs, stored = files.filesystem(path)
            if fs.exists(stored):
                with records.new_file(name, mode="wb") as file:
                    file.write(fs.cat_file(stored))
        run.log_artifact(records)
        if self.artifacts == "model":
            weights = wandb.Artifact(f"model-{run.id}", type="model")
            weights.add_dir(files.download_folder(model) if "://" in model else model)
            run.log_artifact(weights)


class _RunWriter:
    def __init__(self, run: Any) -> None:
        self.run = run

    def log(self, row: dict[str, Any]) -> None:
        self.run.log({"step": row["step"], **figures(row)})

    def close(self) -> None:
        self.run.finish()


def _require_key() -> None:
    """Raise UserError where no key of the server is in the environment or stored by `wandb login`."""
    import wandb

    if not wandb.api.api_key:
        raise UserError(
            "trackers: wandb: no key of the server is known; set WANDB_API_KEY, run `wandb login`, or take mode offline"
        )


def _wait_for_a_new_second(directory: Path, number: str) -> None:
    """Wait while there is a folder of this run and second: the library would write over its file."""
    while any(directory.glob(f"wandb/*run-{time.strftime('%Y%m%d_%H%M%S')}-{number}")):
        time.sleep(0.05)
