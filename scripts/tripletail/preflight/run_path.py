"""Whether what a run leaves will be there when it has ended."""

import os
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.storage.files import absolute


def in_copy(path: str) -> bool:
    """Whether a relative path would be in the copy of the working directory that Ray makes for a submitted job."""
    return "://" not in path and not Path(path).is_absolute() and "working_dir_files" in Path.cwd().parts


def check_run_path(config: Any) -> None:
    """Raise UserError for a relative `run` under `ray job submit`: the result would be lost with Ray's copy."""
    if in_copy(config.run):
        raise UserError(
            f"run: {config.run} is relative, so under `ray job submit` it would lie in Ray's copy of the working "
            "directory and be lost; name an absolute path on storage that every node shares, or s3://BUCKET/PREFIX"
        )


def check_shared(run: str) -> None:
    """Where a run joins a cluster, raise UserError for a local directory that some of its nodes do not see."""
    if "://" in run or not os.environ.get("RAY_ADDRESS"):
        return
    from pipeline.core import ray_session
    from pipeline.core.shared_paths import nodes_without

    ray_session.start()
    if missing := nodes_without(absolute(run)):
        raise UserError(
            f"run: {run} is not the same folder on every node ({', '.join(missing)} of the cluster); name one on "
            "storage that they share, or s3://BUCKET/PREFIX"
        )
