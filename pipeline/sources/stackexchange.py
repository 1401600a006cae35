"""Posts.xml of a Stack Exchange dump: questions as queries, answers and repeated questions as graded documents.

One `<row .../>` a line, parsed line by line: a broken row costs that row, not the file, and any byte range can be read
alone. Relevance: 3 accepted, 2 score >= 3, 1 score >= 0, 0 negative score.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

from lxml import etree
from pydantic import Field

from pipeline.core.errors import UserError
from pipeline.sources.reading import lines
from pipeline.sources.reading.paths import Paths, expand
from pipeline.sources.reading.record import Block, Parsed, chunks, file_size
from pipeline.sources.reading.sample import FileSample, Settings
from pipeline.sources.stackexchange_links import Links, judgments, links
from pipeline.storage.files import filesystem
from pipeline.storage.lines import excerpt, read_head
from pipeline.text.normalize import html_to_text

_REFERENCE = re.compile(rb"&#(x[0-9a-fA-F]{1,6}|[0-9]{1,7});")
_CONTROL = bytes(code for code in range(0x20) if code not in (0x9, 0xA, 0xD))
_WRAPPERS = (b"<?xml", b"<posts", b"</posts", b"<!--")


class StackExchange(Paths):
    """A Posts.xml; ids are q<Id> and a<Id>, the group of a row is its question.

    A pattern such as `*/Posts.xml` reads the dumps of several sites, each in a folder of its own. Their numbers mean
    different posts, so the folder's name stands before the ids: `coffee-q1`. Files of one folder are one dump.

    With `links`, questions that were closed as duplicates are paired with the questions that they repeat, which become
    documents too, and all questions that are the same share a group.
    """

    type: Literal["stackexchange"] = "stackexchange"
    body: bool = False  # whether the query is the title and the body, or the title alone
    links: str | None = Field(
        default=None, description="PostLinks.xml of the same dump, or a pattern for several sites"
    )
    unjudged = "unanswered_question"

    @classmethod
    def recognise(cls, sample: FileSample) -> list[Settings]:
        """A Posts.xml."""
        if sample.format == "folder" and "Posts.xml" in sample.files:
            links = {"links": f"{sample.path}/PostLinks.xml"} if "PostLinks.xml" in sample.files else {}
            return [{"path": f"{sample.path}/Posts.xml", **links}]
        return [{"path": sample.path}] if sample.format == "xml" and sample.has("posttypeid") else []

    def inputs(self, root: str) -> dict[str, str]:
        """Return the posts, then the links."""
        return {**expand(self.path, root), **(expand(self.links, root) if self.links else {})}

    def blocks(self, root: str, index: int, block_bytes: int) -> list[Block]:
        """Cut into byte ranges; raises UserError for a file that does not start as Posts.xml does.

        The blocks carry the place of the links in their path: a task may run where the recipe is not known.
        """
        prefixes = _site_prefixes(list(expand(self.path, root).values()))
        links_of = self._links_by_folder(root, list(prefixes))
        blocks = []
        for file, (display, path) in enumerate(self.inputs(root).items()):
            size, part = file_size(path, display), int(path in links_of.values())
            _check_start(path, display, "PostLinks.xml" if part else "Posts.xml")
            folder = next(f for f in links_of if links_of[f] == path) if part else _folder(path)
            site = Block(index, file, path, part=part, extra_files=links_of.get(folder, ""), prefix=prefixes[folder])
            cuts = lines.cut(path, size, index, file, block_bytes)
            blocks += [replace(site, start=block.start, end=block.end, size=block.size) for block in cuts]
        return blocks

    def _links_by_folder(self, root: str, folders: list[str]) -> dict[str, str]:
        """The links of each folder with posts; raises UserError for links that belong to none of several."""
        paths = list(expand(self.links, root).values()) if self.links else []
        if len(folders) == 1 and len(paths) < 2:
            return dict(zip(folders, paths, strict=False))
        by_folder = {_folder(path): path for path in paths}
        if strange := sorted(set(by_folder) - set(folders)):
            raise UserError(
                f"source {self.path}: {by_folder[strange[0]]} lies in no folder of posts: which are its posts?"
            )
        return by_folder

    def parse(self, block: Block) -> Iterator[Parsed]:
        """Read the rows that start in the block."""
        if block.prefix:
            site = self.model_copy(update={"prefix": self.prefix + block.prefix})
            return site.parse(replace(block, prefix=""))
        if block.part:
            return judgments(block, self.label, self.prefix)
        linked = links(block.extra_files) if block.extra_files else None

        def take(row: tuple[int, tuple[int, bytes]], parsed: Parsed) -> None:
            line, (offset, raw) = row
            raw = raw.strip()
            if raw.startswith(b"<row"):
                parsed.tally.counts["rows"] += 1
                self._take(raw, line, block.order(offset), parsed, linked)
            elif raw and not raw.startswith(_WRAPPERS):
                parsed.tally.counts["rows"] += 1
                parsed.tally.offend(line, "unreadable_row", f"not a <row>: {excerpt(raw)}")

        return chunks(enumerate(lines.read(block), 1), take)

    def _take(self, row: bytes, line: int, order: int, parsed: Parsed, linked: Links | None) -> None:
        try:
            post = dict(etree.fromstring(_REFERENCE.sub(_allowed, row.translate(None, _CONTROL)), _parser()).attrib)
            kind, number, score = post["PostTypeId"], int(post["Id"]), int(post.get("Score", 0))
            if kind == "2":
                self._answer(post, number, score, line, order, parsed)
            elif kind == "1":
                self._question(post, number, line, order, parsed, linked)
            else:
                parsed.tally.offend(line, "other_post_type", f"post of type {kind}, neither question nor answer")
        except etree.XMLSyntaxError as error:
            parsed.tally.offend(line, "unreadable_row", f"broken XML: {error.msg}")
        except (KeyError, ValueError) as error:
            parsed.tally.offend(line, "unreadable_row", f"attribute missing or not a number: {error}")

    def _question(
        self, post: dict[str, Any], number: int, line: int, order: int, parsed: Parsed, linked: Links | None
    ) -> None:
        query_id = f"{self.prefix}q{number}"
        text, body = post["Title"], html_to_text(post.get("Body", ""))
        if self.body:
            text, body = f"{text} {body}", ""
        origin = {"source": self.label, "order": order}
        topics = tags(post.get("Tags", ""))
        group = f"{self.prefix}q{linked.group(number)}" if linked else query_id
        parsed.add("queries", id=query_id, text=text, body=body, group=group, tags=topics, line=line, **origin)
        if linked and number in linked.repeated:
            texts = {"title": "", "text": text, "body": text, "tags": topics}
            category = topics[0] if topics else None
            parsed.add("documents", id=query_id, group=group, category=category, line=line, **texts, **origin)
        if accepted := post.get("AcceptedAnswerId"):
            doc_id = f"{self.prefix}a{int(accepted)}"
            judgment = {"relevance": 3, "reason": "accepted answer", "refines": True}
            parsed.add("judgments", query_id=query_id, doc_id=doc_id, **judgment, **origin)

    def _answer(self, post: dict[str, Any], number: int, score: int, line: int, order: int, parsed: Parsed) -> None:
        doc_id, query_id = f"{self.prefix}a{number}", f"{self.prefix}q{int(post['ParentId'])}"
        origin = {"source": self.label, "order": order}
        text = html_to_text(post.get("Body", ""))
        parsed.add("documents", id=doc_id, title="", text=text, body=text, tags=[], line=line, **origin)
        judgment = {"relevance": grade(score), "reason": f"answer score {score}"}
        parsed.add("judgments", query_id=query_id, doc_id=doc_id, **judgment, **origin)


def _folder(path: str) -> str:
    """The folder of a file; of a member of an archive below the archive."""
    inside, _, archive = path.removeprefix("zip://").partition("::")
    if archive:
        return f"{archive}/{inside}".rpartition("/")[0]
    fs, name = filesystem(path)
    return str(fs.unstrip_protocol(name)).rpartition("/")[0]


def _site_prefixes(paths: list[str]) -> dict[str, str]:
    """What stands before the ids of the posts in each folder: nothing for one, else as much of its name as differs."""
    folders = sorted(set(map(_folder, paths)))
    if len(folders) == 1:
        return {folders[0]: ""}
    parts = [folder.split("/") for folder in folders]
    shared = next((n for n, names in enumerate(zip(*parts, strict=False)) if len(set(names)) > 1), min(map(len, parts)))
    return {folder: "-".join([*names[shared:], ""]) for folder, names in zip(folders, parts, strict=True)}


def _check_start(path: str, display: str, expected: str) -> None:
    start = read_head(path)
    element = f"<{expected.removesuffix('.xml').lower()}".encode()
    if element not in start and b"<row " not in start:
        raise UserError(f"source {display}: is not a {expected} of Stack Exchange: {excerpt(start)}")


def grade(score: int) -> int:
    """Return the relevance of an answer that nobody accepted, from its score."""
    return 2 if score >= 3 else int(score >= 0)


def tags(text: str) -> list[str]:
    """Split the tags of a question, as older dumps (`<a><b>`) and newer ones (`|a|b|`) write them."""
    return [tag for tag in re.split(r"[<>|]+", text) if tag]


def _allowed(reference: re.Match[bytes]) -> bytes:
    """A character reference, or nothing for one that XML forbids: dumps hold some of control characters."""
    digits = reference[1].decode()
    code = int(digits[1:], 16) if digits[0] == "x" else int(digits)
    is_text = code in (0x9, 0xA, 0xD) or 0x20 <= code < 0xD800 or 0xE000 <= code < 0xFFFE or 0x10000 <= code < 0x110000
    return reference[0] if is_text else b""


def _parser() -> etree.XMLParser:
    return etree.XMLParser(resolve_entities=False, no_network=True, encoding="utf-8")
