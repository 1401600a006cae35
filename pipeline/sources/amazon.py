"""Amazon product metadata and questions: a line is JSON in newer files, a Python literal in older ones."""

import ast
import json
import re
from collections.abc import Iterator
from typing import Any, Literal

from pipeline.core.errors import UserError
from pipeline.sources.jsonl import objects
from pipeline.sources.reading.mapping import Mapping, Row
from pipeline.sources.reading.paths import Paths
from pipeline.sources.reading.record import Block, Parsed, Templated, file_size
from pipeline.sources.reading.sample import FileSample, Settings
from pipeline.sources.reading.values import UnusableValue, text
from pipeline.storage.lines import read_head

_ARRAY = re.compile(rb"\s*\[\s*\{")
LONGEST = 1 << 20  # bytes of a Python literal that are parsed


_PRODUCT_FIELDS: dict[str, str | None] = {
    "id": "asin",
    "title": "title",
    "text": "description",
    "category": "category",
    "attributes": "attributes",
    "group": "parent_asin",
    "tags": None,
}
_REWRITTEN = ("feature", "features", "brand", "store", "details", "categories")  # found in the fields above


class Amazon(Paths, Templated):
    """Files of `products` (meta_*.json, meta_*.jsonl) or of `questions` (qa_*.json, AmazonQA).

    Products are read in the layouts of 2014 (lists of categories), of 2018 (`category`, `feature`, `brand`) and of
    2023 (`parent_asin`, `features`, `store`, `details`); questions with one answer a line, with several, or as
    AmazonQA gives them.
    """

    type: Literal["amazon"] = "amazon"
    holds: Literal["products", "questions"] = "products"

    @classmethod
    def recognise(cls, sample: FileSample) -> list[Settings]:
        """Lines with an asin: products with a title, or questions."""
        is_product = sample.has("title", "asin") or sample.has("title", "parent_asin")
        if not (is_product or sample.has("asin", "question") or sample.has("asin", "questions")):
            return []
        return [{"path": sample.path, "holds": "products" if is_product else "questions"}]

    def blocks(self, root: str, index: int, block_bytes: int) -> list[Block]:
        """Cut every file into byte ranges; raises UserError for a file that is one JSON array."""
        for display, path in self.inputs(root).items():
            file_size(path, display)
            if _ARRAY.match(read_head(path)):
                raise UserError(f"source {display}: is one array; write an object a line, as `jq -c '.[]'` does")
        return super().blocks(root, index, block_bytes)

    def parse(self, block: Block) -> Iterator[Parsed]:
        """Read the lines that start in the block; questions about one product stay in one split."""
        if self.holds == "products":
            mapping = Mapping(kind="product", template=self.template, html=True, fields=_PRODUCT_FIELDS)
            return objects(block, mapping, self.label, self.prefix, products)
        mapping = Mapping(kind="qa", html=True, fields={"group": "asin"})
        return objects(block, mapping, self.label, self.prefix, questions)


def products(raw: bytes) -> list[Row] | str:
    """Read the product on a line: description and features, levels of its category, brand or store and details.

    The id is the product's own `asin`, and `parent_asin` where that is the only one, as in the metadata of 2023.
    """
    row = literal(raw)
    if isinstance(row, str):
        return row
    asin, parent = row.get("asin"), row.get("parent_asin")
    if not (asin or parent):
        return f"no field 'parent_asin' or 'asin' for id; it has {', '.join(list(row)[:8])}"
    try:
        title = text(row.get("title"), "title")
        parts = (text(row.get(name), name) for name in ("description", "feature", "features"))
        body = "\n".join(filter(None, parts))
    except UnusableValue as problem:
        return str(problem)
    if "getTime()" in title:
        return "the title is a script of the shop's page"
    attributes = {"brand": row.get("brand"), "store": row.get("store"), **(_details(row) if parent else {})}
    product = {"asin": asin or parent, "parent_asin": parent if asin else None, "title": title or None}
    product |= {"description": body or None, "category": _category(row), "attributes": attributes}
    return [{name: value for name, value in row.items() if name not in _REWRITTEN} | product]


def _category(row: dict[str, Any]) -> Any:
    """Levels of a product's category: `category`, the flat `categories` of 2023, or the first list of those of 2014."""
    return row.get("category") or row.get("categories") or None


def _details(row: dict[str, Any]) -> dict[str, Any]:
    """Details of a product: an object, or one as JSON in a string, as the Hub's copy of the data set has it."""
    details = row.get("details")
    if isinstance(details, str):
        try:
            details = json.loads(details)
        except (ValueError, RecursionError):
            return {"details": details}
    return details if isinstance(details, dict) else {}


def questions(raw: bytes) -> list[Row] | str:
    """Read the questions on a line, each with its answer or answers."""
    row = literal(raw)
    if isinstance(row, str):
        return row
    if "questionText" in row:
        return [{**row, **_question(row, row.get("asin"))}]
    if "questions" not in row:
        return [row]
    rows = []
    for item in row["questions"] if isinstance(row["questions"], list) else []:
        if not isinstance(item, dict):
            return "a question is no object"
        rows.append(_question(item, row.get("asin")))
    return rows or "has no questions"


def _question(item: dict[str, Any], asin: Any) -> Row:
    """Return a question with the texts of its answers, which are objects with `answerText`."""
    answers = item.get("answers")
    texts = [answer.get("answerText") for answer in answers or [] if isinstance(answer, dict)]
    return {"asin": asin, "question": item.get("questionText"), "answers": texts or None}


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
