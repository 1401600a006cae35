"""Model cards: front matter that the Hugging Face Hub reads, and a text in which each job keeps a section of its own.

card = parse(text)                                       # huggingface_hub's ModelCard
card.data.license = "apache-2.0"
card.text = replace_section(card.text, "measured", "## Measured ...")
str(card)
"""

import re
from collections.abc import Sequence
from pathlib import Path

import yaml
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from pipeline.storage.files import filesystem, join

FILE = "README.md"


def public_name(name: str) -> str:
    """Name of a model, a source or a run as a card may show it: where it lies on this machine or a store is left out.

    >>> public_name("/home/me/models/base"), public_name("s3://bucket/base"), public_name("owner/base")
    ('base', 'base', 'owner/base')
    """
    if is_path(name):
        return name.rstrip("/\\").replace("\\", "/").rpartition("/")[2] or "model"
    return name


def is_path(name: str) -> bool:
    """Whether a name is a place on this machine or a store, and not a name of the Hub or of a source."""
    local = name.startswith(("/", ".", "~")) or re.match(r"[A-Za-z]:[\\/]", name) or name.count("/") > 1
    return bool("://" in name or local or Path(name).exists())


def public_text(text: str, run: str) -> str:
    """A text with commands of a run, in which places are told from the run's directory on; relative ones stay."""
    parent = run.rstrip("/").rpartition("/")[0]
    told = parent and (parent.startswith(("/", "~", "..")) or "://" in parent)
    shortened = text.replace(f"{parent}/", "") if told else text
    return _PLACE.sub(lambda found: public_name(found[0]), shortened)


_PLACE = re.compile(r"(?<![\w.*-])(?:[a-z][a-z0-9+]*://|~?/)[^\s'\"`]+")


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
