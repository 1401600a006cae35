"""Packages of Debian 12: what each is in a line, and what it is at length."""

import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.sources.reading.splits import SplitConfig

from .corpus import DOCUMENT, PAIR, Corpus, Download, Outputs, rows_table, split_tables

TAGGED_DOCUMENT = DOCUMENT.append(pa.field("tags", pa.string()))
PAIR_OF_DOCUMENT = pa.schema([pa.field("doc_id", pa.string()), *PAIR])
MIN_CHARS = 40
SPLITS = SplitConfig(train=0.89, dev=0.11, test=0)
SUITE = "dists/bookworm/main"
SNAPSHOT = "https://snapshot.debian.org/archive/debian/20260712T000000Z"


def prepare(folder: Path) -> Outputs:
    """Pair the short with the long description of every package whose long one no earlier package has."""
    translations = {
        (fields["Package"], fields["Description-md5"]): fields["Description-en"]
        for fields in read_paragraphs(folder / "Translation-en.xz")
    }
    documents: dict[str, dict[str, Any]] = {}
    for fields in read_paragraphs(folder / "Packages.xz"):
        description = translations.get((fields["Package"], fields.get("Description-md5", "")), "")
        document = package_document(fields, description)
        if len(document["text"]) >= MIN_CHARS:
            documents.setdefault(document["text"], document)
    pairs = [
        {
            "doc_id": row["doc_id"],
            "anchor": row["title"],
            "positive": row["text"],
            "split": SPLITS.assign(row["doc_id"]),
        }
        for row in documents.values()
    ]
    return {
        "corpus.parquet": rows_table(documents.values(), TAGGED_DOCUMENT),
        **split_tables("pairs", pairs, PAIR_OF_DOCUMENT),
    }


def read_paragraphs(path: Path) -> Iterator[dict[str, str]]:
    """Read the paragraphs of a Debian control file: fields by name; lines that continue a field begin with a space."""
    fields: dict[str, str] = {}
    name = ""
    with lzma.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            if line == "\n":
                if fields:
                    yield fields
                fields = {}
            elif line[0] == " ":
                fields[name] += "\n" + line.strip()
            else:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
    if fields:
        yield fields


def package_document(fields: dict[str, str], description: str) -> dict[str, Any]:
    """Make a document of a package; a line of a long description that is a dot separates paragraphs."""
    title, _, text = description.partition("\n")
    words = [word for line in text.split("\n") if line != "." for word in line.split()]
    return {
        "doc_id": fields["Package"],
        "title": " ".join(title.split()),
        "text": " ".join(words),
        "category": fields.get("Section"),
        "tags": " ".join(fields["Tag"].split()) if "Tag" in fields else None,
    }


def index(path: str, size: int, unpacked_sha256: str) -> Download:
    """Describe an index of Debian 12.15, here or, once there is a newer one, in Debian's archive of snapshots."""
    return Download(
        Path(path).name,
        f"https://deb.debian.org/debian/{SUITE}/{path}",
        unpacked_sha256,
        size,
        unpacked=True,
        mirrors=(f"{SNAPSHOT}/{SUITE}/{path}",),
    )


DEBIAN = Corpus(
    name="debian",
    folder="product/debian_packages",
    task="short to long description",
    origin="https://www.debian.org/distrib/packages",
    licence="each description as its package (DFSG-free)",
    note="Debian 12.15; split by a hash of the package's name",
    downloads=(
        index(
            "binary-amd64/Packages.xz", 8_790_396, "515e692f2c4121c6fcec444ef100cc18f79a991910615f3a88c8b7becfc94d2f"
        ),
        index("i18n/Translation-en.xz", 6_107_304, "62f59c3cdca9786e4f7adf9002f9f5729a684adcb4667e58e448dec9b5a46c7f"),
    ),
    prepare=prepare,
)
