"""An id with two texts: refused, or, where each row states its own pair, replaced by ids made from the texts.

Such an id is none: a topic, or a number that starts anew in every file. Rows that are joined by it would be joined with
the wrong text. Rows that state a query and its documents need no id to be joined, so the sources of which all ambiguous
rows do so are read once more without their ids, and the build goes on with these records.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.building.config import BuildConfig
from pipeline.core.errors import UserError
from pipeline.sources.reading.record import IdKind, SourceConfig
from pipeline.storage.counts import Counts

_NAME = "ambiguous_ids"  # of a count: with the kind of the records and the index of the source
_KINDS: dict[str, IdKind] = {"query": "queries", "document": "documents"}


class AmbiguousId(Exception):
    """One id has two texts: the first two rows (`IDS`) that say so.

    `stated_by` are the sources of all such rows, where each row states the text as a side of its own pair; empty where
    one of them does not, so that other rows may mean it by its id.
    """

    def __init__(
        self, noun: str, first: dict[str, Any], second: dict[str, Any], stated_by: frozenset[int] = frozenset()
    ) -> None:
        super().__init__(noun, first, second, stated_by)
        self.noun, self.first, self.second, self.stated_by = noun, first, second, stated_by

    def message(self, locate: Callable[[int], str]) -> str:
        """Say in one line what is wrong and how to mend it; `locate` names the file and line of a row's order."""
        name, places = self.first["id"], [locate(row["order"]) for row in (self.first, self.second)]
        if self.first["source"] != self.second["source"]:
            return (
                f"{self.noun} id '{name}' has one text in source '{self.first['source']}' and another in "
                f"'{self.second['source']}' ({places[0]} and {places[1]}); give one of them a `prefix`"
            )
        role = "doc_id" if self.noun == "document" and self.second["mention"] else "id"
        mend = (
            f"where it is no id, `fields: {{{role}: null}}` makes ids from the texts; where ids start anew in every "
            "file, make each file a source with a `prefix`"
        )
        where = f"{self.noun} id '{name}' of source '{self.first['source']}'"
        return f"{where} has two texts: {' and '.join(places)}; {mend}; `repeated_ids: first` keeps the first text"


def count_ambiguous(problem: AmbiguousId, sources: Sequence[SourceConfig], locate: Callable[[int], str]) -> Counts:
    """Count the sources whose ids must be made from the texts; raises UserError where one cannot do without its ids."""
    kind, tally = _KINDS[problem.noun], Counts()
    chosen = {index: sources[index] for index in sorted(problem.stated_by)}
    can_do_without = all(s.repeated_ids == "derive" and s.with_derived_ids(kind) is not None for s in chosen.values())
    if not chosen or not can_do_without:
        raise UserError(problem.message(locate)) from problem
    tally.counts.update(f"{_NAME} {kind} {index}" for index in chosen)
    places = " and ".join(locate(row["order"]) for row in (problem.first, problem.second))
    tally.drop(_NAME, 0, f"{problem.noun} id '{problem.first['id']}' has two texts: {places}")
    return tally


def has_ambiguous(tally: Counts) -> bool:
    """Whether the ids of a source must be made from the texts before the build can go on."""
    return any(name.startswith(f"{_NAME} ") for name in tally.counts)


def with_derived_ids(config: BuildConfig, counts: Counter[str]) -> tuple[BuildConfig, list[tuple[str, IdKind]]]:
    """Return the recipe with ids made from the texts where they were ambiguous, and the sources and kinds of these."""
    sources, derived = list(config.sources), []
    for name in sorted(counts):
        if name.startswith(f"{_NAME} "):
            kind, index = _KINDS["query" if " queries " in name else "document"], int(name.rpartition(" ")[2])
            source: Any = sources[index].with_derived_ids(kind)
            sources[index] = source
            derived.append((source.label, kind))
    return config.model_copy(update={"sources": sources}), derived
