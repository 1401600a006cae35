"""What the job leaves: metrics.json, TREC runs, Parquet tables, the page, and a table on the terminal."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core.errors import UserError
from pipeline.evaluation.results import Measured
from pipeline.evaluation.scores import unit_table
from pipeline.report.format import decimal, metric_name, p_value
from pipeline.search.exact import Best
from pipeline.storage.files import filesystem, join

UNIT_TABLES = ("per_query", "per_triplet", "per_pair")
_SHOWN = ("triplet_accuracy", "spearman", "average_precision", "v_measure")


def runs_table(measured: Measured, model: str) -> pa.Table:
    """Return the ranking of one model as rows of the table `runs`."""
    docs, best = measured.docs[model], measured.best[model]
    held = best.rows >= 0
    return pa.table(
        {
            "query_id": [query for query, found in docs.items() for _ in found],
            "doc_id": [doc for found in docs.values() for doc in found],
            "rank": pa.array([rank for found in docs.values() for rank in range(1, len(found) + 1)], pa.int32()),
            "score": pa.array(best.scores[held], pa.float32()),
        }
    )


def unit_tables(measured: Measured) -> dict[str, pa.Table]:
    """Return every figure before it was averaged: a row a model and query, triplet, or labelled pair."""
    questions, found = measured.questions, {}
    if questions.query_ids:
        values = measured.values | {smaller.name: smaller.values for smaller in measured.smaller}
        found["per_query"] = unit_table(values, questions.query_ids)
    if questions.triplets and any(measured.triplets.values()):
        numbers = [str(number) for number in range(len(questions.triplets))]
        found["per_triplet"] = unit_table(measured.triplets, numbers, "triplet")
    if measured.cosines:
        left, right, gold = zip(*questions.labelled, strict=True)
        sides = {name: [questions.texts[place] for place in side] for name, side in (("left", left), ("right", right))}
        parts = [
            pa.table({"model": [model] * len(gold), **sides, "score": gold, "cosine": cosines})
            for model, cosines in measured.cosines.items()
        ]
        found["per_pair"] = pa.concat_tables(parts)
    return found


def trec_lines(measured: Measured, model: str) -> str:
    """Return the ranking of one model as a TREC run: query_id Q0 doc_id rank score tag.

    trec_eval orders by score and breaks ties by document id, so equal scores are told apart by the smallest float32
    steps: trec_eval on this file gives the figures of metrics.json. Blanks in ids become underscores.
    """
    scores = _falling(measured.best[model])
    lines = []
    for query, place in zip(measured.docs[model].items(), range(len(scores)), strict=True):
        for rank, doc in enumerate(query[1], start=1):
            lines.append(f"{_word(query[0])} Q0 {_word(doc)} {rank} {scores[place, rank - 1]:.9g} {model}\n")
    return "".join(lines)


def _falling(best: Best) -> Any:
    """Scores [Q, k] that fall strictly along a row."""
    scores = best.scores.copy()
    for place in range(1, scores.shape[1]):
        below = np.nextafter(scores[:, place - 1], np.float32(-np.inf))
        scores[:, place] = np.minimum(scores[:, place], below)
    return scores


def _word(text: str) -> str:
    return "_".join(text.split()) or "_"


def write_text(path: str, text: str) -> None:
    """Write a file under a temporary name, then rename it."""
    fs, name = filesystem(path)
    with fs.open(f"{name}.partial", "w", encoding="utf-8") as file:
        file.write(text)
    fs.mv(f"{name}.partial", name)


def read_curves(folder: str) -> list[dict[str, Any]]:
    """Read the metrics.jsonl of a training; none where there is no such file."""
    fs, root = filesystem(folder)
    path = join(root, "metrics.jsonl")
    if not fs.exists(path):
        return []
    rows = []
    with fs.open(path, "r", encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                rows.append(json.loads(line)) if line.strip() else None
            except json.JSONDecodeError as error:
                raise UserError(f"{folder}/metrics.jsonl: line {number} is not JSON: {error}") from error
    return [row for row in rows if isinstance(row, dict)]


def print_table(
    figures: Mapping[str, Mapping[str, Any]],
    comparisons: Sequence[Mapping[str, Any]],
    metrics: Sequence[str],
    title: str,
) -> None:
    """Print the figures of all models on the terminal, with the corrected p-value of the first metric."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    names = [name for name in [*metrics, *_SHOWN] if any(name in found for found in figures.values())]
    p_values = {test["model"]: p_value(test["p_holm"]) for test in comparisons if test["metric"] == metrics[0]}
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column("model")
    for name in names:
        table.add_column(metric_name(name), justify="right")
    if p_values:
        table.add_column("p", justify="right")
    for model, found in figures.items():
        cells = [decimal(found[name]) if name in found else "-" for name in names]
        table.add_row(model, *cells, *([p_values.get(model, "")] if p_values else []))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
