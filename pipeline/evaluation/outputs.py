"""Outputs of the job: tables of rankings and scores, TREC runs, and a table on the terminal."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core.errors import UserError
from pipeline.evaluation.results import Results
from pipeline.evaluation.scores import unit_table
from pipeline.metrics.registry import TASKS, metric_label
from pipeline.report.format import decimal, p_value, with_layers
from pipeline.report.spreadsheet import csv_text
from pipeline.search.exact import TopK
from pipeline.storage.files import filesystem, join

UNIT_TABLES = ("per_query", "per_triplet", "per_pair")


def runs_table(results: Results, model: str) -> pa.Table:
    """Return the ranking of one model as rows of the table `runs`."""
    docs, best = results.docs[model], results.best[model]
    filled = best.rows >= 0
    return pa.table(
        {
            "query_id": [query for query, ranking in docs.items() for _ in ranking],
            "doc_id": [doc for ranking in docs.values() for doc in ranking],
            "rank": pa.array([rank for ranking in docs.values() for rank in range(1, len(ranking) + 1)], pa.int32()),
            "score": pa.array(best.scores[filled], pa.float32()),
        }
    )


def unit_tables(results: Results) -> dict[str, pa.Table]:
    """Return the values before they were averaged: a row a model and query, triplet, or scored pair."""
    dataset, tables = results.dataset, {}
    if dataset.query_ids:
        values = results.values | {variant.name: variant.values for variant in results.variants}
        tables["per_query"] = unit_table(values, dataset.query_ids)
    if dataset.triplets and any(results.triplets.values()):
        numbers = [str(number) for number in range(len(dataset.triplets))]
        tables["per_triplet"] = unit_table(results.triplets, numbers, "triplet")
    if results.cosines:
        left, right, gold = zip(*dataset.scored_pairs, strict=True)
        sides = {name: [dataset.texts[index] for index in side] for name, side in (("left", left), ("right", right))}
        parts = [
            pa.table({"model": [model] * len(gold), **sides, "score": gold, "cosine": cosines})
            for model, cosines in results.cosines.items()
        ]
        tables["per_pair"] = pa.concat_tables(parts)
    return tables


def queries_csv(results: Results, metrics: Sequence[str]) -> str:
    """Return every query with its scores by model and metric, for a spreadsheet; empty without queries."""
    dataset = results.dataset
    if not dataset.query_ids:
        return ""
    columns = [(model, metric) for model in results.values for metric in metrics]
    rows: list[list[str | float]] = [
        [query, text, *(results.values[model][metric][query] for model, metric in columns)]
        for query, text in zip(dataset.query_ids, dataset.texts, strict=False)
    ]
    return csv_text(["query_id", "query", *(f"{model} {metric}" for model, metric in columns)], rows)


def trec_lines(results: Results, model: str) -> str:
    """Return the ranking of one model as a TREC run: query_id Q0 doc_id rank score tag.

    trec_eval orders by score and breaks ties by document id, so equal scores are spread by the smallest float32
    steps: trec_eval on this file gives the scores of metrics.json. Blanks in ids become underscores.
    """
    scores = _falling(results.best[model])
    lines = []
    for (query, docs), query_scores in zip(results.docs[model].items(), scores, strict=True):
        for rank, (doc, score) in enumerate(zip(docs, query_scores, strict=False), start=1):
            lines.append(f"{_word(query)} Q0 {_word(doc)} {rank} {score:.9g} {model}\n")
    return "".join(lines)


def _falling(best: TopK) -> Any:
    """Scores [Q, k] that fall strictly along a row."""
    scores = best.scores.copy()
    for rank in range(1, scores.shape[1]):
        below = np.nextafter(scores[:, rank - 1], np.float32(-np.inf))
        scores[:, rank] = np.minimum(scores[:, rank], below)
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
    scores: Mapping[str, Mapping[str, Any]],
    comparisons: Sequence[Mapping[str, Any]],
    metrics: Sequence[str],
    title: str,
) -> None:
    """Print the scores of all models on the terminal, with the corrected p-value of the first metric."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    tasks = [metric.name for metric in TASKS.values() if metric.headline]
    names = [name for name in [*metrics, *tasks] if any(name in of_model for of_model in scores.values())]
    p_values = {test["model"]: p_value(test["p_holm"]) for test in comparisons if test["metric"] == metrics[0]}
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column("model")
    for name in names:
        table.add_column(metric_label(name), justify="right")
    if p_values:
        table.add_column("p", justify="right")
    for model, of_model in scores.items():
        cells = [decimal(of_model[name]) if name in of_model else "-" for name in names]
        table.add_row(with_layers(model, of_model), *cells, *([p_values.get(model, "")] if p_values else []))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
