"""Mine hard negatives for pairs: `python -m scripts.mine --config scripts/recipes/quick.yaml`."""

from pipeline.config import main
from pipeline.mine import MineConfig, run

if __name__ == "__main__":
    main(MineConfig, "mine", run)
