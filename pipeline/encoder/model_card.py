"""Model cards: front matter that the Hugging Face Hub reads, and a text in which each job keeps a section of its own.

card = parse(text)                                       # huggingface_hub's ModelCard
card.data.license = "apache-2.0"
card.text = replace_section(card.text, "measured", "## Measured ...")
str(card)
"""

import re
from collections.abc import Sequence

import yaml
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from pipeline.storage.files import filesystem, join

FILE = "README.md"


def create(data: ModelCardData, body: str) -> ModelCard:
    """Make a card of front matter and a Markdown text."""
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body.strip()}\n")


def parse(text: str) -> ModelCard:
    """Parse a card; where its front matter is missing or no valid YAML mapping, all of it is text."""
    if REGEX_YAML_BLOCK.search(text):
        try:
            return ModelCard(text, ignore_metadata_errors=True)
        except (ValueError, yaml.YAMLError):
            pass
    return create(ModelCardData(), text)


def section(name: str, text: str) -> str:
    """Mark a section of the text, so that a later job can replace it."""
    return f"<!-- {name} -->\n{text.strip()}\n<!-- end of {name} -->"


def replace_section(body: str, name: str, text: str) -> str:
    """Replace a marked section; append it where there is none."""
    pattern = rf"<!-- {re.escape(name)} -->.*?<!-- end of {re.escape(name)} -->"
    marked = section(name, text)
    if re.search(pattern, body, flags=re.DOTALL):
        return re.sub(pattern, lambda _: marked, body, count=1, flags=re.DOTALL)
    return f"{body.rstrip()}\n\n{marked}\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Build a Markdown table; the first column is text, the others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    cells = ((cell.replace("|", "\\|").replace("\n", " ") for cell in line) for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def read(path: str) -> str | None:
    """Return the text of a model directory's card; None where it has none."""
    fs, file_path = filesystem(join(path, FILE))
    if not fs.exists(file_path):
        return None
    with fs.open(file_path, "r", encoding="utf-8") as file:
        return str(file.read())


def stated_license(path: str) -> str | None:
    """Return the licence that the card of a model directory states."""
    data = parse(read(path) or "").data
    stated = data.get("license_name") or data.get("license")
    return str(stated) if stated else None
