"""The sentences of a report: the headline, what it rests on, and whether training rows leak."""

from pipeline.report.data import ReportData
from pipeline.report.format import count, decimal, p_equals, reason


def headline(report: ReportData) -> str:
    """Say the result of the run in one sentence."""
    subject, baseline = report.subject, report.baseline
    ours, theirs = report.scores[subject], report.scores[baseline]
    parts = []
    if "hit@1" in ours:
        queries = "queries" if report.split == "train" else "unseen queries"
        of_baseline = "" if subject == baseline else f", {baseline} {theirs['hit@1']:.0%}"
        parts.append(f"{subject} finds the right answer first for {ours['hit@1']:.0%} of {queries}{of_baseline}")
    metric = next((name for name in [*report.metrics, *report.headline_tasks()] if name in ours), None)
    if metric is not None:
        parts.append(_score(report, metric, with_names=not parts))
    return "; ".join(parts) if parts else f"{subject} was measured, but the split asks nothing that has a figure"


def _score(report: ReportData, metric: str, with_names: bool) -> str:
    """Say the score of the subject, that of the baseline, and whether the difference may be chance."""
    ours, theirs = report.scores[report.subject][metric], report.scores[report.baseline].get(metric)
    text = f"{report.subject} reaches " if with_names else ""
    text += f"{report.label(metric)} {decimal(ours)}"
    if report.subject == report.baseline or theirs is None:
        return text
    text += f" against {decimal(theirs)}" + (f" of {report.baseline}" if with_names else "")
    test = report.comparison(report.subject, metric)
    if test is None:
        return text
    chance = "" if test["p_holm"] < 0.05 else ", a difference that chance may explain"
    return f"{text}, p {p_equals(test['p_holm'])}{chance}"


def remarks(report: ReportData) -> list[str]:
    """Sentences below the headline: what it rests on, and whether another model did better still."""
    sentences = ["Every model ranks the whole corpus."] if report.queries else []
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
