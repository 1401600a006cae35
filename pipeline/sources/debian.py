"""Package index of Debian (deb822): short descriptions as titles, long ones as texts, sections, debtags.

https://www.debian.org/doc/debian-policy/ch-controlfields.html#syntax-of-control-files
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from typing import Literal

from pydantic import Field

from pipeline.sources.reading import lines
from pipeline.sources.reading.mapping import Mapping
from pipeline.sources.reading.paths import Paths, expand
from pipeline.sources.reading.record import Block, Parsed, Templated, chunks, file_size
from pipeline.sources.reading.sample import FileSample, Settings
from pipeline.storage.lines import MAX_LINE_BYTES, LongLine

Stanza = dict[str, str]
_MAPPING = Mapping(kind="document", fields={"id": "Package", "category": "Section"})


class Debian(Paths, Templated):
    """Files named Packages, packed or not.

    The archive keeps long descriptions in Translation-en: `descriptions` names it. They are held in memory, by their
    checksum, by the task that reads Packages (about 60 MB for all of Debian).
    """

    type: Literal["debian"] = "debian"
    descriptions: str | list[str] | None = Field(default=None, description="Translation-en files of the same archive")

    @classmethod
    def recognise(cls, sample: FileSample) -> list[Settings]:
        """Paragraphs that begin with Package."""
        return [{"path": sample.path}] if sample.start.startswith(b"Package:") else []

    def inputs(self, root: str) -> dict[str, str]:
        """Return the indexes, then the files of descriptions."""
        return {**expand(self.path, root), **(expand(self.descriptions, root) if self.descriptions else {})}

    def blocks(self, root: str, index: int, block_bytes: int) -> list[Block]:
        """One block an index; those of descriptions are read with it."""
        blocks = []
        for file, (display, path) in enumerate(expand(self.path, root).items()):
            more = list(expand(self.descriptions, root).values()) if self.descriptions else []
            size = sum(file_size(name, display) for name in (path, *more))
            one_block = lines.single_block(path, size, index, file)
            blocks.append(replace(one_block, extra_files="\n".join(more)))
        return blocks

    def locate(self, path: str, offset: int) -> str:
        """Name a row by its line."""
        return f"{path}:{offset}"

    def parse(self, block: Block) -> Iterator[Parsed]:
        """Read the packages."""
        longer = {
            key: text for name in filter(None, block.extra_files.split("\n")) for key, text in _descriptions(name)
        }
        mapping = _MAPPING.model_copy(update={"template": self.template})

        def take(numbered: tuple[int, Stanza | str], parsed: Parsed) -> None:
            line, stanza = numbered
            parsed.tally.counts["rows"] += 1
            if isinstance(stanza, str):
                parsed.tally.offend(line, "unreadable_row", stanza)
                return
            written = longer.get(stanza.get("Description-md5", "")) or _described(stanza)
            title, _, text = written.partition("\n")
            row = stanza | {"title": title, "text": prose(text), "tags": stanza.get("Tag", "")}
            origin = {"source": self.label, "order": block.order(line)}
            if not written or "Package" not in stanza:
                parsed.tally.offend(line, "missing_field", "a stanza without Package or Description")
            else:
                mapping.take(row, line, origin, self.prefix, parsed)

        return chunks(stanzas(block.path, block.max_line_bytes), take)


def stanzas(path: str, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[tuple[int, Stanza | str]]:
    """Yield the number of the first line and the fields of every stanza of a file, or what is wrong with it."""
    numbered = enumerate(lines.read(Block(0, 0, path, 0, -1, max_line_bytes=max_line_bytes)), 1)
    rows = ((line, raw) for line, (_, raw) in numbered if not raw.startswith(b"#"))
    for filled, group in groupby(rows, lambda row: bool(row[1].strip())):
        if filled:
            written = list(group)
            yield written[0][0], _stanza([raw for _, raw in written])


def _stanza(written: list[bytes]) -> Stanza | str:
    fields: Stanza = {}
    name = None
    for raw in written:
        if isinstance(raw, LongLine):
            return str(raw)
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            return f"not UTF-8: {error.reason}"
        if text[0] in " \t":
            if name is None:
                return f"a continuation without a field: {text.strip()[:40]!r}"
            fields[name] += "\n" + text[1:]
            continue
        name, colon, value = text.partition(":")
        if not colon or " " in name:
            return f"not `Field: value`: {text[:40]!r}"
        fields[name] = value.strip()
    return fields


def _described(stanza: Stanza) -> str:
    return stanza.get("Description") or next((v for k, v in stanza.items() if k.startswith("Description-en")), "")


def _descriptions(path: str) -> Iterator[tuple[str, str]]:
    for _, stanza in stanzas(path):
        if isinstance(stanza, dict) and (text := _described(stanza)) and "Description-md5" in stanza:
            yield stanza["Description-md5"], text


def prose(text: str) -> str:
    """Return a long description without the dots that stand for empty lines."""
    return "\n".join("" if line.strip() == "." else line for line in text.split("\n"))
