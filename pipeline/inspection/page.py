"""A survey as a page of its own, with histograms of lengths."""

from html import escape

from pipeline.inspection.survey import Survey
from pipeline.inspection.tables import (
    dropped,
    facts,
    lengths,
    one_line,
    overlaps,
    repeats,
    rows,
    tables,
    values,
    vectors,
)
from pipeline.report.html_parts import document, figure, section, table
from pipeline.report.plots import distribution


def render(survey: Survey) -> str:
    """Draw the page."""
    sections = {
        "Tables": tables(survey),
        "Left out": dropped(survey),
        "Repetitions": repeats(survey),
        "In more than one split": overlaps(survey),
        "Lengths": lengths(survey),
        "Values": values(survey),
        "Vectors": vectors(survey),
    }
    parts = [_opening(survey)]
    for title, (head, cells) in sections.items():
        content = table(head, [[escape(cell) for cell in row] for row in cells])
        parts.append(section(title, content, _histograms(survey) if title == "Lengths" else "") if cells else "")
    if not sections["Left out"][1]:
        parts.append(section("Left out", '<p class="note">No row was left out.</p>'))
    return document(f"{survey.path}: a look", [*parts, _rows(survey)])


def _opening(survey: Survey) -> str:
    origin = ", ".join(f"{name} {value}" for name, value in facts(survey))
    total = sum(table.rows for table in survey.tables)
    return (
        f'<header>\n<p class="over">{escape(survey.path)}</p>\n'
        f"<h1>{total:,} rows in {len(survey.tables)} tables.</h1>\n"
        f'<p class="lead">{escape(origin)}</p>\n</header>'
    )


def _histograms(survey: Survey) -> str:
    figures = []
    for part in survey.tables:
        for name, histogram in part.lengths.items():
            if histogram.quantile(1.0):
                column = f"{part.name}.{name}"
                svg = distribution(histogram.counts, histogram.unit, column.replace(".", "-").replace("_", "-"))
                figures.append(figure(svg, f"Lengths of {column}", f"{column}, up to the 99th percentile."))
    return f'<div class="pair">{"".join(figures)}</div>'


def _rows(survey: Survey) -> str:
    sections = []
    for part in survey.tables:
        for row in rows(part):
            items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(one_line(v, 600))}</dd>" for k, v in row.items())
            sections.append(f"<h3>{escape(part.name)}</h3>\n<dl>{items}</dl>")
    return section("Random rows", *sections) if sections else ""
