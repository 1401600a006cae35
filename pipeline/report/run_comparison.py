"""The page that compares runs: the models of all of them, what differs in their settings, and what each cost."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.report import results
from pipeline.report.data import ReportData
from pipeline.report.format import count, decimal, shorten
from pipeline.report.html import Table, plain_table, render_template
from pipeline.report.sentences import power, score_against_baseline

SETTING_CHARACTERS = 80


@dataclass(frozen=True)
class RunCosts:
    """What the training of a run took: rows, steps and their seconds; None where it has no training."""

    rows: int | None = None
    steps: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Change:
    """A query and its deciding metric under the baseline and under the best other model."""

    query: str
    before: float
    after: float


@dataclass(frozen=True)
class RunComparison:
    """Runs beside each other; `report` holds the models of all runs, its baseline and, as subject, the best other."""

    report: ReportData
    title: str = ""
    scope: str = ""
    notes: list[str] = field(default_factory=list)
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # that differ, by path and run
    costs: Mapping[str, RunCosts] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)

    def headline(self) -> str:
        """Say which model is best and whether its difference from the baseline may be chance."""
        return score_against_baseline(self.report, self.report.metrics[0])

    def remarks(self) -> list[str]:
        """Sentences below the headline: how small the set is, and where the runs were not measured on the same."""
        return [*power(self.report), *self.notes]

    def settings_table(self) -> Table | None:
        """The settings that differ, a row each; None where none does."""
        rows = [
            [path, *(shorten(of_runs[run], SETTING_CHARACTERS) or "-" for run in self.costs)]
            for path, of_runs in self.settings.items()
        ]
        return plain_table(["Setting", *self.costs], rows, 1 + len(self.costs)) if rows else None

    def costs_table(self) -> Table | None:
        """Rows, steps and seconds of each training; None without any."""
        if not self.costs:
            return None
        rows = [
            [run, "-", "-", "-"]
            if costs.rows is None
            else [run, count(costs.rows), count(costs.steps), f"{costs.seconds:,.0f}"]
            for run, costs in self.costs.items()
        ]
        return plain_table(["Run", "Training rows", "Steps", "Seconds of steps"], rows)

    def changes_table(self) -> Table | None:
        """Queries that the best model answers better or worse than the baseline, those that differ most first."""
        rows = [[shorten(item.query), decimal(item.before), decimal(item.after)] for item in self.changes]
        return plain_table(["Query", self.report.baseline, self.report.subject], rows) if rows else None


def render(comparison: RunComparison) -> str:
    """Draw the page as HTML."""
    report = comparison.report
    return render_template(
        "pipeline.report",
        "run_comparison.html",
        comparison=comparison,
        report=report,
        standings=results.standings(report),
        models=results.score_tables(report),
        tests=results.comparisons(report),
    )
