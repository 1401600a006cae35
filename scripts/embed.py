"""Embed a corpus, or any file of texts: `python -m scripts.embed --config RECIPE [flags]`."""

from pipeline.config import main
from pipeline.embed.job import EmbedConfig, run

if __name__ == "__main__":
    main(EmbedConfig, "embed", run)
