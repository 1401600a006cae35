"""Selection rules: which candidates of a pair become its negatives.

A rule is a subclass of `SelectionRule` in a file of its own and one line in registry.py. A recipe may name a rule of
its own by import path:

    rule: {type: my_rules:Middle, num_negatives: 4}

    class Middle(SelectionRule):                      # in my_rules.py beside the recipe
        def select(self, candidates: CandidateArrays) -> Selection:
            rank = np.cumsum(np.isfinite(candidates.scores), axis=1)
            return Selection(np.isfinite(candidates.scores) & (rank > 10) & (rank <= 10 + self.num_negatives))
"""

from abc import abstractmethod
from dataclasses import dataclass, field

import numpy as np
from pydantic import Field

from pipeline.core.config import Plugin
from pipeline.core.errors import UserError
from pipeline.mining.candidate_arrays import Bools, CandidateArrays


@dataclass(frozen=True)
class Selection:
    """Mask [P, K] of the candidates that a rule selects, and how many others it refused, by reason."""

    selected: Bools
    refused: dict[str, int] = field(default_factory=dict)


class SelectionRule(Plugin):
    """What a negative must be, relative to its pair, and how many of them a pair gets.

    A subclass declares its settings as fields, `select`, and what it needs beyond cosines: rules are refused before
    the search where the mining has no cross-encoder or no lexical search.
    """

    num_negatives: int = Field(8, ge=1, description="negatives of a pair at most; fewer are kept as they are")

    @abstractmethod
    def select(self, candidates: CandidateArrays) -> Selection:
        """Select among candidates [P, K], whose order is their rank; a score of -inf is a missing candidate.

        Rows must be decided one by one, whatever others the arrays hold: the job passes blocks of any size.
        """

    @property
    def min_candidates(self) -> int:
        """Candidates that a pair must have for `num_negatives` to be possible."""
        return self.num_negatives

    @property
    def needs_cross(self) -> bool:
        """Whether it reads scores of a cross-encoder."""
        return False

    @property
    def needs_lexical(self) -> bool:
        """Whether it reads scores of a lexical search."""
        return False

    @property
    def needs_keys(self) -> bool:
        """Whether it reads the keys of pairs and documents, by which a sample is the same in any block."""
        return True


def apply_rule(rule: SelectionRule, candidates: CandidateArrays) -> Selection:
    """Select by a rule and check what it selected.

    Raises UserError for a selection of another shape or type, of a candidate that is missing, and of too many.
    """
    selection = rule.select(candidates)
    selected = selection.selected
    if selected.shape != candidates.scores.shape or selected.dtype != np.bool_:
        raise UserError(
            f"rule {rule.type}: selected a {selected.dtype} array of shape {selected.shape}, not a bool array of shape "
            f"{candidates.scores.shape}"
        )
    if (selected & ~np.isfinite(candidates.scores)).any():
        raise UserError(f"rule {rule.type}: selected a candidate that is missing; its score is -inf")
    if selected.sum(axis=1).max(initial=0) > rule.num_negatives:
        raise UserError(f"rule {rule.type}: selected more than num_negatives {rule.num_negatives} of a pair")
    return selection
