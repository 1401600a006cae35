"""The map of the corpus under a model: a dot a document, coloured by category, its text told on hover."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.report.data import DocumentMap, ReportData
from pipeline.report.format import count, shorten

OTHER = "other"
_WIDTH, _HEIGHT, _MARGIN = 320, 240, 6
_TITLE_LENGTH = 90  # characters of a document


@dataclass(frozen=True)
class Dot:
    """A document on the map: its position as SVG writes it, the number of its colour, and its title."""

    x: str
    y: str
    colour: int
    title: str


@dataclass(frozen=True)
class MapView:
    """The map of one model; `id` is its own on the page."""

    model: str
    id: str
    dots: list[Dot]
    width: int = _WIDTH
    height: int = _HEIGHT


@dataclass(frozen=True)
class MapsView:
    """The maps of the corpus, the numbers of their colours by category, and the note below."""

    maps: list[MapView]
    colours: dict[str, int]
    note: str


def document_maps(report: ReportData) -> MapsView | None:
    """The corpus as a map under the baseline and the subject; None where nothing was drawn."""
    if not report.document_maps:
        return None
    groups = {group for document_map in report.document_maps.values() for group in document_map.names}
    names = sorted(groups, key=lambda name: (name == OTHER, name))
    maps = [
        MapView(model, f"map{number}", _dots(document_map, names))
        for number, (model, document_map) in enumerate(report.document_maps.items())
    ]
    note = (
        f"{count(len(maps[-1].dots))} documents drawn at random: {report.document_map_method}. What lies together is "
        "alike to the model; how far groups lie apart says little. Point at a dot to read it."
    )
    return MapsView(maps, {name: colour_number(name, names) for name in names}, note)


def colour_number(name: str, names: Sequence[str]) -> int:
    """Number of a category's colour in the style sheet: 0 for what is left over, else its index from 1."""
    return 0 if name == OTHER else 1 + [group for group in names if group != OTHER].index(name)


def _dots(document_map: DocumentMap, names: Sequence[str]) -> list[Dot]:
    """Dots in drawing order: what is left over lies below the coloured ones."""
    order = sorted(range(len(document_map.names)), key=lambda index: document_map.names[index] != OTHER)
    return [_dot(document_map, index, names) for index in order]


def _dot(document_map: DocumentMap, index: int, names: Sequence[str]) -> Dot:
    x, y = document_map.points[index]
    name = document_map.names[index]
    across, down = _MARGIN + float(x) * (_WIDTH - 2 * _MARGIN), _MARGIN + (1 - float(y)) * (_HEIGHT - 2 * _MARGIN)
    title = f"{name}: {shorten(document_map.texts[index], _TITLE_LENGTH)}"
    return Dot(f"{across:.1f}", f"{down:.1f}", colour_number(name, names), title)
