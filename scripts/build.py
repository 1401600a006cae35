"""Turn raw corpora into clean, split tables: `python -m scripts.build --config RECIPE [flags]`."""

from pipeline.build.config import BuildConfig
from pipeline.build.job import run
from pipeline.config import main

if __name__ == "__main__":
    main(BuildConfig, "build", run)
