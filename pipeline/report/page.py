"""The page: every text escaped, everything inside the file, nothing loaded from anywhere."""

import re
from collections.abc import Mapping
from html import escape

from pipeline.report import figures, results
from pipeline.report.data import Findings
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


def render(findings: Findings) -> str:
    """Draw the whole page as HTML."""
    sections = [
        _opening(findings),
        results.glance(findings),
        results.models(findings),
        results.comparisons(findings),
        _kept(findings),
        figures.training(findings),
        figures.similarities(findings),
        figures.smaller(findings),
        figures.landscape(findings),
        example_section(findings),
        _data(findings),
        _method(findings),
        _origin(findings),
    ]
    return document(f"{findings.run}: evaluation", sections)


def _opening(findings: Findings) -> str:
    asked = [f"{count(n)} {name}" for name, n in _asked(findings).items() if n]
    what = f"{' and '.join(asked) or 'Triplets'} of split {findings.split}"
    over = f" over {count(findings.documents)} documents" if findings.documents else ""
    return (
        f'<header>\n<p class="over">Evaluation of {escape(findings.run)}</p>\n'
        f"<h1>{_unbroken(escape(headline(findings)))}.</h1>\n"
        f'<p class="lead">{escape(what + over)}. {escape(" ".join(_said(findings)))}</p>\n</header>'
    )


def _asked(findings: Findings) -> dict[str, int]:
    return {"queries": findings.queries, "labelled pairs": findings.labelled_pairs}


def _said(findings: Findings) -> list[str]:
    alone = findings.subject == findings.baseline
    guards = [] if alone else findings.guards
    return [*remarks(findings), *kept_remarks(guards, findings.metrics, findings.subject, findings.baseline)]


def _unbroken(text: str) -> str:
    """Keep `p = 0.0002` on one line."""
    return re.sub(r"\bp (=|&lt;) ", r"p&nbsp;\1&nbsp;", text)


def _kept(findings: Findings) -> str:
    rows = kept_rows(findings.guards, findings.metrics, findings.subject, findings.baseline)
    if not rows or findings.subject == findings.baseline:
        return ""
    head = ["Corpus", "Metric", f"Before, {escape(findings.baseline)}", f"After, {escape(findings.subject)}"]
    said = (
        "Corpora that this training was not about, all their documents ranked. Paired test, two-sided, uncorrected: a "
        "loss shall not hide behind a correction."
    )
    return section("What it kept", table([*head, "Difference", "p"], rows, words=2), note(said))


def _data(findings: Findings) -> str:
    parts = [_pairs("Table", "Rows", {k: count(v) for k, v in findings.tables.items()})]
    lost = {reason(k): count(v) for k, v in {**findings.dropped, **findings.skipped}.items()}
    parts.append(_pairs("Left out", "Rows", lost) if lost else note("No row was left out."))
    tables = pair(*(f"<div>{part}</div>" for part in parts))
    told = "".join(f"<li>{escape(sentence)}</li>" for sentence in leakage(findings))
    return section("Data and leakage", tables, f"<ul>{told}</ul>")


def _pairs(left: str, right: str, rows: Mapping[str, str]) -> str:
    return table([left, right], [[escape(key), escape(value)] for key, value in rows.items()])


def _method(findings: Findings) -> str:
    lines = [
        "Retrieval metrics are trec_eval's own code. nDCG takes the gain 2^grade - 1.",
        "Equal scores rank in the order of the corpus.",
        "Queries without a relevant document are skipped and counted under Data and leakage.",
        "A relevant document that was never judged counts as not relevant, so figures are lower bounds.",
    ]
    lines = lines if findings.queries else []
    measured = {name for figures in findings.figures.values() for name in figures}
    lines += [sentence for name, sentence in _SENTENCES.items() if name in measured]
    return section("How it was measured", "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>")


def _origin(findings: Findings) -> str:
    facts = {**findings.data, **findings.environment}
    items = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts.items())
    lines = "".join(f"<code>{escape(command)}</code>\n" for command in findings.commands)
    shown = f'<pre tabindex="0">{lines}</pre>' if lines else ""
    return section("Where it comes from", shown, f"<dl>{items}</dl>")
