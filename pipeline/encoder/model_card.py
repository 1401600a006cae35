"""A model card: front matter that the Hugging Face Hub reads, and a text in which jobs keep a part of their own."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from pipeline.storage.files import filesystem, join

FILE = "README.md"


def compose(front: Mapping[str, Any], body: str) -> str:
    """Put front matter, without what is empty, before a text."""
    held = {key: value for key, value in front.items() if value not in (None, "", [], {})}
    head = yaml.safe_dump(held, sort_keys=False, allow_unicode=True, width=120)
    return f"---\n{head}---\n\n{body.strip()}\n"


def split(card: str) -> tuple[dict[str, Any], str]:
    """Take a card apart into front matter and text; a card without front matter is all text."""
    found = re.match(r"---\r?\n(.*?)\r?\n---\r?\n", card, flags=re.DOTALL)
    if not found:
        return {}, card
    try:
        front = yaml.safe_load(found.group(1))
    except yaml.YAMLError:
        return {}, card
    return (front, card[found.end() :]) if isinstance(front, dict) else ({}, card)


def part(name: str, text: str) -> str:
    """Mark a part of the text, so that a later job finds it."""
    return f"<!-- {name} -->\n{text.strip()}\n<!-- end of {name} -->"


def with_part(body: str, name: str, text: str) -> str:
    """Replace a marked part; append it where there is none."""
    pattern = rf"<!-- {re.escape(name)} -->.*?<!-- end of {re.escape(name)} -->"
    fresh = part(name, text)
    if re.search(pattern, body, flags=re.DOTALL):
        return re.sub(pattern, lambda _: fresh, body, count=1, flags=re.DOTALL)
    return f"{body.rstrip()}\n\n{fresh}\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Build a Markdown table; the first column is text, the others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    cells = ((cell.replace("|", "\\|").replace("\n", " ") for cell in line) for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def read(folder: str) -> str | None:
    """Return the card of a model directory; None where it has none."""
    fs, path = filesystem(join(folder, FILE))
    if not fs.exists(path):
        return None
    with fs.open(path, "r", encoding="utf-8") as file:
        return str(file.read())


def licence(folder: str) -> str | None:
    """Return the licence that the card of a model directory states."""
    front, _ = split(read(folder) or "")
    stated = front.get("license_name") or front.get("license")
    return str(stated) if stated else None
