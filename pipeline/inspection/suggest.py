"""Which sources can read a raw file: those that recognise it are tried on its first rows, as a build reads them."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, get_args

import yaml
from pydantic import TypeAdapter, ValidationError

from pipeline.core.errors import UserError
from pipeline.sources.reading.labels import REFUSED
from pipeline.sources.reading.record import CHUNK_ROWS, Parsed, SourceConfig
from pipeline.sources.reading.sample import FileSample
from pipeline.sources.registry import Source

_BLOCK_BYTES = 1 << 20
_FILES = 5  # of a source that are tried
_ADAPTER: TypeAdapter[Any] = TypeAdapter(Source)


@dataclass(frozen=True)
class Suggestion:
    """Settings of a source, and what it makes of the first rows: records by kind, rows not used by reason."""

    settings: dict[str, Any]
    rows: int = 0
    records: Counter[str] = field(default_factory=Counter)
    unused: Counter[str] = field(default_factory=Counter)
    first_problem: str = ""
    error: str = ""  # why it cannot be read at all

    @property
    def usable(self) -> float:
        """Share of the rows that are used; 0 where one of them would end a build."""
        if set(REFUSED) & set(self.unused):
            return 0.0
        return 1 - self.unused.total() / self.rows if self.rows else 0.0

    @property
    def needs(self) -> str:
        """What another source of the recipe must bring; empty where these rows are enough for a build."""
        if self.records["labelled"] or (self.records["documents"] and self.records["judgments"]):
            return ""
        if self.records["documents"]:
            return ""
        return "documents" if self.records["judgments"] else "documents and judgments"

    def recipe(self, run: str = "runs/mine") -> str:
        """A recipe to start from, as YAML."""
        build = {"run": run, "build": {"sources": [self.settings]}}
        text: str = yaml.safe_dump(build, sort_keys=False, allow_unicode=True, width=120)
        return text if not self.needs else f"{text}    # and a source of the {self.needs} with the same ids\n"


def suggest(sample: FileSample) -> list[Suggestion]:
    """Try every source that recognises a file; those that can use rows of it, the most useful first."""
    return [suggestion for suggestion in try_all(sample) if suggestion.records]


def try_all(sample: FileSample) -> list[Suggestion]:
    """Try every source that recognises a file, the most useful first; one that can use no row says why."""
    classes: list[type[SourceConfig]] = list(get_args(get_args(Source)[0]))
    candidates = [
        {"type": source.model_fields["type"].default, **settings}
        for source in classes
        for settings in source.recognise(sample)
    ]
    is_own = {source.model_fields["type"].default for source in classes} - {"csv", "json", "jsonl", "parquet", "xlsx"}
    tried = [_try(settings) for settings in candidates]
    return sorted(tried, key=lambda item: (item.usable < 0.5, item.settings["type"] not in is_own, bool(item.needs)))


def _try(settings: dict[str, Any]) -> Suggestion:
    """Read the first rows of each file of a source that settings make."""
    try:
        return try_source(_ADAPTER.validate_python(settings), "", settings)
    except ValidationError as error:
        return Suggestion(settings, error=str(error))


def try_source(source: SourceConfig, root: str, settings: dict[str, Any] | None = None) -> Suggestion:
    """Read the first rows of each file of a source, of the first few files, as a build reads them.

    A source that cannot be read at all has an `error`.
    """
    settings = settings or {"type": source.type}
    rows, unused, records, problem = 0, Counter[str](), Counter[str](), ""
    try:
        seen: set[int] = set()
        for block in source.blocks(root, 0, _BLOCK_BYTES):
            if block.file in seen or len(seen) == _FILES:
                continue
            seen.add(block.file)
            for parsed in _first_chunks(source.parse(block)):
                rows += parsed.tally.counts["rows"]
                unused.update(parsed.tally.unused)
                records.update({kind: len(items) for kind, items in parsed.kinds.items() if len(items)})
                offenders = [item for item in parsed.tally.offenders if item[1] in parsed.tally.unused]
                problem = problem or next((f"{reason}: {detail}" for _, reason, detail in offenders), "")
    except UserError as error:
        return Suggestion(settings, error=str(error))
    return Suggestion(settings, rows, records, unused, problem)


def _first_chunks(chunks: Iterator[Parsed]) -> Iterator[Parsed]:
    """Chunks of the first rows of a block: those that were read by columns, and the rest of them."""
    rows = 0
    for parsed in chunks:
        yield parsed
        rows += parsed.tally.counts["rows"]
        if rows > CHUNK_ROWS:
            return
