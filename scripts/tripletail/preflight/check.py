"""Check every step of a run and say in a line each what it will do."""

from importlib import import_module
from typing import Any

from .ahead import LEAVES, Ahead
from .run_path import check_run_path

CHECKS = {  # module and function of each job's check, imported when it is asked for: models bring torch
    "build": "data:check_build",
    "mine": "with_models:check_mine",
    "train_reranker": "with_models:check_train_reranker",
    "train": "with_models:check_train",
    "embed": "with_models:check_embed",
    "evaluate": "with_models:check_evaluate",
    "index": "served:check_index",
    "release": "served:check_release",
    "serve": "served:check_serve",
    "publish": "published:check_publish",
}


def check_step(job: str, config: Any, ahead: Ahead) -> str:
    """Check one job against its inputs and say what it will do; raises UserError for what cannot work."""
    check_run_path(config)
    module, _, function = CHECKS[job].partition(":")
    line: str = getattr(import_module(f"{__package__}.{module}"), function)(config, ahead)
    if job in LEAVES:
        ahead.add(job, config)
    return line
