"""Turn raw corpora into clean, split tables: `python -m scripts.build --config RECIPE [flags]`."""

from pipeline.building.config import BuildConfig
from pipeline.building.job import run
from pipeline.core.config import main

if __name__ == "__main__":
    main(BuildConfig, "build", run)
