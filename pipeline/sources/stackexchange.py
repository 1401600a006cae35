"""Posts.xml of a Stack Exchange dump: questions as queries, answers as graded documents.

One `<row .../>` a line, parsed line by line: a broken row costs that row, not the file, and any byte range can be read
alone. Relevance: 3 accepted, 2 score >= 3, 1 score >= 0, 0 negative score.
"""

import re
from collections.abc import Iterator
from typing import Any, Literal

from lxml import etree

from pipeline.errors import UserError
from pipeline.sources import lines
from pipeline.sources.record import CHUNK_ROWS, Block, Parsed, SourceConfig, existing, resolve
from pipeline.text import html_to_text

_WRAPPERS = (b"<?xml", b"<posts", b"</posts", b"<!--")


class StackExchange(SourceConfig):
    """A Posts.xml; ids are q<Id> and a<Id>, the group of a row is its question."""

    type: Literal["stackexchange"] = "stackexchange"
    path: str
    body: bool = False  # whether the query is the title and the body, or the title alone
    unjudged = "unanswered_question"

    def inputs(self, root: str) -> dict[str, str]:
        """Return the one file."""
        return {self.path: resolve(root, self.path)}

    def blocks(self, root: str, index: int, block_bytes: int) -> list[Block]:
        """Cut into byte ranges; raises UserError for a file that does not start as Posts.xml does."""
        path = resolve(root, self.path)
        size = existing(path, self.path)
        start = b"" if path.endswith(".gz") else lines.head(path)
        if not path.endswith(".gz") and b"<posts" not in start and b"<row " not in start:
            raise UserError(f"source {self.path}: is not a Posts.xml of Stack Exchange: {lines.shown(start)}")
        return lines.cut(path, size, index, 0, block_bytes)

    def parse(self, block: Block) -> Iterator[Parsed]:
        """Read the rows that start in the block."""
        parsed = Parsed()
        for line, (offset, raw) in enumerate(lines.read(block), 1):
            row = raw.strip()
            if row.startswith(b"<row"):
                parsed.tally.counts["rows"] += 1
                self._take(row, line, block.order(offset), parsed)
            elif row and not row.startswith(_WRAPPERS):
                parsed.tally.counts["rows"] += 1
                parsed.tally.offend(line, "unreadable_row", f"not a <row>: {lines.shown(row)}")
            parsed.tally.rows += 1
            if parsed.tally.rows >= CHUNK_ROWS:
                yield parsed
                parsed = Parsed()
        yield parsed

    def _take(self, row: bytes, line: int, order: int, parsed: Parsed) -> None:
        try:
            post = dict(etree.fromstring(row, _parser()).attrib)
            kind, number, score = post["PostTypeId"], int(post["Id"]), int(post.get("Score", 0))
            if kind == "2":
                self._answer(post, number, score, line, order, parsed)
            elif kind == "1":
                self._question(post, number, line, order, parsed)
            else:
                parsed.tally.offend(line, "other_post_type", f"post of type {kind}, neither question nor answer")
        except etree.XMLSyntaxError as error:
            parsed.tally.offend(line, "unreadable_row", f"broken XML: {error.msg}")
        except (KeyError, ValueError) as error:
            parsed.tally.offend(line, "unreadable_row", f"attribute missing or not a number: {error}")

    def _question(self, post: dict[str, Any], number: int, line: int, order: int, parsed: Parsed) -> None:
        query_id = f"{self.prefix}q{number}"
        text, body = post["Title"], html_to_text(post.get("Body", ""))
        if self.body:
            text, body = f"{text} {body}", ""
        place = {"source": self.label, "order": order}
        topics = tags(post.get("Tags", ""))
        parsed.add("queries", id=query_id, text=text, body=body, group=query_id, tags=topics, line=line, **place)
        if accepted := post.get("AcceptedAnswerId"):
            doc_id = f"{self.prefix}a{int(accepted)}"
            judgment = {"relevance": 3, "reason": "accepted answer", "refines": True}
            parsed.add("judgments", query_id=query_id, doc_id=doc_id, **judgment, **place)

    def _answer(self, post: dict[str, Any], number: int, score: int, line: int, order: int, parsed: Parsed) -> None:
        doc_id, query_id = f"{self.prefix}a{number}", f"{self.prefix}q{int(post['ParentId'])}"
        place = {"source": self.label, "order": order}
        text = html_to_text(post.get("Body", ""))
        parsed.add("documents", id=doc_id, title="", text=text, body=text, tags=[], line=line, **place)
        judgment = {"relevance": grade(score), "reason": f"answer score {score}"}
        parsed.add("judgments", query_id=query_id, doc_id=doc_id, **judgment, **place)


def grade(score: int) -> int:
    """Relevance of an answer that nobody accepted, from its score."""
    return 2 if score >= 3 else int(score >= 0)


def tags(text: str) -> list[str]:
    """Tags of a question, as older dumps (`<a><b>`) and newer ones (`|a|b|`) write them."""
    return [tag for tag in re.split(r"[<>|]+", text) if tag]


def _parser() -> etree.XMLParser:
    return etree.XMLParser(resolve_entities=False, no_network=True, encoding="utf-8")
