"""Tables of a survey, a head and rows of cells each, for the terminal and the page."""

from typing import Any

from pipeline.inspection.survey import Survey, TableSurvey
from pipeline.report.format import count, printable

Cells = tuple[list[str], list[list[str]]]
_VALUES = 12  # most frequent values of a column in the table
_FILES = 50  # input files in the table


def all_tables(survey: Survey) -> dict[str, Cells]:
    """Return every table by its title; one without rows has nothing to say."""
    return {
        "Tables": tables(survey),
        "Input": input_rows(survey),
        "Left out": dropped(survey),
        "Repetitions": repeats(survey),
        "In more than one split": overlaps(survey),
        "Lengths": lengths(survey),
        "Values": values(survey),
        "Vectors": vectors(survey),
    }


def facts(survey: Survey) -> list[tuple[str, str]]:
    """Return which job made the artifact, when, and of what."""
    manifest = survey.manifest
    origin = [("made by", manifest.kind), ("version", manifest.version), ("on", manifest.created)]
    return [*origin, ("inputs", str(len(manifest.inputs))), ("fingerprint", manifest.fingerprint)]


def tables(survey: Survey) -> Cells:
    """Rows of each table, in all and by split."""
    splits: dict[str, dict[str, int]] = survey.manifest.notes.get("splits", {})
    names = sorted({split for rows_of in splits.values() for split in rows_of})
    cells = [
        [t.name, count(t.rows), count(t.files), *(count(splits.get(t.name, {}).get(s, 0)) for s in names)]
        for t in survey.tables
    ]
    return ["Table", "Rows", "Files", *names], cells


def input_rows(survey: Survey) -> Cells:
    """Rows of each input file of a build (the first `_FILES`): read, used, and not used by the first reason of each."""
    cells = []
    for file in survey.manifest.notes.get("input_rows", [])[:_FILES]:
        reasons = ", ".join(f"{count(number)} {reason}" for reason, number in file["unused"].items())
        cells.append([file["source"], file["file"], count(file["read"]), count(file["used"]), reasons])
    return ["Source", "File", "Rows read", "Used", "Not used"], cells


def dropped(survey: Survey) -> Cells:
    """What was left out by reason, with the first of each; of a build, input rows apart from records made of them."""
    dropped, records = survey.manifest.dropped, survey.manifest.notes.get("records_dropped")
    cells = []
    for reason, number in sorted(dropped.items(), key=lambda item: -item[1]):
        parts = [number] if records is None else [number - records.get(reason, 0), records.get(reason, 0)]
        cells.append([reason, *map(count, parts), (survey.examples.get(reason) or [""])[0]])
    return ["Reason", "Rows", *(["Records"] if records is not None else []), "First"], cells


def lengths(survey: Survey) -> Cells:
    """Quantiles of the lengths of texts and lists."""
    cells = [
        [f"{table.name}.{name}", histogram.unit, *(count(histogram.quantile(share)) for share in (0.0, 0.5, 0.95, 1.0))]
        for table in survey.tables
        for name, histogram in table.lengths.items()
    ]
    return ["Column", "Unit", "Least", "Median", "95%", "Most"], cells


def repeats(survey: Survey) -> Cells:
    """Share of texts that repeat another one, but for case."""
    cells = [
        [
            f"{table.name}.{name}",
            f"{100 * repetition.share():.2f} %",
            "all" if repetition.step == 1 else f"1 in {repetition.step}",
        ]
        for table in survey.tables
        for name, repetition in table.repetition.items()
        if repetition.share() > 0
    ]
    return ["Column", "Repeated", "Looked at"], cells


def overlaps(survey: Survey) -> Cells:
    """Distinct texts that two splits have in common, column by column."""
    cells = [
        [f"{table.name}.{name}", f"{first}, {second}", count(number)]
        for table in survey.tables
        for name, repetition in table.repetition.items()
        for (first, second), number in repetition.overlap().items()
        if number
    ]
    return ["Column", "Splits", "Texts in both"], cells


def values(survey: Survey) -> Cells:
    """Return the most frequent values of columns with few of them."""
    cells = []
    for table in survey.tables:
        for name, counter in table.values.items():
            top = counter.most_common(_VALUES)
            more = f", and {count(len(counter) - len(top))} more" if len(counter) > len(top) else ""
            cells.append([f"{table.name}.{name}", ", ".join(f"{value} {count(n)}" for value, n in top) + more])
    return ["Column", "Values"], cells


def vectors(survey: Survey) -> Cells:
    """Norms of vectors, and those that are zero or not finite."""
    cells = []
    for table in survey.tables:
        for name, norms in table.vectors.items():
            mean = norms.total / max(1, norms.rows - norms.unusable)
            numbers = [f"{value:.4f}" for value in (norms.minimum, mean, norms.maximum)]
            cells.append([f"{table.name}.{name}", table.columns[name], *numbers, count(norms.unusable)])
    return ["Column", "Type", "Least norm", "Mean norm", "Greatest norm", "Unusable"], cells


def rows(table: TableSurvey) -> list[dict[str, Any]]:
    """Return the random rows without empty values."""
    return [{name: value for name, value in row.items() if value not in (None, "", [])} for row in table.sample]


def one_line(value: Any, limit: int) -> str:
    """Write a value on one line, cut to `limit` characters."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = "; ".join(f"{item.get('doc_id', '')}: {item.get('text') or item.get('score')}" for item in value)
    text = printable(" ".join(str(value).split()))
    return text if len(text) <= limit else text[: limit - 3] + "..."
