"""Embed a corpus, or any file of texts: `python -m scripts.embed --config RECIPE [flags]`."""

from pipeline.core.config import main
from pipeline.embedding.job import EmbedConfig, run

if __name__ == "__main__":
    main(EmbedConfig, "embed", run)
