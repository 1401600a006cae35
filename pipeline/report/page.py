"""The page: every text escaped, everything inside the file, nothing loaded from anywhere."""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from pipeline.report.examples import example_section
from pipeline.report.findings import Findings
from pipeline.report.guards import kept_remarks, kept_rows
from pipeline.report.plots import histograms, loss_curve, metric_curves, span_of
from pipeline.report.wording import count, decimal, headline, leakage, metric_name, p_value, reason, remarks, signed

_EXTRA = ("triplet_accuracy", "mean_margin", "spearman", "average_precision")


def render(findings: Findings) -> str:
    """Draw the whole page as HTML."""
    sections = [
        _opening(findings),
        _models(findings),
        _comparisons(findings),
        _kept(findings),
        _training(findings),
        _similarities(findings),
        example_section(findings),
        _data(findings),
        _method(findings),
        _origin(findings),
    ]
    return document(f"{findings.run}: evaluation", sections)


def document(title: str, sections: Iterable[str]) -> str:
    """Build a whole page of sections that are HTML already; the style is inside, nothing is loaded."""
    style = files("pipeline.report").joinpath("style.css").read_text(encoding="utf-8")
    body = "\n".join(section for section in sections if section)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _opening(findings: Findings) -> str:
    asked = f"{count(findings.queries)} queries of split {findings.split}" if findings.queries else findings.split
    over = f" over {count(findings.documents)} documents" if findings.documents else ""
    return (
        f'<header>\n<p class="over">Evaluation of {escape(findings.run)}</p>\n'
        f"<h1>{_unbroken(escape(headline(findings)))}.</h1>\n"
        f'<p class="lead">{escape(asked + over)}. {escape(" ".join(_said(findings)))}</p>\n</header>'
    )


def _said(findings: Findings) -> list[str]:
    alone = findings.subject == findings.baseline
    guards = [] if alone else findings.guards
    return [*remarks(findings), *kept_remarks(guards, findings.metrics, findings.subject, findings.baseline)]


def _unbroken(text: str) -> str:
    """Keep `p = 0.0002` on one line."""
    return re.sub(r"\bp (=|&lt;) ", r"p&nbsp;\1&nbsp;", text)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> str:
    """Build a table in its own scrolling box from cells that are HTML already; the first `words` columns are text."""
    kinds = ["" if place < words else ' class="num"' for place in range(len(head))]
    top = "".join(f'<th scope="col"{kind}>{cell}</th>' for kind, cell in zip(kinds, head, strict=True))
    body = "\n".join(
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="box" tabindex="0"><table><thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
    )


def section(title: str, *parts: str) -> str:
    """Build a section of parts that are HTML already."""
    return f"<section>\n<h2>{escape(title)}</h2>\n" + "\n".join(parts) + "\n</section>"


def _models(findings: Findings) -> str:
    names = [m for m in [*findings.metrics, *_EXTRA] if any(m in figures for figures in findings.figures.values())]
    best = {m: max(f[m] for f in findings.figures.values() if m in f) for m in names}
    rows = [
        [escape(model), *(_cell(figures, metric, best[metric]) for metric in names)]
        for model, figures in findings.figures.items()
    ]
    note = '<p class="note">Below a figure stands its 95% bootstrap interval over queries. The best is bold.</p>'
    return section("Models", table(["Model", *(escape(metric_name(m)) for m in names)], rows), note)


def _cell(figures: Mapping[str, Any], metric: str, best: float) -> str:
    if metric not in figures:
        return '<span class="none">-</span>'
    value = figures[metric]
    shown = f"<b>{decimal(value)}</b>" if value == best else decimal(value)
    interval = figures.get("ci95", {}).get(metric)
    return shown + (f"<small>{decimal(interval[0])} to {decimal(interval[1])}</small>" if interval else "")


def _comparisons(findings: Findings) -> str:
    if not findings.comparisons:
        return ""
    rows = []
    for test in findings.comparisons:
        low, high = test["ci95"]
        sure = test["p_holm"] < 0.05
        p = p_value(test["p_holm"])
        rows.append(
            [
                escape(test["model"]),
                escape(metric_name(test["metric"])),
                f"{signed(test['difference'])}<small>{signed(low)} to {signed(high)}</small>",
                f"{count(test['won'])} / {count(test['lost'])}",
                p_value(test["p_value"]),
                f"<b>{p}</b>" if sure else p,
            ]
        )
    head = ["Model", "Metric", "Difference", "Queries won / lost", "p", "p, Holm"]
    note = (
        '<p class="note">Paired permutation test over queries, 10,000 samples, two-sided; Holm takes the models '
        "of one metric as a family. Bold: below 0.05.</p>"
    )
    return section(f"Against {findings.baseline}", table(head, rows, words=2), note)


def _kept(findings: Findings) -> str:
    rows = kept_rows(findings.guards, findings.metrics, findings.subject, findings.baseline)
    if not rows or findings.subject == findings.baseline:
        return ""
    head = ["Corpus", "Metric", f"Before, {escape(findings.baseline)}", f"After, {escape(findings.subject)}"]
    note = (
        '<p class="note">Corpora that this training was not about, all their documents ranked. Paired permutation test '
        "over queries, two-sided, uncorrected: a loss shall not hide behind a correction.</p>"
    )
    return section("What it kept", table([*head, "Difference", "p"], rows, words=2), note)


def figure(svg: str, label: str, caption: str) -> str:
    """Build a figure of an SVG with its caption."""
    picture = f'<div role="img" aria-label="{escape(label)}">{svg}</div>'
    return f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"


def _training(findings: Findings) -> str:
    loss = loss_curve(findings.curves, "loss")
    metrics = metric_curves(findings.curves, "validation")
    figures = []
    if loss:
        figures.append(figure(loss, "Training loss over steps", "Loss of each step, and its running mean."))
    if metrics:
        figures.append(figure(metrics, "Validation metrics over steps", "Metrics of the validations during training."))
    return section("Training", f'<div class="pair">{"".join(figures)}</div>') if figures else ""


def _similarities(findings: Findings) -> str:
    shown = {model: {k: v for k, v in g.items() if len(v)} for model, g in findings.similarities.items()}
    shown = {model: groups for model, groups in shown.items() if groups}
    if not shown:
        return ""
    span = span_of(shown)
    figures = []
    for number, (model, groups) in enumerate(shown.items()):
        means = ", ".join(f"{label} {decimal(float(values.mean()))}" for label, values in groups.items())
        caption = f"{model}. Mean cosine: {means}."
        figures.append(figure(histograms(groups, span, f"cosine{number}"), f"Cosines under {model}", caption))
    source = f'<p class="note">{escape(findings.triplet_source)}</p>' if findings.triplet_source else ""
    return section("Similarities", f'<div class="pair">{"".join(figures)}</div>', source)


def _data(findings: Findings) -> str:
    parts = [_pairs("Table", "Rows", {k: count(v) for k, v in findings.tables.items()})]
    lost = {reason(k): count(v) for k, v in {**findings.dropped, **findings.skipped}.items()}
    parts.append(_pairs("Left out", "Rows", lost) if lost else '<p class="note">No row was left out.</p>')
    tables = '<div class="pair">' + "".join(f"<div>{part}</div>" for part in parts) + "</div>"
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
    if any("triplet_accuracy" in figures for figures in findings.figures.values()):
        lines.append(
            "Triplet accuracy: share of triplets whose anchor is nearer to the positive than to each negative."
        )
    return section("How it was measured", "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>")


def _origin(findings: Findings) -> str:
    facts = {**findings.data, **findings.environment}
    items = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts.items())
    return section("Where it comes from", f'<pre tabindex="0">{escape(findings.command)}</pre>', f"<dl>{items}</dl>")
