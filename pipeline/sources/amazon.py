"""Amazon product metadata and questions: a line is JSON in newer files, a Python literal in older ones."""

import ast
import json
from collections.abc import Iterator
from typing import Any, Literal

from pipeline.sources.jsonl import objects
from pipeline.sources.reading.mapping import Mapping, Row
from pipeline.sources.reading.paths import Paths
from pipeline.sources.reading.record import Block, Parsed, Templated
from pipeline.sources.reading.values import UnusableValue, text

LONGEST = 1 << 20  # bytes of a Python literal that are parsed


class Amazon(Paths, Templated):
    """Files of `products` (meta_*.json) or of `questions` (qa_*.json, with one answer a line or several)."""

    type: Literal["amazon"] = "amazon"
    holds: Literal["products", "questions"] = "products"

    def parse(self, block: Block) -> Iterator[Parsed]:
        """Read the lines that start in the block; questions about one product stay in one split."""
        if self.holds == "products":
            mapping = Mapping(kind="product", template=self.template, html=True, fields={"id": "asin"})
            return objects(block, mapping, self.label, self.prefix, products)
        mapping = Mapping(kind="qa", html=True, fields={"group": "asin"})
        return objects(block, mapping, self.label, self.prefix, questions)


def products(raw: bytes) -> list[Row] | str:
    """Read the product on a line: description and features, levels of its category, its brand."""
    row = literal(raw)
    if isinstance(row, str):
        return row
    try:
        title = text(row.get("title"), "title")
        body = "\n".join(filter(None, (text(row.get(name), name) for name in ("description", "feature"))))
    except UnusableValue as problem:
        return str(problem)
    if "getTime()" in title:
        return "the title is a script of the shop's page"
    levels = row.get("category") or (row.get("categories") or [None])[0]
    brand = {"brand": row.get("brand")}
    texts = {"title": title or None, "description": body or None}
    return [{"asin": row.get("asin"), **texts, "category": levels, "attributes": brand}]


def questions(raw: bytes) -> list[Row] | str:
    """Read the questions on a line, each with its answer or answers."""
    row = literal(raw)
    if isinstance(row, str):
        return row
    if "questions" not in row:
        return [row]
    rows = []
    for item in row["questions"] if isinstance(row["questions"], list) else []:
        if not isinstance(item, dict):
            return "a question is no object"
        answers = item.get("answers")
        texts = [answer.get("answerText") for answer in answers or [] if isinstance(answer, dict)]
        rows.append({"asin": row.get("asin"), "question": item.get("questionText"), "answers": texts or None})
    return rows or "has no questions"


def literal(raw: bytes) -> dict[str, Any] | str:
    """Read a line as JSON, else as a Python literal (never evaluated), or say in words why it is neither."""
    try:
        row: Any = json.loads(raw)
    except (ValueError, RecursionError):
        if len(raw) > LONGEST:
            return f"neither JSON nor a literal of at most {LONGEST:,} bytes"
        try:
            row = ast.literal_eval(raw.decode("utf-8").strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
            return f"neither JSON nor a Python literal: {str(error).splitlines()[0] if str(error) else 'too deep'}"
    return row if isinstance(row, dict) else f"wanted an object, found {type(row).__name__}"
