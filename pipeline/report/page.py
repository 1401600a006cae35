"""The page of a report: every text escaped, everything inside the file, nothing loaded from anywhere."""

import re
from dataclasses import dataclass

from pipeline.report import figures, results
from pipeline.report.data import ReportData
from pipeline.report.document_map import document_maps
from pipeline.report.examples import examples
from pipeline.report.format import count, reason
from pipeline.report.html import Table, plain_table, render_template
from pipeline.report.query_groups import groups
from pipeline.report.retention import retention_remarks, retention_table
from pipeline.report.sentences import headline, leakage, remarks


@dataclass(frozen=True)
class Opening:
    """The first lines of the page: the result in a sentence, what it is measured on, and remarks."""

    headline: str
    scope: str
    remarks: list[str]


@dataclass(frozen=True)
class DataView:
    """The data that was evaluated: rows of each table, rows left out by reason, and what is cut off and what leaks."""

    tables: Table
    dropped: Table
    remarks: list[str]


def render(report: ReportData) -> str:
    """Draw the whole page as HTML."""
    return render_template(
        "pipeline.report",
        "report.html",
        report=report,
        opening=_opening(report),
        standings=results.standings(report),
        models=results.score_tables(report),
        comparisons=results.comparisons(report),
        retention=retention_table(report),
        training=figures.training(report),
        similarities=figures.similarities(report),
        variants=figures.variants(report),
        document_maps=document_maps(report),
        groups=groups(report),
        examples=examples(report),
        data=_data(report),
        methods=_methods(report),
        origin={**report.data, **report.environment},
    )


def _opening(report: ReportData) -> Opening:
    sizes = {"queries": report.queries, "labelled pairs": report.scored_pairs}
    measured = " and ".join(f"{count(size)} {name}" for name, size in sizes.items() if size)
    documents = f" over {count(report.documents)} documents" if report.documents else ""
    scope = f"{measured or 'Triplets'} of split {report.split}{documents}"
    return Opening(_unbroken(headline(report)), scope, [*remarks(report), *retention_remarks(report)])


def _unbroken(text: str) -> str:
    """Keep `p = 0.0002` on one line, by spaces that do not break."""
    return re.sub(r"\bp (=|<) ", "p\u00a0\\1\u00a0", text)


def _data(report: ReportData) -> DataView:
    tables = [[name, count(rows)] for name, rows in report.tables.items()]
    dropped = [[reason(key), count(rows)] for key, rows in {**report.dropped, **report.skipped}.items()]
    return DataView(
        plain_table(["Table", "Rows"], tables),
        plain_table(["Left out", "Rows"], dropped),
        [*report.truncation, *leakage(report)],
    )


def _methods(report: ReportData) -> list[str]:
    sentences = [
        "Retrieval metrics are trec_eval's own code. nDCG takes the gain 2^grade - 1.",
        "Equal scores rank in the order of the corpus.",
        "Queries without a relevant document are skipped and counted under Data and leakage.",
        "A relevant document that was never judged counts as not relevant, so figures are lower bounds.",
    ]
    measured = report.measured(report.task_metrics())
    return (sentences if report.queries else []) + [
        report.metric_info[name].explanation for name in measured if report.metric_info[name].explanation
    ]
