"""A survey as a page of its own, with histograms of lengths."""

from pipeline.inspection import tables
from pipeline.inspection.survey import Survey
from pipeline.report.html import Figure, plain_table, render_template
from pipeline.report.plots import distribution


def render(survey: Survey) -> str:
    """Draw the page as HTML."""
    return render_template(
        "pipeline.inspection",
        "inspection.html",
        survey=survey,
        rows=sum(table.rows for table in survey.tables),
        facts=tables.facts(survey),
        tables={title: plain_table(head, cells) for title, (head, cells) in tables.all_tables(survey).items()},
        histograms=_histograms(survey),
        samples=_samples(survey),
    )


def _histograms(survey: Survey) -> list[Figure]:
    figures = []
    for table in survey.tables:
        for name, lengths in table.lengths.items():
            if lengths.quantile(1.0):
                column = f"{table.name}.{name}"
                svg = distribution(lengths.counts, lengths.unit, column.replace(".", "-").replace("_", "-"))
                figures.append(Figure(svg, f"Lengths of {column}", f"{column}, up to the 99th percentile."))
    return figures


def _samples(survey: Survey) -> list[tuple[str, dict[str, str]]]:
    """The random rows: the name of their table, and their values on one line each."""
    return [
        (table.name, {name: tables.one_line(value, 600) for name, value in row.items()})
        for table in survey.tables
        for row in tables.rows(table)
    ]
