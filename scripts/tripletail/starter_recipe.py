"""A recipe for files that nobody has described yet: what each holds is tried, and every setting says why it is so."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from pipeline.core.errors import UserError
from pipeline.inspection.raw_file import read_sample
from pipeline.inspection.suggest import Suggestion, try_all
from pipeline.report.format import count, reason
from pipeline.sources.reading.sample import FileSample
from pipeline.storage.files import filesystem

TEST_QUERIES = 150  # with fewer, a test misses differences that matter
_TRIED_BYTES = 1 << 20  # of each file, which `suggest` reads
_LETTERS_PER_TOKEN = 4  # of English text, about


@dataclass(frozen=True)
class FoundSource:
    """A file, the settings by which it can be read, and what its first rows gave."""

    path: str
    sample: FileSample
    suggestion: Suggestion

    @property
    def records(self) -> Counter[str]:
        """Records by kind of the whole file, estimated from its first rows."""
        fs, name = filesystem(self.path)
        size = int(fs.du(name))
        factor = max(1.0, size / _TRIED_BYTES)
        return Counter({kind: int(number * factor) for kind, number in self.suggestion.records.items()})

    def settings(self, folder: Path, name: str) -> dict[str, Any]:
        """The source as a recipe has it, its path relative to the recipe where it lies below."""
        settings = {"type": self.suggestion.settings["type"], "name": name, **self.suggestion.settings}
        return {key: _relative(value, self.path, folder) for key, value in settings.items()}


def _relative(value: Any, path: str, folder: Path) -> Any:
    if isinstance(value, list):
        return [_relative(item, path, folder) for item in value]
    if isinstance(value, dict):
        return {key: _relative(item, path, folder) for key, item in value.items()}
    if not isinstance(value, str) or not value.startswith(path) or "://" in path:
        return value
    full, home = Path(os.path.abspath(value)), Path(os.path.abspath(folder))  # noqa: PTH100  symlinks stay
    return str(full.relative_to(home)) if full.is_relative_to(home) else str(full)


@dataclass(frozen=True)
class StarterRecipe:
    """The sources that were found, and the recipe that is made of them."""

    sources: list[FoundSource]
    folder: Path
    run: str
    model: str

    @classmethod
    def of_files(cls, paths: Sequence[str], folder: Path, run: str, model: str) -> "StarterRecipe":
        """Look at files; raises UserError for one that no source can read, naming its columns."""
        return cls([_find(path) for path in paths], folder, run, model)

    @property
    def records(self) -> Counter[str]:
        """Records of all sources by kind."""
        return sum((source.records for source in self.sources), Counter[str]())

    def findings(self) -> list[str]:
        """A line for each file: what it is, what it gives, and why the first row that is not used is not."""
        return [line for source in self.sources for line in _finding(source)]

    def text(self) -> str:
        """The recipe, as YAML with comments.

        Raises UserError where the files hold nothing to train on.
        """
        records = self.records
        if not records["judgments"] and not records["labelled"] and not records["documents"]:
            raise UserError("the files hold no documents, judgments or labelled pairs; what shall be trained on?")
        parts = [self._head(), self._build()]
        if records["labelled"] and not records["judgments"]:
            parts += [self._train_on_scores()]
        else:
            parts += [_MINE_SECTION.format(model=_scalar(self.model), length=self.max_length), self._train(), _EMBED]
        return "\n".join([*parts, self._evaluate()])

    def _head(self) -> str:
        header = "# Made by `tripletail init`; every setting may be changed, `tripletail JOB --help-all` lists them."
        return f"{header}\nrun: {_scalar(self.run)}\n"

    def _build(self) -> str:
        names = _names([source.path for source in self.sources])
        sources = [source.settings(self.folder, name) for source, name in zip(self.sources, names, strict=True)]
        dumped = yaml.safe_dump({"sources": sources}, sort_keys=False, allow_unicode=True, width=110)
        lines = ["build:", "  root: ${recipe_dir}  # where relative paths begin: the folder of this file"]
        lines += [f"  {line}" for line in dumped.splitlines()]
        share = self.test_share
        lines += [
            "  # Questions are parted by a hash of their group, so that no wording of a test question is trained on;",
            f"  # of about {count(self.questions)} questions, test gets about {count(round(share * self.questions))}"
            f"{'' if share * self.questions >= 100 else ' (few: small differences will go unnoticed)'}.",
            f"  split: {{train: {0.9 - share:.2g}, dev: 0.1, test: {share:.2g}}}",
        ]
        return "\n".join(lines) + "\n"

    @property
    def questions(self) -> int:
        """Questions, or labelled pairs, that are parted into splits."""
        records = self.records
        return max(records["queries"], records["labelled"], records["documents"] if not records["judgments"] else 0)

    @property
    def test_share(self) -> float:
        """Share of the questions that are tested: a tenth, up to three where they are few."""
        return min(0.3, max(0.1, round(TEST_QUERIES / max(1, self.questions), 1)))

    @property
    def max_length(self) -> int:
        """Tokens that a text is cut to: enough for most of the long texts that were seen."""
        lengths = [length for source in self.sources for length in _lengths(source.sample)]
        tokens = (median(lengths) if lengths else 400) / _LETTERS_PER_TOKEN
        return next((size for size in (64, 128, 256) if tokens <= 0.8 * size), 256)

    def _train(self) -> str:
        batch = next((size for size in (16, 32) if self.questions < 8 * size), 64)
        return _TRAIN.format(model=_scalar(self.model), length=self.max_length, batch=batch)

    def _train_on_scores(self) -> str:
        return _TRAIN_ON_SCORES.format(model=_scalar(self.model), length=self.max_length)

    def _evaluate(self) -> str:
        bm25 = "BM25, " if self.records["judgments"] else ""
        return (
            f"# The untouched model, {bm25}and the tuned one, on what was never trained on; the page is in the run's\n"
            "# folder report/.\nevaluate:\n  split: test\n"
        )


_MINE_SECTION = """\
# Hard negatives: for each question, documents that the model ranks high although they are not its answer.
mine:
  encoder: {{model: {model}, max_length: {length}}}
  top_k: 30  # candidates looked at
  rule: {{num_negatives: 1, max_percentage: 0.9}}  # one each, none nearly as near as the answer itself: it may be right
"""
_TRAIN = """\
train:
  encoder: {{model: {model}, max_length: {length}}}  # longer texts are cut; most of yours fit
  rows: auto  # the mined negatives, triplets where there are some, else pairs
  loss: {{type: infonce, temperature: 0.05}}  # each question against all answers of the batch
  loop:
    # epochs and validations follow from the number of rows; the job says how many, and either can be set here
    batch_size: {batch}  # over all workers; the more, the harder, if there are enough questions
    cache_tokens: 2048  # keeps memory small, whatever the batch
"""
_TRAIN_ON_SCORES = """\
train:
  encoder: {{model: {model}, max_length: {length}}}  # longer texts are cut; most of yours fit
  rows: auto  # the labelled pairs, since the loss learns from scores
  loss: {{type: cosent}}  # puts pairs into the order of their scores
  loop: {{epochs: 4, batch_size: 32, learning_rate: 2.0e-5}}
"""
_EMBED = """\
# Vectors of all documents, for `tripletail search` and for a store of yours.
embed: {}
"""


def _find(path: str) -> FoundSource:
    """Try a file; raises UserError where no source can read it."""
    sample = read_sample(path)
    tried = try_all(sample)
    suggestions = [item for item in tried if item.records and item.usable >= 0.5]
    if not suggestions:
        for item in tried:
            if problem := item.first_problem or item.error:
                kind = f" of kind {item.settings['kind']}" if "kind" in item.settings else ""
                raise UserError(f"{path}: most rows cannot be used by {item.settings['type']}{kind}: {problem}")
        columns = ", ".join(sample.columns) or "none"
        raise UserError(
            f"{path}: no source recognises it (columns: {columns}); name them in a recipe by hand, such as "
            "{type: csv, path: ..., kind: qa, fields: {anchor: COLUMN, positive: COLUMN}}"
        )
    return FoundSource(path, sample, suggestions[0])


def _finding(source: FoundSource) -> list[str]:
    suggestion = source.suggestion
    gives = ", ".join(f"{count(number)} {reason(name)}" for name, number in suggestion.records.items())
    kind = suggestion.settings.get("kind", "")
    used = f"{count(suggestion.rows - suggestion.unused.total())} of the first {count(suggestion.rows)} rows are used"
    lines = [f"{source.path}: {suggestion.settings['type']}{f' of kind {kind}' if kind else ''}; {used}: {gives}"]
    return lines + (
        [f"  not used: {suggestion.first_problem}"] if suggestion.unused.total() and suggestion.first_problem else []
    )


def _names(paths: Sequence[str]) -> list[str]:
    """A name for each source: that of its file, with a number where two are alike."""
    stems = [Path(path.rstrip("/")).name.partition(".")[0] or "source" for path in paths]
    return [
        f"{stem}{stems[:index].count(stem) + 1}" if stem in stems[:index] else stem for index, stem in enumerate(stems)
    ]


def _lengths(sample: FileSample) -> list[int]:
    """Letters of the longest text of each row that was seen."""
    longest = (max((len(value) for value in row.values() if isinstance(value, str)), default=0) for row in sample.rows)
    return [length for length in longest if length]


def _scalar(text: str) -> str:
    """A text as a YAML value on one line."""
    return (
        str(yaml.safe_dump(text, default_flow_style=True, allow_unicode=True, width=1000)).removesuffix("...\n").strip()
    )
