"""A sweep of selection rules over mined candidates: what each selects, and how many of its negatives look false."""

import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, ValidationError

from pipeline.core.errors import UserError
from pipeline.core.progress import Progress, say
from pipeline.mining.candidate_arrays import Bools, CandidateArrays, Keys, as_array, hash_ids, list_positions
from pipeline.mining.config import MineConfig
from pipeline.mining.rules import SelectionRule, apply_rule
from pipeline.storage import shards
from pipeline.storage.artifact import Artifact
from pipeline.storage.files import join, open_parquet, write_json
from pipeline.text.normalize import hash64

_ROWS_PER_BATCH = 16_384
_COLUMNS = [
    "positive_score", "positive_cross_score", "positive_lexical_score", "candidates.list.element.score",
    "candidates.list.element.cross_score", "candidates.list.element.lexical_score",
    "candidates.list.element.positive_similarity", "candidates.list.element.cluster",
    "candidates.list.element.same_category", "candidates.list.element.shared_tags",
]  # fmt: skip
_ID_COLUMNS = ["anchor_id", "positive_id", "candidates.list.element.doc_id"]
GRID: dict[str, list[Any]] = {
    "max_percentage": [None, 1.0, 0.98, 0.95, 0.9, 0.8],
    "skip_top": [0, 5, 10],
}


class SweepConfig(MineConfig):
    """Try many selection rules on mined candidates; settings of the mining job are the base of the rules."""

    common_settings = (
        "run",
        "grid",
        "rule.num_negatives",
        "rule.max_percentage",
        "candidates",
        "judgments",
        "false_above",
    )

    grid: dict[str, list[Any]] = Field(
        default_factory=lambda: dict(GRID), description="settings of the rule and their values, as JSON; all combined"
    )
    judgments: str | None = Field(
        None, description="Parquet or JSON lines of query_id, doc_id, relevance: above 0 is a false negative"
    )
    false_above: float = Field(0.5, description="a cross-encoder's score from which a negative counts as false")

    def rules(self) -> list[SelectionRule]:
        """Every combination of the grid over the base rule; raises UserError for unknown settings and bad values."""
        rule_class = type(self.rule)
        unknown = sorted(set(self.grid) - set(rule_class.model_fields))
        if unknown:
            choices = ", ".join(name for name in rule_class.model_fields if name != "type")
            raise UserError(f"grid: unknown setting {', '.join(unknown)}; choose from {choices}")
        base = self.rule.model_dump()
        rules: list[SelectionRule] = []
        for values in itertools.product(*self.grid.values()):
            changes = dict(zip(self.grid, values, strict=True))
            if changes.get("relative_margin") is not None:
                changes.setdefault("max_percentage", None)
            try:
                rules.append(rule_class.model_validate(base | changes))
            except ValidationError as error:
                raise UserError(f"grid: {changes}: {error.errors()[0]['msg']}") from error
        return rules


@dataclass
class RuleStatistics:
    """Counts of what one rule selected in the rows that were read."""

    rows: int = 0
    negatives_per_row: Counter[int] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    score_sum: float = 0.0
    cross_scored: int = 0  # negatives that a cross-encoder scored
    cross_false: int = 0  # of these, scored as if they were right
    with_judgment: int = 0  # negatives that somebody judged
    judged_relevant: int = 0  # of these, judged relevant

    @property
    def negatives(self) -> int:
        """Negatives in all rows."""
        return sum(number * count for number, count in self.negatives_per_row.items())

    def summary(self, num_negatives: int) -> dict[str, float | None]:
        """Shares and means by which a reader chooses a rule; None where nothing is known."""
        any_share = 1 - self.negatives_per_row[0] / max(1, self.rows)
        full = sum(count for number, count in self.negatives_per_row.items() if number >= num_negatives)
        return {
            "full_rows": full / max(1, self.rows),
            "rows_with_any": any_share if self.rows else 0.0,
            "negatives_per_row": self.negatives / max(1, self.rows),
            "mean_score": self.score_sum / self.negatives if self.negatives else None,
            "false_by_reranker": self.cross_false / self.cross_scored if self.cross_scored else None,
            "false_by_judgments": self.judged_relevant / self.with_judgment if self.with_judgment else None,
            "judged": self.with_judgment,
        }


@dataclass(frozen=True)
class Judgments:
    """Keys of judged (query, document) pairs, rising, and of those among them that are relevant."""

    keys: Keys
    relevant_keys: Keys

    def masks(self, table: pa.Table, arrays: CandidateArrays) -> tuple[Bools, Bools]:
        """Masks [P, K] of the candidates that are judged, and that are relevant."""
        assert arrays.doc_keys is not None, "judgments are looked up by keys"
        anchors = hash_ids(table["anchor_id"].combine_chunks())
        with np.errstate(over="ignore"):
            keys = anchors[:, None] * np.uint64(0x9E3779B97F4A7C15) + arrays.doc_keys
        row, column, _ = list_positions(as_array(table["candidates"]))
        filled = np.zeros(keys.shape, np.bool_)
        filled[row, column] = True
        return filled & np.isin(keys, self.keys), filled & np.isin(keys, self.relevant_keys)


def run(config: SweepConfig) -> list[dict[str, Any]]:
    """Try every rule over the candidates of `{run}/negatives` and write `{run}/sweep.json`, one entry a rule."""
    artifact = Artifact.open(config.candidates or config.out or join(config.run, "negatives"), "mine")
    rules = config.rules()
    started = time.monotonic()
    statistics = sweep(artifact.files("candidates"), rules, _read_judgments(config.judgments), config.false_above)
    seconds = time.monotonic() - started
    results = [
        {"rule": rule.model_dump(mode="json"), **counts.summary(rule.num_negatives), "refused": dict(counts.refused)}
        for rule, counts in zip(rules, statistics, strict=True)
    ]
    path = join(config.run, "sweep.json")
    write_json(path, results)
    say(f"sweep: {len(rules)} rules over {statistics[0].rows:,} rows in {seconds:.1f} s; {path}")
    return results


def sweep(
    files: Sequence[str],
    rules: Sequence[SelectionRule],
    judgments: Judgments | None = None,
    false_above: float = 0.5,
) -> list[RuleStatistics]:
    """Count what each rule selects of the candidate files, which are read once, a batch of rows at a time."""
    statistics = [RuleStatistics() for _ in rules]
    with_keys = judgments is not None or any(rule.needs_keys for rule in rules)
    columns = _COLUMNS + (_ID_COLUMNS if with_keys else [])
    with Progress("sweep", _count_rows(files), "rows") as progress:
        for table in _tables(files, columns):
            arrays = CandidateArrays.from_table(table, with_keys=with_keys)
            masks = None if judgments is None else judgments.masks(table, arrays)
            for rule, counts in zip(rules, statistics, strict=True):
                _count(counts, arrays, rule, masks, false_above)
            progress.add(table.num_rows)
    return statistics


def _tables(files: Sequence[str], columns: list[str]) -> Iterator[pa.Table]:
    """Yield columns of the candidate files, a batch of rows at a time."""
    for path in files:
        with open_parquet(path) as file:
            for batch in file.iter_batches(_ROWS_PER_BATCH, columns=columns):
                yield pa.Table.from_batches([batch])


def _count(
    counts: RuleStatistics,
    arrays: CandidateArrays,
    rule: SelectionRule,
    masks: tuple[Bools, Bools] | None,
    false_above: float,
) -> None:
    selection = apply_rule(rule, arrays)
    selected = selection.selected
    counts.rows += len(selected)
    per_row = np.bincount(selected.sum(axis=1))
    counts.negatives_per_row.update({number: int(count) for number, count in enumerate(per_row) if count})
    counts.refused.update(selection.refused)
    counts.score_sum += float(arrays.scores[selected].sum(dtype=np.float64))
    cross = arrays.cross[selected]
    counts.cross_scored += int((~np.isnan(cross)).sum())
    counts.cross_false += int((cross >= np.float32(false_above)).sum())
    if masks is not None:
        counts.with_judgment += int((selected & masks[0]).sum())
        counts.judged_relevant += int((selected & masks[1]).sum())


def _count_rows(files: Sequence[str]) -> int:
    total = 0
    for path in files:
        with open_parquet(path) as file:
            total += file.metadata.num_rows
    return total


def _read_judgments(path: str | None) -> Judgments | None:
    if path is None:
        return None
    parts = [
        shards.read(shard, ["query_id", "doc_id", "relevance"])
        for shard in shards.plan(shards.find_files(path), 1 << 20, "judgments")
    ]
    table = pa.concat_tables(parts)
    ids = zip(table["query_id"].to_pylist(), table["doc_id"].to_pylist(), strict=True)
    keys = np.fromiter((_pair_key(hash64(query), hash64(doc)) for query, doc in ids), np.uint64, table.num_rows)
    relevant = pc.greater(table["relevance"], 0).to_numpy().astype(bool)
    return Judgments(np.sort(keys), np.sort(keys[relevant]))


def _pair_key(query: int, doc: int) -> int:
    return (query * 0x9E3779B97F4A7C15 + doc) % 2**64


def table_lines(results: Sequence[dict[str, Any]], config: SweepConfig) -> list[list[str]]:
    """Cells of a table to choose from: the head, then a line a rule."""
    settings = list(config.grid)
    lines = [[*settings, "full rows", "any", "a row", "cosine", "false (reranker)", "false (judged)"]]
    for result in results:
        lines.append(
            [
                *(json.dumps(result["rule"][name]) for name in settings),
                _percent(result["full_rows"]),
                _percent(result["rows_with_any"]),
                f"{result['negatives_per_row']:.2f}",
                "" if result["mean_score"] is None else f"{result['mean_score']:.3f}",
                _percent(result["false_by_reranker"]),
                _percent(result["false_by_judgments"]),
            ]
        )
    return lines


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}%"
