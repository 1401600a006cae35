"""The command `tripletail`: a sub-command for each job and tool, started without importing what the others need.

`python -m scripts.<command>` in a checkout is the same as `tripletail <command>`. The short help of a job is a file in
`help/`, since importing torch takes seconds; `python -m scripts.tripletail.cli` writes those files anew.
"""

import difflib
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from .jobs import JOBS

HELP = Path(__file__).parent / "help"
TOOLS = {
    "run": "Run the jobs of a recipe in order: build, mine, train_reranker, train, embed, evaluate.",
    "init": "Look at files of yours and write a recipe for them.",
    "fetch": "Fetch a published corpus and prepare it for its recipe.",
    "search": "Show the nearest documents of a text.",
    "inspect": "Show what an artifact holds: counts, lengths, random rows.",
    "compare": "Compare finished runs: their models, settings that differ, and what each cost.",
    "cross-validate": "Train and test a recipe on several folds, every question held out once.",
    "explain": "Show where a row of a training step came from.",
    "export-negatives": "Write mined rows for Sentence Transformers or FlagEmbedding.",
    "rollback": "Put the version of a release before the one in use into use again.",
    "synthesize": "Write rows with planted duplicates, leaks and negatives.",
}
SUMMARIES = {name: job.summary for name, job in JOBS.items()} | TOOLS


def main(argv: Sequence[str] | None = None) -> None:
    """Run the sub-command that the first word names; exits with 2 and one line where there is none."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = _command(words[0]) if words else "--help"
    if name in ("-h", "--help"):
        sys.stdout.write(overview())
    elif name == "--version":
        from pipeline import __version__

        sys.stdout.write(f"tripletail {__version__}\n")
    elif name in SUMMARIES:
        run_command(name, words[1:])
    else:
        close = difflib.get_close_matches(name, SUMMARIES, n=1)
        hint = f"did you mean '{close[0]}'?" if close else "`tripletail --help` lists them"
        sys.stderr.write(f"tripletail: error: there is no command '{words[0]}'; {hint}\n")
        raise SystemExit(2)


def _command(word: str) -> str:
    """The command that a word means: hyphens and underscores are alike."""
    return next((name for name in SUMMARIES if name.replace("_", "-") == word.replace("_", "-")), word)


def overview() -> str:
    """The help of the command itself: a line for each sub-command, `run` and its jobs first."""
    order = sorted(SUMMARIES, key=lambda name: name != "run")
    lines = [f"  {name:<18}{SUMMARIES[name]}" for name in order]
    return "\n".join(
        [
            "usage: tripletail COMMAND [FLAGS]",
            "",
            *lines,
            "",
            "`tripletail COMMAND --help` shows the settings of a command. A first run, of a sample shop:",
            "`tripletail run --config quickstart`; of files of yours: `tripletail init FILE...`.",
            "",
        ]
    )


def run_command(name: str, argv: Sequence[str] | None = None) -> None:
    """Run a sub-command, or print its help."""
    words = list(sys.argv[1:] if argv is None else argv)
    if name in TOOLS:
        import_module(f"{__package__}.commands.{name.replace('-', '_')}").main(words)
    elif {"-h", "--help"} & set(words):
        sys.stdout.write((HELP / f"{name}.txt").read_text(encoding="utf-8"))
    else:
        from pipeline.core import config

        from .preflight.run_path import check_run_path, check_shared
        from .recipe import with_recipe_path

        job = JOBS[name]
        config_class, run = job.load()

        def start(settings: Any) -> None:
            check_run_path(settings)
            check_shared(settings.run)
            run(settings)

        config.main(
            config_class, name, start, with_recipe_path(words), section=job.section or name, check=_preflight(name)
        )


def _preflight(name: str) -> Callable[[Any], str] | None:
    """The preflight of a job on its own, which reads what other jobs have left; None of jobs that no recipe has."""
    from .preflight.ahead import Ahead
    from .preflight.check import CHECKS, check_step

    return (lambda config: check_step(name, config, Ahead())) if name in CHECKS else None


def render_help(name: str) -> str:
    """The short help of a job, from the class of its settings."""
    from pipeline.core.help import short_help

    return short_help(JOBS[name].load()[0], name, JOBS[name].section)


if __name__ == "__main__":
    for job_name in JOBS:
        (HELP / f"{job_name}.txt").write_text(render_help(job_name), encoding="utf-8")
