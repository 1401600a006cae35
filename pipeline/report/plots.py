"""Figures as inline SVG that take their colours from the page, so that they read in light and in dark."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from pipeline.report.format import decimal

# matplotlib only takes colours that it knows; each stands for a variable of style.css and is replaced by it
_INK, _FAINT = "#010203", "#010204"
_SERIES = ["#010211", "#010212", "#010213", "#010214", "#010215", "#010216"]
_VARIABLES = {_INK: "var(--ink-soft)", _FAINT: "var(--rule)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(_SERIES, start=1)
}
_SIZE = (4.5, 2.9)  # inches; narrow, so that a phone shows the text at reading size
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tripletail",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "legend.handlelength": 1.2,
}
_NOT_CURVES = {"step", "epoch", "loss", "lr", "seconds"}


@contextmanager
def _figure(name: str, out: list[Markup], height: float = _SIZE[1]) -> Iterator[Any]:
    """Open one pair of axes; afterwards `out` holds the figure as SVG."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **_STYLE}):
        figure = Figure(figsize=(_SIZE[0], height), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure.add_subplot()
        text = StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    out.append(Markup(_inline(text.getvalue(), name)))  # matplotlib escapes the texts of an SVG


def _inline(svg: str, name: str) -> str:
    """Make a stand-alone SVG part of a page: no prolog or namespaces, its own ids, the page's colours and font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(
        r'(<svg[^>]*?)\swidth="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?)\sheight="[^"]*"', r"\1", svg, count=1), count=1
    )
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg).replace("url(#", f"url(#{name}-")
    svg = re.sub(r"font(-family)?: ?[^;\"]*(sans|DejaVu)[^;\"]*", _font, svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg.replace("<svg", '<svg aria-hidden="true"', 1).strip()


def _font(match: re.Match[str]) -> str:
    """Keep the size of a `font:` declaration and leave its family to the page."""
    size = re.search(r"[\d.]+px", match.group(0))
    return f"font-size: {size.group(0)}" if size else "font-style: normal"


def histograms(groups: Mapping[str, npt.NDArray[np.float32]], span: tuple[float, float], name: str) -> Markup:
    """Overlaid distributions of cosines, one a group, over a common span."""
    out: list[Markup] = []
    with _figure(name, out) as axes:
        edges = np.linspace(*span, 41)
        for colour, (label, values) in zip(_SERIES, groups.items(), strict=False):
            share = np.histogram(values, edges)[0] / max(1, len(values))
            axes.stairs(share, edges, fill=True, color=colour, alpha=0.28)
            axes.stairs(share, edges, color=colour, linewidth=1.4, label=_plain(label))
        axes.set_xlabel("cosine")
        axes.set_ylabel("share of pairs")
        axes.set_xlim(*span)
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.18), ncols=3)
    return out[0]


def distribution(counts: npt.NDArray[np.int64], label: str, name: str) -> Markup:
    """Histogram of how often each whole number from 0 occurs, up to the 99th percentile."""
    reach = int(np.searchsorted(np.cumsum(counts), 0.99 * counts.sum())) + 1
    edges = np.unique(np.linspace(0, reach, 41).astype(int))
    share = np.add.reduceat(counts[:reach], edges[:-1]) / max(1, counts.sum())
    out: list[Markup] = []
    with _figure(name, out) as axes:
        axes.stairs(share, edges, fill=True, color=_SERIES[0], alpha=0.28)
        axes.stairs(share, edges, color=_SERIES[0], linewidth=1.4)
        axes.set_xlabel(_plain(label))
        axes.set_ylabel("share of rows")
        axes.set_ylim(bottom=0)
    return out[0]


def standings_plot(points: Mapping[str, tuple[float, float, float]], label: str, subject: str, name: str) -> Markup:
    """Score (value, low, high) of each model as a dot on its interval, the first model on top."""
    out: list[Markup] = []
    with _figure(name, out, height=0.8 + 0.42 * len(points)) as axes:
        for line, (model, (value, low, high)) in enumerate(points.items()):
            colour = _SERIES[0] if model == subject else _SERIES[2]
            axes.plot([low, high], [-line, -line], color=colour, linewidth=2.2, solid_capstyle="round")
            axes.plot([value], [-line], color=colour, marker="o", markersize=7)
            axes.annotate(
                decimal(value),
                (value, -line),
                (0, 6),
                textcoords="offset points",
                ha="center",
                fontsize=9,
                color=_INK,
            )
        axes.set_yticks([-line for line in range(len(points))], [_plain(model) for model in points])
        axes.set_ylim(-len(points) + 0.5, 0.75)
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(_plain(label))
    return out[0]


def size_plot(lines: Mapping[str, Sequence[tuple[int, int, float]]], label: str, name: str) -> Markup:
    """Score over the bytes of a vector, a line for each type of points (bytes, dimensions, score)."""
    out: list[Markup] = []
    with _figure(name, out) as axes:
        for colour, (dtype, points) in zip(_SERIES, lines.items(), strict=False):
            by_size = sorted(points)
            axes.plot(
                [point[0] for point in by_size],
                [point[2] for point in by_size],
                color=colour,
                linewidth=1.6,
                marker="o",
                markersize=4,
                label=_plain(dtype),
            )
            for size, dim, value in by_size:
                axes.annotate(
                    str(dim), (size, value), (0, 5), textcoords="offset points", ha="center", fontsize=8, color=_INK
                )
        ticks = sorted({point[0] for points in lines.values() for point in points})
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks[:: max(1, -(-len(ticks) // 7))], [str(t) for t in ticks[:: max(1, -(-len(ticks) // 7))]])
        axes.minorticks_off()
        axes.margins(y=0.14)
        axes.set_xlabel("bytes a vector")
        axes.set_ylabel(_plain(label))
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.18), ncols=3)
    return out[0]


def span_of(similarities: Mapping[str, Mapping[str, npt.NDArray[np.float32]]]) -> tuple[float, float]:
    """Common span of all groups of all models, on tenths."""
    values = np.concatenate([group for groups in similarities.values() for group in groups.values()])
    return float(np.floor(values.min() * 10) / 10), float(np.ceil(values.max() * 10) / 10 + 1e-9)


def loss_curve(rows: Sequence[Mapping[str, Any]], name: str) -> Markup | None:
    """Training loss over steps, with a running mean where there are many; None without two points."""
    points = [(row["step"], row["loss"]) for row in rows if _number(row.get("loss")) and _number(row.get("step"))]
    if len(points) < 2:
        return None
    steps, losses = (np.array(column, np.float64) for column in zip(*points, strict=True))
    window = max(1, len(losses) // 20)
    out: list[Markup] = []
    with _figure(name, out) as axes:
        axes.plot(steps, losses, color=_SERIES[0], linewidth=1.0, alpha=0.4 if window > 1 else 1.0)
        if window > 1:
            smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
            axes.plot(steps[window - 1 :], smooth, color=_SERIES[0], linewidth=1.8)
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
    return out[0]


def metric_curves(rows: Sequence[Mapping[str, Any]], label: Callable[[str], str], name: str) -> Markup | None:
    """Validation metrics over steps; None where training validated fewer than two times.

    `label` writes a metric as the page does; keys of the rows may have a prefix, as in dev/ndcg@10.
    """
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if "loss" in row or not _number(row.get("step")):
            continue
        for key, value in row.items():
            if key not in _NOT_CURVES and _number(value) and 0 <= value <= 1:
                series.setdefault(key, []).append((row["step"], value))
    curves = {label(key.rsplit("/", 1)[-1]): points for key, points in series.items() if len(points) > 1}
    if not curves:
        return None
    out: list[Markup] = []
    with _figure(name, out) as axes:
        for colour, (text, points) in zip(_SERIES, curves.items(), strict=False):
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=colour, linewidth=1.6, marker="o", markersize=3, label=_plain(text))
        axes.set_xlabel("step")
        axes.set_ylabel("validation")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=3)
    return out[0]


def _plain(text: str) -> str:
    """Text that matplotlib takes as it is: no formula between dollars, and not hidden by a leading underscore."""
    return "\u200b" * text.startswith("_") + text.replace("$", r"\$")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))
