"""A reference to another corpus: how a job names the build artifact of another recipe."""

from pydantic import Field, model_validator

from pipeline.building.config import BuildConfig
from pipeline.core.config import Config, read_recipe, validate
from pipeline.core.errors import UserError
from pipeline.storage.artifact import Artifact


class CorpusReference(Config):
    """A build artifact, named by its directory or by a recipe, which `tripletail run` then builds first."""

    data: str | None = Field(None, description="directory of the artifact")
    recipe: str | None = Field(None, description="recipe whose build makes it, in that recipe's own run directory")

    @model_validator(mode="after")
    def _one_of_two(self) -> "CorpusReference":
        if (self.data is None) == (self.recipe is None):
            raise ValueError("give either `data`, a build artifact, or `recipe`, whose build makes one")
        return self

    @property
    def path(self) -> str:
        """Directory of the artifact; reads the recipe."""
        if self.recipe is None:
            return str(self.data)
        return validate(BuildConfig, read_recipe(self.recipe, "build")).path

    def open(self) -> Artifact:
        """Open the artifact.

        Raises UserError naming the command that makes it.
        """
        try:
            return Artifact.open(self.path, "build")
        except UserError as error:
            if self.recipe is None:
                raise
            fix = f"run `tripletail build --config {self.recipe}`, or everything by `tripletail run`"
            raise UserError(f"{str(error).partition(';')[0]}; {fix}") from error
