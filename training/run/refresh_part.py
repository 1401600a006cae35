"""Hard negatives mined anew while a run goes on, by the model as it has become."""

from pydantic import Field

from pipeline.config import Config


class Refresh(Config):
    """When negatives are mined anew. An epoch trains on those of its version, which are `every` epochs old at most.

    Version 0 is what the run began with; version n is mined by the weights after n * `every` epochs, with the settings
    of version 0. Source: Xiong et al. 2020 (ANCE, arXiv 2007.00808), whose negatives lag by an unknown number of steps.
    """

    every: int = Field(1, ge=1, description="epochs from one mining to the next")

    def version(self, epoch: int) -> int:
        """Which negatives an epoch takes."""
        return epoch // self.every

    def stop(self, version: int) -> int:
        """Count the epochs that come before the next version."""
        return (version + 1) * self.every
