"""A survey as tables on a terminal."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.inspection.survey import Survey
from pipeline.inspection.tables import all_tables, facts, one_line, rows
from pipeline.report.format import printable


def show(survey: Survey, console: Console) -> None:
    """Print a survey."""
    console.print(f"[bold]{plain(survey.path)}[/]", *(f"{name} {plain(value)}" for name, value in facts(survey)))
    for title, (head, cells) in all_tables(survey).items():
        if cells:
            console.print(terminal_table(title, head, cells))
    for table in survey.tables:
        for row in rows(table):
            console.rule(f"a row of {plain(table.name)}", align="left", style="dim")
            for name, value in row.items():
                console.print(f"[dim]{plain(name)}[/] {plain(one_line(value, 300))}", highlight=False)


def terminal_table(title: str, head: list[str], cells: list[list[str]]) -> Table:
    """Build a table of texts of the data; columns of numbers stand on the right."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for number, name in enumerate(head):
        numeric = all(cell[number][:1].isdigit() for cell in cells)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(plain, row))
    return table


def plain(text: str) -> str:
    """A text of the data that rich prints as it is: no markup, no escape sequence."""
    return escape(printable(text))
