"""What pages are made of: the document, sections, tables and figures; nothing in them is loaded from anywhere."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def document(title: str, sections: Iterable[str]) -> str:
    """Build a whole page of sections that are HTML already; the style is inside, and the browser may load nothing."""
    style = files("pipeline.report").joinpath("style.css").read_text(encoding="utf-8")
    body = "\n".join(section for section in sections if section)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> str:
    """Build a section of parts that are HTML already."""
    return f"<section>\n<h2>{escape(title)}</h2>\n" + "\n".join(part for part in parts if part) + "\n</section>"


def note(text: str) -> str:
    """Build a soft paragraph below a table or figure."""
    return f'<p class="note">{escape(text)}</p>'


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    words: int = 1,
    groups: Mapping[str, Sequence[Sequence[str]]] | None = None,
) -> str:
    """Build a table in its own scrolling box from cells that are HTML already; the first `words` columns are text.

    `groups` are further rows below headings of their own, in small print.
    """
    kinds = ["" if place < words else ' class="num"' for place in range(len(head))]
    top = "".join(f'<th scope="col"{kind}>{cell}</th>' for kind, cell in zip(kinds, head, strict=True))
    bodies = [f"<tbody>\n{_rows(rows, kinds)}\n</tbody>"]
    for title, below in (groups or {}).items():
        lead = f'<tr><th scope="rowgroup" colspan="{len(head)}"><span>{escape(title)}</span></th></tr>'
        bodies.append(f'<tbody class="below">\n{lead}\n{_rows(below, kinds)}\n</tbody>')
    inside = "\n".join(bodies)
    return f'<div class="box" tabindex="0"><table><thead><tr>{top}</tr></thead>\n{inside}</table></div>'


def _rows(rows: Iterable[Sequence[str]], kinds: Sequence[str]) -> str:
    cells = ("".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True)) for row in rows)
    return "\n".join(f"<tr>{row}</tr>" for row in cells)


def figure(svg: str, label: str, caption: str) -> str:
    """Build a figure of an SVG with its caption."""
    picture = f'<div role="img" aria-label="{escape(label)}">{svg}</div>'
    return f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"


def pair(*parts: str) -> str:
    """Build two columns, one below the other where the page is narrow."""
    return f'<div class="pair">{"".join(parts)}</div>'


def folded(title: str, part: str) -> str:
    """Build a part that opens on a click."""
    return f"<details><summary>{escape(title)}</summary>\n{part}</details>"
