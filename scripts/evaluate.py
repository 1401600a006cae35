"""Compare models over the whole corpus and write the report: `python -m scripts.evaluate --config RECIPE`."""

from pipeline.config import main
from pipeline.evaluate.job import EvaluateConfig, run

if __name__ == "__main__":
    main(EvaluateConfig, "evaluate", run)
