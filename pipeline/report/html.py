"""HTML pages by Jinja templates: every value is escaped, and nothing in a page is loaded from anywhere."""

from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.report.format import count, shorten


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text and lines of small print below it; a missing value is a dash."""

    text: str = ""
    small: tuple[str, ...] = ()
    bold: bool = False
    missing: bool = False


@dataclass(frozen=True)
class Table:
    """A table of text columns first and then columns of numbers; `groups` are further rows under headings."""

    head: list[str]
    rows: list[list[Cell]]
    text_columns: int = 1
    groups: dict[str, list[list[Cell]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """A picture: its SVG, what it shows in one phrase for who cannot see it, and its caption."""

    svg: Markup
    label: str
    caption: str


def plain_table(head: list[str], rows: list[list[str]], text_columns: int = 1) -> Table:
    """Build a table of cells that are nothing but text."""
    return Table(head, [[Cell(text) for text in row] for row in rows], text_columns)


def render_template(package: str, name: str, **context: Any) -> str:
    """Fill in a template of a package, which may extend those of this one; an unknown name in it is an error."""
    return environment(package).get_template(name).render(context)


@cache
def environment(package: str) -> Environment:
    """Return the templates of a package and of this one, with escaping on."""
    loader = ChoiceLoader([PackageLoader(package), PackageLoader("pipeline.report")])
    templates = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = files("pipeline.report").joinpath("style.css").read_text(encoding="utf-8")
    templates.globals["style"] = Markup(style)
    templates.filters |= {"count": count, "shorten": shorten}
    return templates
