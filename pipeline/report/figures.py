"""The parts of the page that are pictures: smaller vectors, similarities, training, and the corpus as a map."""

from html import escape

from pipeline.report.data import ReportData
from pipeline.report.document_map import OTHER, atlas, colour
from pipeline.report.format import count, decimal, metric_name
from pipeline.report.html_parts import figure, note, pair, section
from pipeline.report.plots import histograms, loss_curve, metric_curves, sizes, span_of
from pipeline.report.results import leading


def training(report: ReportData) -> str:
    """Draw the loss and the validations of the training."""
    figures = []
    if loss := loss_curve(report.curves, "loss"):
        figures.append(figure(loss, "Training loss over steps", "Loss of each step, and its running mean."))
    if metrics := metric_curves(report.curves, "validation"):
        figures.append(figure(metrics, "Validation metrics over steps", "Metrics of the validations during training."))
    return section("Training", pair(*figures)) if figures else ""


def similarities(report: ReportData) -> str:
    """Draw the cosines of relevant, hard and random pairs under the baseline and the subject."""
    shown = {model: {k: v for k, v in g.items() if len(v)} for model, g in report.similarities.items()}
    shown = {model: groups for model, groups in shown.items() if groups}
    if not shown:
        return ""
    span, figures = span_of(shown), []
    for number, (model, groups) in enumerate(shown.items()):
        means = ", ".join(f"{label} {decimal(float(values.mean()))}" for label, values in groups.items())
        caption = f"{model}. Mean cosine: {means}."
        figures.append(figure(histograms(groups, span, f"cosine{number}"), f"Cosines under {model}", caption))
    return section("Similarities", pair(*figures), note(report.triplet_source) if report.triplet_source else "")


def smaller(report: ReportData) -> str:
    """Draw quality against the bytes of a vector, a line for each type."""
    metric, figures = leading(report) or "", []
    for number, model in enumerate(dict.fromkeys(variant["model"] for variant in report.variants)):
        own = report.scores[model]
        whole = {**own, "dtype": "float32", "bytes": 4 * own["dim"]}
        held = [one for one in [whole, *report.variants] if metric in one and one.get("model", model) == model]
        if len(held) < 2:
            continue
        lines: dict[str, list[tuple[int, int, float]]] = {}
        for one in held:
            lines.setdefault(one["dtype"], []).append((one["bytes"], one["dim"], one[metric]))
        name = metric_name(metric)
        caption = f"{model}: {name} against the bytes of a vector. At each point stand its dimensions."
        figures.append(figure(sizes(lines, name, f"sizes{number}"), caption, caption))
    said = (
        "Documents are as a store gives them back, queries keep their numbers. int8: 256 levels between the lowest and "
        "highest number of each dimension in the sample. binary: the nearest by Hamming distance, four times as many "
        "as wanted, ranked anew by the query's own numbers."
    )
    return section("Smaller vectors", pair(*figures, f"<div>{note(said)}</div>")) if figures else ""


def landscape(report: ReportData) -> str:
    """Draw the corpus as a map under the baseline and the subject, coloured by category."""
    if not report.document_maps:
        return ""
    figures, drawn = [], 0
    names = sorted({name for one in report.document_maps.values() for name in one.names}, key=lambda n: (n == OTHER, n))
    for number, (model, one) in enumerate(report.document_maps.items()):
        drawn = len(one.names)
        picture = atlas(one, names, f"map{number}")
        figures.append(figure(picture, f"Map of the corpus under {model}", model))
    keys = "".join(f'<span><i class="dot colour-{colour(name, names)}"></i>{escape(name)}</span>' for name in names)
    said = (
        f"{count(drawn)} documents drawn at random: {report.document_map_method}. What lies together is alike to the "
        "model; how far groups lie apart says little. Point at a dot to read it."
    )
    return section("Map of the corpus", f'<p class="key">{keys}</p>', pair(*figures), note(said))
