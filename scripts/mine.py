"""Mine hard negatives for training pairs: `python -m scripts.mine --config RECIPE [flags]`."""

from pipeline.core.config import main
from pipeline.mining.config import MineConfig
from pipeline.mining.job import run

if __name__ == "__main__":
    main(MineConfig, "mine", run)
