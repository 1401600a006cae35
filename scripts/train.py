"""Fine-tune an encoder: `python -m scripts.train --config RECIPE [flags]`."""

from pipeline.core.config import main
from training.run.config import TrainConfig
from training.run.job import run

if __name__ == "__main__":
    main(TrainConfig, "train", run)
