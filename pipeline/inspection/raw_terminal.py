"""A raw file on a terminal: its columns, its first rows, which sources can read it, and a recipe to start from."""

from rich.console import Console

from pipeline.inspection.column_profile import ColumnProfile, profile
from pipeline.inspection.suggest import Suggestion, suggest
from pipeline.inspection.tables import one_line
from pipeline.inspection.terminal import plain, terminal_table
from pipeline.report.format import count, reason
from pipeline.sources.reading.sample import FileSample

_UNKNOWN = "No source recognises it; name its columns by `fields` in a source such as csv, jsonl, json, parquet, xlsx."
_FILES = 20


def show_raw(sample: FileSample, console: Console, rows: int) -> None:
    """Print what is known of a raw file, and a recipe for the source that fits best."""
    console.print(f"[bold]{plain(sample.path)}[/]: {sample.format}{_inside(sample)}", highlight=False, soft_wrap=True)
    if sample.files:
        names = [*sample.files[:_FILES], *(["..."] if len(sample.files) > _FILES else [])]
        console.print(terminal_table("Files", ["Name"], [[name] for name in names]))
    if sample.columns:
        cells = [_cells(column) for column in profile(sample)]
        console.print(terminal_table("Columns", ["Name", "Holds", "Empty", "Length", "First value"], cells))
    for number, row in enumerate(sample.rows[:rows], start=1):
        console.rule(f"row {number}", align="left", style="dim")
        for name, value in row.items():
            if value not in (None, "", [], {}):
                console.print(f"[dim]{plain(name)}[/] {plain(one_line(str(value), 300))}", highlight=False)
    _show_suggestions(sample, console)


def _inside(sample: FileSample) -> str:
    parts = [f"{len(sample.columns)} columns"] if sample.columns else []
    parts += [] if sample.header else ["no names of columns in the first row"]
    parts += [f"rows in the field {sample.records}"] if sample.records else []
    return ", " + ", ".join(parts) if parts else ""


def _cells(column: ColumnProfile) -> list[str]:
    alone = len(column.shapes) == 1
    shapes = ", ".join(name if alone else f"{name} {count(rows)}" for name, rows in column.shapes.most_common(3))
    length = f"{column.length:.0f}" if column.length else ""
    example = "" if column.example is None else one_line(str(column.example), 60)
    return [column.name, shapes or "nothing", f"{column.empty:.0%}", length, example]


def _show_suggestions(sample: FileSample, console: Console) -> None:
    suggestions = suggest(sample)
    if not suggestions:
        console.print(_UNKNOWN, soft_wrap=True)
        return
    head = ["Source", "Kind", "Rows", "Used", "Gives", "First row not used"]
    console.print(terminal_table("Sources that can read it", head, [_suggestion_cells(item) for item in suggestions]))
    console.rule("a recipe to start from", align="left", style="dim")
    console.print(plain(suggestions[0].recipe()), highlight=False, soft_wrap=True)


def _suggestion_cells(suggestion: Suggestion) -> list[str]:
    settings = suggestion.settings
    kind = settings.get("kind") or settings.get("holds") or next((f["kind"] for f in settings.get("files", [])), "")
    gives = ", ".join(f"{count(number)} {reason(name)}" for name, number in suggestion.records.items())
    used = count(suggestion.rows - suggestion.unused.total())
    return [settings["type"], str(kind), count(suggestion.rows), used, gives, one_line(suggestion.first_problem, 80)]
