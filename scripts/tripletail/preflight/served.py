"""The checks of what hands a run over: an index, its release, a server."""

from typing import Any

from pipeline.encoder.config import EncoderConfig
from pipeline.releases.versions import Versions
from pipeline.serving.job import free_port, require_serve, token_digest
from pipeline.serving.served_model import encoder_settings, index_path
from pipeline.storage.artifact import Artifact
from pipeline.storage.files import join

from .ahead import Ahead
from .data import check_artifact
from .model import check_model


def check_index(config: Any, ahead: Ahead) -> str:
    """Check the vectors of an index and the library of its type."""
    config.index.check_installed()
    vectors = config.vectors or join(config.run, "vectors")
    check_artifact(vectors, "embed", ahead)
    return f"{config.index.type} of {vectors}{' and BM25' if config.bm25 else ''}"


def check_release(config: Any, ahead: Ahead) -> str:
    """Check the index and the report of a release, and the folder of its versions."""
    versions = Versions.open(config.out or join(config.run, "releases"))
    check_artifact(config.index or join(config.run, "index"), "index", ahead)
    check_artifact(join(config.run, "report"), "evaluate", ahead)
    against = versions.current
    return f"{versions.home}, {f'against {against}' if against else 'the first version'}"


def check_serve(config: Any, ahead: Ahead) -> str:
    """Check the model, the index, the address and the extra of a server."""
    require_serve()
    free_port(config.host, config.port)
    path, settings = index_path(config), {"model": join(config.run, "model")}
    if path:
        settings = dict(Artifact.open(path).manifest.notes.get("model") or settings)
    model = check_model(EncoderConfig.model_validate(settings | encoder_settings(config)), ahead)
    token = "with the token" if token_digest(config) else "without a token"
    return f"{model}; {path or 'no index'}; http://{config.host}:{config.port}, {token}"
