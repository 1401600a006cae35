"""A survey as a page of its own, with histograms of lengths."""

from html import escape

from pipeline.inspection.survey import Survey
from pipeline.inspection.tables import dropped, facts, lengths, overlaps, repeats, rows, shown, tables, values, vectors
from pipeline.report.html_parts import document, figure, section, table
from pipeline.report.plots import distribution


def render(survey: Survey) -> str:
    """Draw the page."""
    named = {
        "Tables": tables(survey),
        "Left out": dropped(survey),
        "Repetitions": repeats(survey),
        "In more than one split": overlaps(survey),
        "Lengths": lengths(survey),
        "Values": values(survey),
        "Vectors": vectors(survey),
    }
    parts = [_opening(survey)]
    for title, (head, cells) in named.items():
        drawn = table(head, [[escape(cell) for cell in row] for row in cells])
        parts.append(section(title, drawn, _histograms(survey) if title == "Lengths" else "") if cells else "")
    if not named["Left out"][1]:
        parts.append(section("Left out", '<p class="note">No row was left out.</p>'))
    return document(f"{survey.path}: a look", [*parts, _rows(survey)])


def _opening(survey: Survey) -> str:
    told = ", ".join(f"{name} {value}" for name, value in facts(survey))
    total = sum(found.rows for found in survey.tables)
    return (
        f'<header>\n<p class="over">{escape(survey.path)}</p>\n'
        f"<h1>{total:,} rows in {len(survey.tables)} tables.</h1>\n"
        f'<p class="lead">{escape(told)}</p>\n</header>'
    )


def _histograms(survey: Survey) -> str:
    figures = []
    for found in survey.tables:
        for name, held in found.lengths.items():
            if held.quantile(1.0):
                column = f"{found.name}.{name}"
                svg = distribution(held.counts, held.unit, column.replace(".", "-").replace("_", "-"))
                figures.append(figure(svg, f"Lengths of {column}", f"{column}, up to the 99th percentile."))
    return f'<div class="pair">{"".join(figures)}</div>'


def _rows(survey: Survey) -> str:
    parts = []
    for found in survey.tables:
        for row in rows(found):
            items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(shown(v, 600))}</dd>" for k, v in row.items())
            parts.append(f"<h3>{escape(found.name)}</h3>\n<dl>{items}</dl>")
    return section("Random rows", *parts) if parts else ""
