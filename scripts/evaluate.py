"""Rank the corpus by several models, compare them and write the report."""

from pipeline.config import main
from pipeline.evaluate.job import EvaluateConfig, run

if __name__ == "__main__":
    main(EvaluateConfig, "evaluate", run)
