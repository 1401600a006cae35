"""SQuAD JSON: questions as queries, contexts as documents, whole or cut into passages of which one holds the answer.

An article is read at a time, so that memory follows the longest article, not the file.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from pipeline.core.errors import UserError
from pipeline.sources.reading import lines
from pipeline.sources.reading.mapping import derived_id
from pipeline.sources.reading.paths import Paths
from pipeline.sources.reading.record import Block, IdKind, Parsed, Templated, chunks, file_size
from pipeline.sources.reading.sample import FileSample, Settings
from pipeline.sources.reading.values import identifier, text
from pipeline.storage.compression import open_decompressed
from pipeline.storage.lines import excerpt, read_head

_DATA = re.compile(r'"data"\s*:\s*\[')
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_READ = 1 << 20
MAX_ARTICLE_CHARS = 256 << 20


class Squad(Paths, Templated):
    """Files with data / paragraphs / qas / answers; the group of a question is its article."""

    type: Literal["squad"] = "squad"
    passage_chars: int | None = Field(default=None, ge=50, description="cut contexts at sentence ends to this length")
    question_ids: bool = Field(default=True, description="keep the ids of questions; else they are made from the texts")

    def with_derived_ids(self, kind: IdKind) -> "Squad | None":
        """Return the source without the ids of its questions; those of contexts are made from their texts anyway."""
        return self.model_copy(update={"question_ids": False}) if kind == "queries" else None

    @classmethod
    def recognise(cls, sample: FileSample) -> list[Settings]:
        """A JSON object with articles of paragraphs in `data`."""
        return [{"path": sample.path}] if sample.format == "json" and sample.has("paragraphs") else []

    def blocks(self, root: str, index: int, block_bytes: int) -> list[Block]:
        """One block a file; raises UserError for a file that does not start as SQuAD JSON does."""
        blocks = []
        for file, (display, path) in enumerate(self.inputs(root).items()):
            size, start = file_size(path, display), read_head(path)
            if not start.lstrip().startswith(b"{"):
                raise UserError(f"source {display}: is not SQuAD JSON: {excerpt(start)}")
            blocks.append(lines.single_block(path, size, index, file))
        return blocks

    def locate(self, path: str, offset: int) -> str:
        """Name an article by its number."""
        return f"{path} article {offset >> 20}"

    def parse(self, block: Block) -> Iterator[Parsed]:
        """Read the articles."""

        def take(numbered: tuple[int, Any], parsed: Parsed) -> None:
            number, article = numbered
            paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
            if not isinstance(paragraphs, list):
                parsed.tally.counts["rows"] += 1
                parsed.tally.offend(number, "unreadable_row", "an article without paragraphs")
                return
            origin = {"source": self.label, "split": None, "order": block.order(number << 20), "line": number}
            for paragraph in paragraphs:
                try:
                    self._paragraph(article, paragraph, origin, parsed)
                except (AttributeError, KeyError, TypeError, ValueError) as error:
                    parsed.tally.counts["rows"] += 1
                    parsed.tally.offend(number, "unreadable_row", f"paragraph of another shape: {error!r}")

        return chunks(enumerate(articles(block.path), 1), take)

    def _paragraph(self, article: dict[str, Any], paragraph: dict[str, Any], origin: Any, parsed: Parsed) -> None:
        context, questions = text(paragraph["context"], "context"), list(paragraph["qas"])
        title = text(article.get("title"), "title").replace("_", " ")
        group = title or derived_id("g", text(article["paragraphs"][0].get("context"), "context"))
        starts = passages(context, self.passage_chars)
        names = []
        for start, end in zip(starts, [*starts[1:], len(context)], strict=True):
            part = context[start:end]
            names.append(self.prefix + derived_id("d", f"{title} {part}"))
            origin["order"] += 1
            texts = {"title": title, "text": self.compose(title, part), "body": part, "tags": []}
            parsed.add("documents", id=names[-1], mention=True, group=group, **texts, **origin)
        for question in questions:
            parsed.tally.counts["rows"] += 1
            origin["order"] += 1
            answers = question.get("answers") or []
            if question.get("is_impossible") or not answers:
                parsed.tally.skip("unanswerable_question")
                continue
            question_text, explicit_id = text(question["question"], "question"), identifier(question.get("id"), "id")
            name = self.prefix + (explicit_id if self.question_ids and explicit_id else derived_id("q", question_text))
            parsed.add("queries", id=name, mention=True, text=question_text, body="", group=group, **origin)
            spots = (int(answer.get("answer_start", 0)) for answer in answers)
            for passage in dict.fromkeys(sum(start <= max(spot, 0) for start in starts) - 1 for spot in spots):
                ids = {"query_id": name, "doc_id": names[passage]}
                parsed.add("judgments", **ids, relevance=1, reason="holds the answer", **_without_line(origin))


def _without_line(origin: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in origin.items() if name != "line"}


def passages(context: str, limit: int | None) -> list[int]:
    """Return where passages of a context begin: at sentences, none longer than `limit` unless it is one sentence."""
    starts = [0]
    if limit is None:
        return starts
    ends = [match.end() for match in _SENTENCE.finditer(context)]
    for begin, end in zip([0, *ends], [*ends, len(context)], strict=True):
        if end - starts[-1] > limit and begin > starts[-1]:
            starts.append(begin)
    return starts


def articles(path: str) -> Iterator[Any]:
    """Yield the elements of `data`, decoded one by one; raises UserError where the file is no JSON of this shape."""
    decoder, text, at, minimum = json.JSONDecoder(), "", None, 0
    with open_decompressed(path) as raw:
        while chunk := raw.read(max(_READ, minimum)):
            pending = chunk + _to_character_end(raw, chunk)
            try:
                text += pending.decode("utf-8-sig" if not text else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"{path}: not UTF-8: {error.reason}") from error
            if at is None:
                if not (match := _DATA.search(text)):
                    continue
                at = match.end()
            while True:
                try:
                    start = _skip(text, at)
                    if start >= len(text) or text[start] == "]":
                        break
                    article, at = decoder.raw_decode(text, start)
                except (ValueError, RecursionError):  # of a number with thousands of digits no JSONDecodeError
                    break
                yield article
            text, at = text[at:] or " ", 0
            if len(text) > MAX_ARTICLE_CHARS:
                raise UserError(f"{path}: an article is broken or has over {MAX_ARTICLE_CHARS:,} characters")
            minimum = len(text)  # an article that spans many reads is tried again at twice the length only
    if at is None or not text[_skip(text, at) :].startswith("]"):
        raise UserError(f"{path}: not SQuAD JSON: it breaks off or is broken after {_near(text, at)}")


def _to_character_end(raw: Any, chunk: bytes) -> bytes:
    """Read the bytes that complete the last UTF-8 character of a chunk."""
    tail = b""
    lead = next((b for b in reversed(chunk[-4:]) if b & 0xC0 != 0x80), 0)
    have = next((i for i, b in enumerate(reversed(chunk[-4:]), 1) if b & 0xC0 != 0x80), 0)
    want = 4 if lead >= 0xF0 else 3 if lead >= 0xE0 else 2 if lead >= 0xC0 else 1
    if have and want > have:
        tail = raw.read(want - have)
    return tail


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n,":
        at += 1
    return at


def _near(text: str, at: int | None) -> str:
    return repr(text[at or 0 :].strip()[:40])
