"""Every system that a recipe can name; a new one is a file and a line here."""

from typing import Annotated

from pipeline.core.plugins import Registry
from pipeline.evaluation.reciprocal_rank import ReciprocalRank
from pipeline.evaluation.score_mix import ScoreMix
from pipeline.evaluation.system import System

AnySystem = Annotated[ScoreMix | ReciprocalRank, Registry("system", System)]
