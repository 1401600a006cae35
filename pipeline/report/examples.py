"""The part of the page that shows queries: what one model found and the other did not."""

from collections.abc import Sequence
from html import escape

from pipeline.report.data import Example, Hit, ReportData
from pipeline.report.format import decimal, metric_name, shorten


def example_section(report: ReportData) -> str:
    """Show the queries won and lost most, with the first documents of both models."""
    if not (report.won or report.lost):
        return ""
    metric = metric_name(report.metrics[0])
    parts = [
        _list(f"Won most by {report.subject}", report.won, metric),
        _list(f"Lost most by {report.subject}", report.lost, metric),
    ]
    return "<section>\n<h2>Queries</h2>\n" + "\n".join(part for part in parts if part) + "\n</section>"


def _list(title: str, examples: Sequence[Example], metric: str) -> str:
    if not examples:
        return ""
    return f"<h3>{escape(title)}</h3>\n" + "\n".join(_example(example, metric) for example in examples)


def _example(example: Example, metric: str) -> str:
    change = f"{escape(metric)} {decimal(example.before)} to {decimal(example.after)}"
    columns = "".join(
        f"<div><h4>{escape(model)}</h4><ol>{''.join(_hit(hit) for hit in hits)}</ol></div>"
        for model, hits in example.answers.items()
    )
    seen = any(hit.relevant for hits in example.answers.values() for hit in hits)
    missed = "" if seen or not example.relevant else f'<p class="note">Wanted: {escape(shorten(example.relevant))}</p>'
    return (
        f'<details><summary><span class="query">{escape(shorten(example.query))}</span> '
        f'<span class="change">{change}</span></summary>\n<div class="pair">{columns}</div>{missed}</details>'
    )


def _hit(hit: Hit) -> str:
    mark = '<span class="mark">relevant</span> ' if hit.relevant else ""
    return f'<li value="{hit.rank}"{" class=right" if hit.relevant else ""}>{mark}{escape(shorten(hit.text))}</li>'
