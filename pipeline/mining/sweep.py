"""Many selection rules over one candidate table: what each keeps, and how many of its negatives look false."""

import itertools
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, ValidationError

from pipeline.core.errors import UserError
from pipeline.core.progress import Progress, say
from pipeline.mining.candidate_arrays import Cells, Keys, doc_keys, spread, whole
from pipeline.mining.config import MineConfig
from pipeline.mining.rules import Rule, Strategy, choose
from pipeline.storage import shards
from pipeline.storage.artifact import Artifact
from pipeline.storage.files import join, open_parquet, write_json
from pipeline.text.normalize import hash64

_ROWS = 16_384
_COLUMNS = [
    "positive_score", "positive_cross_score", "positive_lexical_score", "candidates.list.element.score",
    "candidates.list.element.cross_score", "candidates.list.element.lexical_score",
    "candidates.list.element.positive_similarity", "candidates.list.element.cluster",
    "candidates.list.element.same_category", "candidates.list.element.shared_tags",
]  # fmt: skip
_NAMES = ["anchor_id", "positive_id", "candidates.list.element.doc_id"]
GRID: dict[str, list[Any]] = {
    "max_percentage": [None, 1.0, 0.98, 0.95, 0.9, 0.8],
    "skip_top": [0, 5, 10],
}


class SweepConfig(MineConfig):
    """Settings of a sweep: those of the mining, whose rule is the base, and what is tried of it."""

    grid: dict[str, list[Any]] = Field(
        default_factory=lambda: dict(GRID), description="settings of the rule and their values, as JSON; all combined"
    )
    judgments: str | None = Field(
        None, description="Parquet or JSON lines of query_id, doc_id, relevance: above 0 is a false negative"
    )
    false_above: float = Field(0.5, description="a reranker score from which a negative counts as false")

    def rules(self) -> list[Rule]:
        """Every combination of the grid over the base rule."""
        unknown = sorted(set(self.grid) - set(Rule.model_fields))
        if unknown:
            raise UserError(f"grid: unknown setting {', '.join(unknown)}; choose from {', '.join(Rule.model_fields)}")
        base = self.rule.model_dump()
        found = []
        for values in itertools.product(*self.grid.values()):
            tried = dict(zip(self.grid, values, strict=True))
            if tried.get("relative_margin") is not None:
                tried.setdefault("max_percentage", None)
            try:
                found.append(Rule.model_validate(base | tried))
            except ValidationError as error:
                raise UserError(f"grid: {tried}: {error.errors()[0]['msg']}") from error
        return found


@dataclass
class Told:
    """What one rule made of the rows that were read."""

    rows: int = 0
    negatives_per_row: Counter[int] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    score_sum: float = 0.0
    scored: int = 0  # negatives that a reranker scored
    doubted: int = 0  # of these, scored as if they were right
    judged: int = 0  # negatives that somebody judged
    wrong: int = 0  # of these, judged right

    @property
    def negatives(self) -> int:
        """Negatives in all rows."""
        return sum(number * count for number, count in self.negatives_per_row.items())

    def figures(self, wanted: int) -> dict[str, float | None]:
        """What a reader chooses by; None where nothing tells it."""
        none = 1 - self.negatives_per_row[0] / max(1, self.rows)
        full = sum(count for number, count in self.negatives_per_row.items() if number >= wanted)
        return {
            "full_rows": full / max(1, self.rows),
            "rows_with_any": none if self.rows else 0.0,
            "negatives_per_row": self.negatives / max(1, self.rows),
            "mean_score": self.score_sum / self.negatives if self.negatives else None,
            "false_by_reranker": self.doubted / self.scored if self.scored else None,
            "false_by_judgments": self.wrong / self.judged if self.judged else None,
            "judged": self.judged,
        }


def run(config: SweepConfig) -> list[dict[str, Any]]:
    """Try every rule over the candidates of `{run}/negatives`, print a table and write `{run}/sweep.json`."""
    artifact = Artifact.open(config.candidates or config.out or join(config.run, "negatives"), "mine")
    rules = config.rules()
    started = time.monotonic()
    told = sweep(artifact.files("candidates"), rules, _judged(config.judgments), config.false_above)
    seconds = time.monotonic() - started
    found = [
        {"rule": rule.model_dump(mode="json"), **one.figures(rule.num_negatives), "refused": dict(one.refused)}
        for rule, one in zip(rules, told, strict=True)
    ]
    place = join(config.run, "sweep.json")
    write_json(place, found)
    say(f"sweep: {len(rules)} rules over {told[0].rows:,} rows in {seconds:.1f} s; {place}")
    return found


def sweep(
    files: Sequence[str], rules: Sequence[Rule], judged: tuple[Keys, Keys] | None = None, false_above: float = 0.5
) -> list[Told]:
    """What each rule makes of the candidate files; they are read once, a piece at a time.

    `judged` holds the keys of judged (query, document) pairs, rising, and of those among them that are right.
    """
    told = [Told() for _ in rules]
    named = judged is not None or any(rule.strategy is not Strategy.TOP for rule in rules)
    progress = Progress("sweep", _rows(files), "rows")
    for path in files:
        with open_parquet(path) as file:
            for batch in file.iter_batches(_ROWS, columns=_COLUMNS + (_NAMES if named else [])):
                table = pa.Table.from_batches([batch])
                cells = Cells.of(table, keyed=named)
                known = None if judged is None else _known(table, cells, judged)
                for rule, one in zip(rules, told, strict=True):
                    _count(one, cells, rule, known, false_above)
                progress.add(table.num_rows)
    return told


def _count(told: Told, cells: Cells, rule: Rule, known: tuple[Any, Any] | None, false_above: float) -> None:
    choice = choose(cells, rule)
    taken = choice.taken
    told.rows += len(taken)
    counts = np.bincount(taken.sum(axis=1))
    told.negatives_per_row.update({number: int(count) for number, count in enumerate(counts) if count})
    told.refused.update(choice.refused)
    told.score_sum += float(cells.scores[taken].sum(dtype=np.float64))
    cross = cells.cross[taken]
    told.scored += int((~np.isnan(cross)).sum())
    told.doubted += int((cross >= np.float32(false_above)).sum())
    if known is not None:
        told.judged += int((taken & known[0]).sum())
        told.wrong += int((taken & known[1]).sum())


def _rows(files: Sequence[str]) -> int:
    total = 0
    for path in files:
        with open_parquet(path) as file:
            total += file.metadata.num_rows
    return total


def _judged(path: str | None) -> tuple[Keys, Keys] | None:
    """Keys of judged pairs, rising, and of those that are right."""
    if path is None:
        return None
    parts = [
        shards.read(shard, ["query_id", "doc_id", "relevance"])
        for shard in shards.plan(shards.find(path), 1 << 20, "judgments")
    ]
    table = pa.concat_tables(parts)
    names = zip(table["query_id"].to_pylist(), table["doc_id"].to_pylist(), strict=True)
    keys = np.fromiter((_pair(hash64(query), hash64(doc)) for query, doc in names), np.uint64, table.num_rows)
    right = pc.greater(table["relevance"], 0).to_numpy().astype(bool)
    return np.sort(keys), np.sort(keys[right])


def _pair(query: int, doc: int) -> int:
    return (query * 0x9E3779B97F4A7C15 + doc) % 2**64


def _known(table: pa.Table, cells: Cells, judged: tuple[Keys, Keys]) -> tuple[Any, Any]:
    """Which cells are judged, and which of them right."""
    assert cells.doc_keys is not None
    anchors = doc_keys(table["anchor_id"].combine_chunks())
    with np.errstate(over="ignore"):
        keys = anchors[:, None] * np.uint64(0x9E3779B97F4A7C15) + cells.doc_keys
    row, place, _ = spread(whole(table["candidates"]))
    there = np.zeros(keys.shape, np.bool_)
    there[row, place] = True
    return there & np.isin(keys, judged[0]), there & np.isin(keys, judged[1])


def lines(found: Sequence[dict[str, Any]], config: SweepConfig) -> list[list[str]]:
    """The small table to choose from: head, then a line a rule."""
    shown = list(config.grid)
    head = [*shown, "full rows", "any", "a row", "cosine", "false (reranker)", "false (judged)"]
    rows = [head]
    for one in found:
        figures = [
            _share(one["full_rows"]), _share(one["rows_with_any"]), f"{one['negatives_per_row']:.2f}",
            "" if one["mean_score"] is None else f"{one['mean_score']:.3f}",
            _share(one["false_by_reranker"]), _share(one["false_by_judgments"]),
        ]  # fmt: skip
        rows.append([*(json.dumps(one["rule"][name]) for name in shown), *figures])
    return rows


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}%"
