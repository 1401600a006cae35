"""A map of documents as inline SVG: a dot each, its text told on hover."""

from collections.abc import Sequence
from html import escape

from pipeline.report.data import DocumentMap
from pipeline.report.format import shorten

OTHER = "other"
_WIDTH, _HEIGHT, _EDGE, _RADIUS = 320, 240, 6, 2.6
_SAID = 90  # characters of a document


def colour(name: str, names: Sequence[str]) -> int:
    """Number of a name's colour: 0 for what is left over, else its place."""
    return 0 if name == OTHER else 1 + [one for one in names if one != OTHER].index(name)


def atlas(landscape: DocumentMap, names: Sequence[str], label: str) -> str:
    """Draw the documents; what is left over lies below the named colours."""
    order = sorted(range(len(landscape.names)), key=lambda place: landscape.names[place] != OTHER)
    dots = []
    for place in order:
        x, y = landscape.points[place]
        name = landscape.names[place]
        across, down = _EDGE + float(x) * (_WIDTH - 2 * _EDGE), _EDGE + (1 - float(y)) * (_HEIGHT - 2 * _EDGE)
        said = escape(f"{name}: {shorten(landscape.texts[place], _SAID)}")
        dots.append(
            f'<circle class="colour-{colour(name, names)}" cx="{across:.1f}" cy="{down:.1f}" r="{_RADIUS}">'
            f"<title>{said}</title></circle>"
        )
    return f'<svg class="map" id="{label}" viewBox="0 0 {_WIDTH} {_HEIGHT}">{"".join(dots)}</svg>'
