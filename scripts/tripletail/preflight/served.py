"""The checks of what hands a run over: a server."""

from typing import Any

from pipeline.encoder.config import EncoderConfig
from pipeline.serving.job import free_port, require_serve, token_digest
from pipeline.serving.served_model import encoder_settings, index_path
from pipeline.storage.artifact import Artifact
from pipeline.storage.files import join

from .ahead import Ahead
from .model import check_model


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
