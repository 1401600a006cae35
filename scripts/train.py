"""Fine-tune an encoder: `python -m scripts.train --config RECIPE [flags]`."""

from pipeline.config import main
from training.fit.config import TrainConfig
from training.fit.job import run

if __name__ == "__main__":
    main(TrainConfig, "train", run)
