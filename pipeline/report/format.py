"""How figures read: the headline sentence, names of metrics, numbers without a leading zero."""

from pipeline.report.data import ReportData

_NAMES = {
    "ndcg": "nDCG",
    "mrr": "MRR",
    "map": "MAP",
    "recall": "Recall",
    "hit": "Hit",
    "triplet_accuracy": "Triplet accuracy",
    "mean_margin": "Mean margin",
    "spearman": "Spearman",
    "pearson": "Pearson",
    "average_precision": "Average precision",
    "f1": "Best F1",
    "accuracy": "Best accuracy",
    "duplicate_average_precision": "Duplicates, AP",
    "duplicate_f1": "Duplicates, best F1",
    "v_measure": "V-measure",
    "judged": "Judged",
}

_INSTEAD = ("average_precision", "spearman", "triplet_accuracy", "v_measure")  # where there are no queries
_VARIANTS = {"judged": "judged only", "linear": "linear gain"}


def metric_name(key: str) -> str:
    """Spell a metric as the field does: ndcg@10 is nDCG@10."""
    plain, colon, variant = key.partition(":")
    kind, at, cutoff = plain.partition("@")
    return _NAMES.get(kind, kind.replace("_", " ")) + at + cutoff + (f", {_VARIANTS[variant]}" if colon else "")


def decimal(value: float, digits: int = 3) -> str:
    """Write a share as .512; 1.000 and values below 0 keep their own form."""
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        return "0." + "0" * digits
    return text.replace("0.", ".", 1) if abs(float(text)) < 1 else text


def signed(value: float) -> str:
    """Write a difference with its sign: +.111."""
    return ("" if value < 0 else "+") + decimal(value)


def p_value(value: float) -> str:
    """Write a p-value: 0.0002, 0.031, or < 0.0001."""
    if value < 0.0001:
        return "< 0.0001"
    return f"{value:.4f}" if value < 0.01 else f"{value:.3f}"


def count(value: int) -> str:
    """Write a count with thousands apart."""
    return f"{value:,}"


def reason(key: str) -> str:
    """Write the key of a counted reason as words."""
    return key.replace("_", " ")


def shorten(text: str, most: int = 240) -> str:
    """One line of at most `most` characters, cut between words."""
    line = " ".join(text.split())
    if len(line) <= most:
        return line
    return line[: most - 3].rsplit(" ", 1)[0] + " ..."


def headline(report: ReportData) -> str:
    """Say the result of the run in one sentence."""
    subject, baseline = report.subject, report.baseline
    ours, theirs = report.scores[subject], report.scores[baseline]
    alone = subject == baseline
    parts = []
    if "hit@1" in ours:
        unseen = "queries" if report.split == "train" else "unseen queries"
        other = "" if alone else f", {baseline} {theirs['hit@1']:.0%}"
        parts.append(f"{subject} finds the right answer first for {ours['hit@1']:.0%} of {unseen}{other}")
    metric = next((name for name in report.metrics if name in ours), None)
    if metric is None:
        metric = next((name for name in _INSTEAD if name in ours), None)
    if metric is not None:
        parts.append(_figure(report, metric, alone, named=not parts))
    return "; ".join(parts) if parts else f"{subject} was measured, but the split asks nothing that has a figure"


def remarks(report: ReportData) -> list[str]:
    """Sentences below the headline: what it rests on, and whether another model did better still."""
    said = ["Every model ranks the whole corpus."] if report.queries else []
    said += ["p is corrected by Holm's method."] if report.comparisons else []
    metric = report.metrics[0]
    held = {model: figures[metric] for model, figures in report.scores.items() if metric in figures}
    best = max(held, key=lambda model: held[model], default=report.subject)
    if held.get(best, 0) > held.get(report.subject, 0):
        said.append(f"Best of all is {best}, with {metric_name(metric)} {decimal(held[best])}.")
    return said


def leakage(report: ReportData) -> list[str]:
    """Say whether training rows say what an evaluation asks, and what was done about it."""
    checked = report.leakage
    if not checked:
        return ["Nobody looked whether training rows repeat what is asked here."]
    asked = f"{count(checked['queries'])} held-out queries"
    if checked["labelled_pairs"]:
        asked += f" and {count(checked['labelled_pairs'])} held-out labelled pairs"
    of = f", those of {', '.join(checked['extra'])} among them" if checked["extra"] else ""
    near = f"equal or near (Jaccard {decimal(checked['threshold'], 2)} and above)" if checked["near"] else "equal"
    said = [f"{count(checked['checked'])} training rows were compared with {asked}{of}: {near} texts are leaks."]
    found = ", ".join(f"{count(rows)} {reason(name)}" for name, rows in checked["found"].items())
    if not found:
        said.append("None leaks.")
    elif checked["action"] == "remove":
        said.append(f"Removed before training: {found}.")
    else:
        said.append(f"Still in the training data, so figures may be too high: {found}.")
    if checked["shared_documents"]:
        shared = count(checked["shared_documents"])
        said.append(f"{shared} training rows have a positive that also answers a held-out query, as a corpus allows.")
    return said


def _figure(report: ReportData, metric: str, alone: bool, named: bool) -> str:
    ours, theirs = report.scores[report.subject][metric], report.scores[report.baseline].get(metric)
    who = f"{report.subject} reaches " if named else ""
    text = f"{who}{metric_name(metric)} {decimal(ours)}"
    if alone or theirs is None:
        return text
    text += f" against {decimal(theirs)}" + (f" of {report.baseline}" if named else "")
    test = report.comparison(report.subject, metric)
    if test is None:
        return text
    p = p_value(test["p_holm"])
    chance = "" if test["p_holm"] < 0.05 else ", a difference that chance may explain"
    return f"{text}, p {p if p.startswith('<') else '= ' + p}{chance}"
