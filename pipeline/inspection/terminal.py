"""A survey as tables on a terminal."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.inspection.survey import Survey
from pipeline.inspection.tables import all_tables, facts, one_line, rows
from pipeline.report.format import printable


def show(survey: Survey, console: Console) -> None:
    """Print a survey."""
    console.print(f"[bold]{_plain(survey.path)}[/]", *(f"{name} {_plain(value)}" for name, value in facts(survey)))
    for title, (head, cells) in all_tables(survey).items():
        if cells:
            console.print(_table(title, head, cells))
    for table in survey.tables:
        for row in rows(table):
            console.rule(f"a row of {_plain(table.name)}", align="left", style="dim")
            for name, value in row.items():
                console.print(f"[dim]{_plain(name)}[/] {_plain(one_line(value, 300))}", highlight=False)


def _table(title: str, head: list[str], cells: list[list[Any]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for number, name in enumerate(head):
        numeric = all(cell[number][:1].isdigit() for cell in cells)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(_plain, row))
    return table


def _plain(text: str) -> str:
    """A text of the data that rich prints as it is: no markup, no escape sequence."""
    return escape(printable(text))
