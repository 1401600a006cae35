"""Make a static encoder out of a model: `tripletail distil --model DIR --out DIR [--dim 256]`."""

from typing import Literal

from pydantic import Field

from pipeline.core.config import JobConfig
from pipeline.core.progress import Progress, say
from pipeline.encoder.distillation import distill
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.encoder.model_directory import SAMPLE_MODEL
from pipeline.storage.files import join


class DistilConfig(JobConfig):
    """Make a static encoder, which averages a vector for each token and needs no transformer, out of a model."""

    common_settings = ("model", "out", "dim", "method")
    documentation = "pipeline/README.md"

    model: str = Field(SAMPLE_MODEL, description="model whose vocabulary and knowledge are taken")
    out: str | None = Field(None, description="directory of the static model; default {run}/static")
    dim: int | None = Field(256, ge=8, description="dimensions of the static vectors")
    method: Literal["distill", "embeddings"] = Field(
        "distill", description="embed each token with the model, or take its own input embeddings"
    )


def run(config: DistilConfig) -> str:
    """Write a static model that `SentenceTransformer(path)` loads, and return its directory."""
    encoder = Encoder.load(EncoderConfig(model=config.model), "auto")
    with Progress("distil", len(encoder.tokenizer), "tokens") as progress:
        static = distill(encoder, config.dim, config.method, progress.add)
    out = config.out or join(config.run, "static")
    static.save(out)
    say(f"distil: {out}: {len(encoder.tokenizer):,} tokens of {static.dim} dimensions")
    return out
