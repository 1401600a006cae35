"""What another recipe's build makes: how a job names a corpus beside its own."""

from pydantic import Field, model_validator

from pipeline.building.config import BuildConfig
from pipeline.core.config import Config, read_recipe, validate
from pipeline.core.errors import UserError
from pipeline.storage.artifact import Artifact


class CorpusReference(Config):
    """A build artifact, named by its place or by the recipe that makes it, which `scripts.run` then builds first."""

    data: str | None = Field(None, description="directory of the artifact")
    recipe: str | None = Field(None, description="recipe whose build makes it, in that recipe's own run directory")

    @model_validator(mode="after")
    def _one_of_two(self) -> "CorpusReference":
        if (self.data is None) == (self.recipe is None):
            raise ValueError("give either `data`, a build artifact, or `recipe`, whose build makes one")
        return self

    @property
    def place(self) -> str:
        """Where the artifact is; reads the recipe."""
        if self.recipe is None:
            return str(self.data)
        return validate(BuildConfig, read_recipe(self.recipe, "build")).place

    def open(self) -> Artifact:
        """Open the artifact.

        Raises UserError naming the command that makes it.
        """
        try:
            return Artifact.open(self.place, "build")
        except UserError as error:
            if self.recipe is None:
                raise
            fix = f"run `python -m scripts.build --config {self.recipe}`, or everything by `python -m scripts.run`"
            raise UserError(f"{str(error).partition(';')[0]}; {fix}") from error
