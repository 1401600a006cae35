"""WANDS, Wayfair's product search judgments: tab-separated product.csv, query.csv and label.csv in one folder."""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from pipeline.core.errors import UserError
from pipeline.sources.reading import lines
from pipeline.sources.reading.labels import GradeConfig
from pipeline.sources.reading.mapping import Mapping, Row
from pipeline.sources.reading.record import Block, Parsed, SourceConfig, Templated, chunks, resolve
from pipeline.sources.reading.sample import FileSample, Settings
from pipeline.sources.reading.splits import Split
from pipeline.storage.csv_table import CsvRow, CsvTable, named_row
from pipeline.storage.files import filesystem, join


class Wands(SourceConfig, Templated, GradeConfig):
    """A folder in WANDS layout; any of its files may come from another source instead."""

    type: Literal["wands"] = "wands"
    path: str
    grades: dict[str, float] = Field(
        default={"Exact": 2, "Partial": 1, "Irrelevant": 0},
        validate_default=True,
        description="relevance of each label",
    )
    split: Split | None = Field(default=None, description="force all rows into one split")
    names: ClassVar[tuple[str, ...]] = ("product.csv", "query.csv", "label.csv")

    @classmethod
    def recognise(cls, sample: FileSample) -> list[Settings]:
        """A folder with product.csv, query.csv and label.csv."""
        return [{"path": sample.path}] if sample.format == "folder" and set(cls.names) <= set(sample.files) else []

    def inputs(self, root: str) -> dict[str, str]:
        """Return those of the three files that exist."""
        folder = resolve(root, self.path)
        fs, path = filesystem(folder)
        if not fs.isdir(path):
            raise UserError(f"source {self.path}: no such folder")
        present = [name for name in self.names if fs.exists(join(path, name))]
        if not present:
            raise UserError(f"source {self.path}: is not a WANDS folder; wanted {', '.join(self.names)}")
        return {join(self.path, name): join(folder, name) for name in present}

    def blocks(self, root: str, index: int, block_bytes: int) -> list[Block]:
        """One block a file: the published files are small."""
        files = enumerate(self.inputs(root).values())
        return [lines.single_block(path, _size(path), index, file) for file, path in files]

    def parse(self, block: Block) -> Iterator[Parsed]:
        """Read one of the three files."""
        mapping = self.mapping(block.path.rsplit("/", 1)[-1])
        table = CsvTable.open(block.path, "\t")
        names = [name.replace(" ", "_") for name in table.names]

        def take(numbered: CsvRow, parsed: Parsed) -> None:
            line, offset, cells, _ = numbered
            row = named_row(names, cells)
            parsed.tally.counts["rows"] += 1
            if isinstance(row, str):
                parsed.tally.offend(line, "unreadable_row", row)
            else:
                origin = {"source": self.label, "order": block.order(offset)}
                mapping.take(_shaped(row), line, origin, self.prefix, parsed)

        return chunks(table.rows(), take)

    def mapping(self, name: str) -> Mapping:
        """Return the mapping that reads a file's columns."""
        if name == "query.csv":
            return Mapping(kind="query", split=self.split)
        if name == "label.csv":
            return Mapping(kind="judgment", grades=self.grades, scale=self.scale, fields={"relevance": "label"})
        fields = {"title": "product_name", "category": "category_hierarchy", "attributes": "product_features"}
        settings: dict[str, Any] = {"template": self.template, "fields": fields}
        return Mapping(kind="product", separator="/", html=True, **settings)


def _shaped(row: Row) -> Row:
    """Rewrite features 'name:value|name:value' as 'name: value; ...'; without a category hierarchy, take the class."""
    features = [part.partition(":") for part in row.get("product_features", "").split("|") if part.strip(" :")]
    text = "; ".join(f"{name.strip()}: {value.strip()}" if value else name.strip() for name, _, value in features)
    return row | {
        "product_features": text,
        "category_hierarchy": row.get("category_hierarchy") or row.get("product_class", ""),
    }


def _size(path: str) -> int:
    fs, name = filesystem(path)
    return int(fs.size(name) or 0)
