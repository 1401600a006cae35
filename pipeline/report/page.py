"""The page: every text escaped, everything inside the file, nothing loaded from anywhere."""

import re
from collections.abc import Mapping
from html import escape

from pipeline.report import figures, results
from pipeline.report.data import ReportData
from pipeline.report.examples import example_section
from pipeline.report.format import count, headline, leakage, reason, remarks
from pipeline.report.html_parts import document, note, pair, section, table
from pipeline.report.retention import kept_remarks, kept_rows

_SENTENCES = {
    "triplet_accuracy": "Triplet accuracy: share of triplets whose anchor is nearer to the positive than to each "
    "negative. The margin is the cosine of the positive less that of the nearest negative.",
    "average_precision": "Labelled pairs are ranked by cosine; best F1 and accuracy are those of the best threshold, "
    "chosen on these very pairs, so they are upper bounds.",
    "duplicate_f1": "Duplicates: all near pairs of the labelled texts are ranked; one without a label counts as wrong.",
    "v_measure": "V-measure: k-means of sampled documents, as many clusters as categories, mean of five seeds.",
}


def render(report: ReportData) -> str:
    """Draw the whole page as HTML."""
    sections = [
        _opening(report),
        results.glance(report),
        results.models(report),
        results.comparisons(report),
        _kept(report),
        figures.training(report),
        figures.similarities(report),
        figures.smaller(report),
        figures.landscape(report),
        example_section(report),
        _data(report),
        _method(report),
        _origin(report),
    ]
    return document(f"{report.run}: evaluation", sections)


def _opening(report: ReportData) -> str:
    asked = [f"{count(n)} {name}" for name, n in _asked(report).items() if n]
    what = f"{' and '.join(asked) or 'Triplets'} of split {report.split}"
    over = f" over {count(report.documents)} documents" if report.documents else ""
    return (
        f'<header>\n<p class="over">Evaluation of {escape(report.run)}</p>\n'
        f"<h1>{_unbroken(escape(headline(report)))}.</h1>\n"
        f'<p class="lead">{escape(what + over)}. {escape(" ".join(_said(report)))}</p>\n</header>'
    )


def _asked(report: ReportData) -> dict[str, int]:
    return {"queries": report.queries, "labelled pairs": report.scored_pairs}


def _said(report: ReportData) -> list[str]:
    alone = report.subject == report.baseline
    guards = [] if alone else report.guards
    return [*remarks(report), *kept_remarks(guards, report.metrics, report.subject, report.baseline)]


def _unbroken(text: str) -> str:
    """Keep `p = 0.0002` on one line."""
    return re.sub(r"\bp (=|&lt;) ", r"p&nbsp;\1&nbsp;", text)


def _kept(report: ReportData) -> str:
    rows = kept_rows(report.guards, report.metrics, report.subject, report.baseline)
    if not rows or report.subject == report.baseline:
        return ""
    head = ["Corpus", "Metric", f"Before, {escape(report.baseline)}", f"After, {escape(report.subject)}"]
    said = (
        "Corpora that this training was not about, all their documents ranked. Paired test, two-sided, uncorrected: a "
        "loss shall not hide behind a correction."
    )
    return section("What it kept", table([*head, "Difference", "p"], rows, words=2), note(said))


def _data(report: ReportData) -> str:
    parts = [_pairs("Table", "Rows", {k: count(v) for k, v in report.tables.items()})]
    lost = {reason(k): count(v) for k, v in {**report.dropped, **report.skipped}.items()}
    parts.append(_pairs("Left out", "Rows", lost) if lost else note("No row was left out."))
    tables = pair(*(f"<div>{part}</div>" for part in parts))
    told = "".join(f"<li>{escape(sentence)}</li>" for sentence in leakage(report))
    return section("Data and leakage", tables, f"<ul>{told}</ul>")


def _pairs(left: str, right: str, rows: Mapping[str, str]) -> str:
    return table([left, right], [[escape(key), escape(value)] for key, value in rows.items()])


def _method(report: ReportData) -> str:
    lines = [
        "Retrieval metrics are trec_eval's own code. nDCG takes the gain 2^grade - 1.",
        "Equal scores rank in the order of the corpus.",
        "Queries without a relevant document are skipped and counted under Data and leakage.",
        "A relevant document that was never judged counts as not relevant, so figures are lower bounds.",
    ]
    lines = lines if report.queries else []
    measured = {name for figures in report.scores.values() for name in figures}
    lines += [sentence for name, sentence in _SENTENCES.items() if name in measured]
    return section("How it was measured", "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>")


def _origin(report: ReportData) -> str:
    facts = {**report.data, **report.environment}
    items = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts.items())
    lines = "".join(f"<code>{escape(command)}</code>\n" for command in report.commands)
    shown = f'<pre tabindex="0">{lines}</pre>' if lines else ""
    return section("Where it comes from", shown, f"<dl>{items}</dl>")
