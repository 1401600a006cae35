"""The sentences of a report: the headline, what it rests on, and whether training rows leak."""

from pipeline.report.data import ReportData
from pipeline.report.format import count, decimal, layers, p_equals, reason

FEW_QUERIES = 100  # below, a test misses differences that matter; from there on most reports of retrieval begin


def headline(report: ReportData) -> str:
    """Say the result of the run in one sentence."""
    subject, baseline = report.subject, report.baseline
    ours, theirs = report.scores[subject], report.scores[baseline]
    parts = []
    if "hit@1" in ours:
        queries = "queries" if report.split == "train" else "unseen queries"
        of_baseline = "" if subject == baseline else f", {_with_layers(report, baseline)} {theirs['hit@1']:.0%}"
        first = f"finds the right answer first for {ours['hit@1']:.0%} of {queries}"
        parts.append(f"{_with_layers(report, subject)} {first}{of_baseline}")
    metric = next((name for name in [*report.metrics, *report.headline_tasks()] if name in ours), None)
    if metric is not None:
        parts.append(_score(report, metric, with_names=not parts))
    return "; ".join(parts) if parts else f"{subject} was measured, but the split asks nothing that has a figure"


def score_against_baseline(report: ReportData, metric: str) -> str:
    """Say the score of the subject, that of the baseline, both by name, and whether the difference may be chance."""
    return _score(report, metric, with_names=True)


def _score(report: ReportData, metric: str, with_names: bool) -> str:
    """Say the score of the subject, that of the baseline, and whether the difference may be chance."""
    ours, theirs = report.scores[report.subject][metric], report.scores[report.baseline].get(metric)
    text = f"{_with_layers(report, report.subject)} reaches " if with_names else ""
    text += f"{report.label(metric)} {decimal(ours)}"
    if report.subject == report.baseline or theirs is None:
        return text
    text += f" against {decimal(theirs)}" + (f" of {_with_layers(report, report.baseline)}" if with_names else "")
    test = report.comparison(report.subject, metric)
    if test is None:
        return text
    chance = "" if test["p_holm"] < 0.05 else ", a difference that chance may explain"
    return f"{text}, p {p_equals(test['p_holm'])}{chance}"


def _with_layers(report: ReportData, model: str) -> str:
    """Name a model, with its layers where the two of the headline do not have as many."""
    sizes = [layers(report.scores[name]) for name in (report.subject, report.baseline)]
    return f"{model} ({layers(report.scores[model])})" if all(sizes) and sizes[0] != sizes[1] else model


def untrained(report: ReportData) -> list[str]:
    """Say what the untrained models are: the whole one, and what training began with where that was cut from it."""
    sentences = []
    if "base" in report.scores and (size := layers(report.scores["base"])):
        sentences.append(f"base is the model without training, {size}.")
    if "start" in report.scores and (size := layers(report.scores["start"])):
        sentences.append(f"start is what training began with, untrained: {size}.")
    return sentences


def power(report: ReportData) -> list[str]:
    """Say of a small set of queries how large a difference must be for a test to find it; nothing of a large one."""
    metric = report.metrics[0]
    test = report.comparison(report.subject, metric)
    if not 0 < report.queries < FEW_QUERIES or test is None or "detectable" not in test:
        return []
    return [small_set(report.queries, report.label(metric), test["detectable"])]


def small_set(queries: int, label: str, detectable: float) -> str:
    """Say what a small set of queries can show of a metric: differences from the detectable one on."""
    rest = (
        f"a true difference in {label} below about {decimal(detectable)} would mostly go unnoticed (power 80% at p .05)"
        if detectable
        else f"no query differs in {label}, so that nothing can be said of its power"
    )
    return f"Few queries ({count(queries)}): {rest}."


def remarks(report: ReportData) -> list[str]:
    """Sentences below the headline: what it rests on, and whether another model did better still."""
    sentences = ["Every model ranks the whole corpus."] if report.queries else []
    sentences += [*untrained(report), *power(report)]
    sentences += ["p is corrected by Holm's method."] if report.comparisons else []
    metric = report.metrics[0]
    scores = {model: of_model[metric] for model, of_model in report.scores.items() if metric in of_model}
    best = report.best(metric)
    if best is not None and scores[best] != scores.get(report.subject):
        sentences.append(f"Best of all is {best}, with {report.label(metric)} {decimal(scores[best])}.")
    return sentences


def leakage(report: ReportData) -> list[str]:
    """Say whether training rows repeat evaluation queries, and what was done about it."""
    checked = report.leakage
    if not checked:
        return ["Nobody looked whether training rows repeat what is asked here."]
    held_out = f"{count(checked['queries'])} held-out queries"
    if checked["labelled_pairs"]:
        held_out += f" and {count(checked['labelled_pairs'])} held-out labelled pairs"
    of = f", those of {', '.join(checked['extra'])} among them" if checked["extra"] else ""
    near = f"equal or near (Jaccard {decimal(checked['threshold'], 2)} and above)" if checked["near"] else "equal"
    sentences = [
        f"{count(checked['checked'])} training rows were compared with {held_out}{of}: {near} texts are leaks."
    ]
    leaks = ", ".join(f"{count(rows)} {reason(name)}" for name, rows in checked["found"].items())
    if not leaks:
        sentences.append("None leaks.")
    elif checked["action"] == "remove":
        sentences.append(f"Removed before training: {leaks}.")
    else:
        sentences.append(f"Still in the training data, so figures may be too high: {leaks}.")
    if checked["shared_documents"]:
        shared = count(checked["shared_documents"])
        sentences.append(
            f"{shared} training rows have a positive that also answers a held-out query, as a corpus allows."
        )
    return sentences
