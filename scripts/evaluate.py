"""Compare models over the whole corpus and write the report: `python -m scripts.evaluate --config RECIPE`."""

from pipeline.core.config import main
from pipeline.evaluation.config import EvaluateConfig
from pipeline.evaluation.job import run

if __name__ == "__main__":
    main(EvaluateConfig, "evaluate", run)
