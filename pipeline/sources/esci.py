"""Amazon's Shopping Queries (ESCI): judgments in an examples Parquet file, products in another.

A product is known by its id and its locale: the same id is another text in another country.
"""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from pipeline.sources.parquet import cut, rows_of
from pipeline.sources.reading.labels import LabelConfig
from pipeline.sources.reading.mapping import Mapping, Row
from pipeline.sources.reading.paths import expand
from pipeline.sources.reading.record import Block, Parsed, SourceConfig, Templated, chunks
from pipeline.sources.reading.sample import FileSample, Settings
from pipeline.sources.reading.values import text

_EXAMPLE = ("query", "query_id", "esci_label", "split")


class Esci(SourceConfig, Templated, LabelConfig):
    """Examples and products, as published; their `split` of train and test is kept unless `hashed`."""

    type: Literal["esci"] = "esci"
    examples: str | list[str] = Field(min_length=1, description="shopping_queries_dataset_examples.parquet")
    products: str | list[str] = Field(min_length=1, description="shopping_queries_dataset_products.parquet")
    locales: list[str] = Field(default=["us"], description="us, es, jp; an empty list takes all")
    version: Literal["small", "large"] = Field(default="large", description="small: the harder queries of task 1")
    grades: dict[str, float] = Field(
        default={"E": 3, "S": 2, "C": 1, "I": 0}, validate_default=True, description="relevance of each label"
    )
    hashed: bool = Field(default=False, description="split by hash whatever the examples say")

    @classmethod
    def recognise(cls, sample: FileSample) -> list[Settings]:
        """A folder with the two published Parquet files."""
        names = {part: f"shopping_queries_dataset_{part}.parquet" for part in ("examples", "products")}
        if sample.format != "folder" or not set(names.values()) <= set(sample.files):
            return []
        return [{part: f"{sample.path}/{name}" for part, name in names.items()}]

    def inputs(self, root: str) -> dict[str, str]:
        """Return the files."""
        return {**expand(self.examples, root), **expand(self.products, root)}

    def blocks(self, root: str, index: int, block_bytes: int) -> list[Block]:
        """Cut into runs of row groups."""
        files = [
            (part, *file) for part, paths in enumerate((self.examples, self.products)) for file in _of(paths, root)
        ]
        blocks: list[Block] = []
        for file, (part, display, path) in enumerate(files):
            blocks += cut(path, display, Block(index, file, path, part=part), block_bytes)[1]
        return blocks

    def locate(self, path: str, offset: int) -> str:
        """Name a row by its number."""
        return f"{path} row {offset}"

    def parse(self, block: Block) -> Iterator[Parsed]:
        """Read the rows of the block's row groups."""
        mapping = self._examples() if block.part == 0 else Mapping(kind="product", html=True, template=self.template)

        def take(row: tuple[int, int, Row], parsed: Parsed) -> None:
            line, order, values = row
            parsed.tally.counts["rows"] += 1
            origin: Row = {"source": self.label, "order": order}
            if self.locales and values.get("product_locale") not in self.locales:
                parsed.tally.skip("other_locale")
            elif block.part == 0 and not values.get(f"{self.version}_version", 1):
                parsed.tally.skip("other_version")
            else:
                row_of = self._example if block.part == 0 else self._product
                mapping.take(row_of(values), line, origin, self.prefix, parsed)

        return chunks(rows_of(block), take)

    def _examples(self) -> Mapping:
        fields = {"relevance": "esci_label", "id": "query_id", **({} if self.hashed else {"split": "split"})}
        labels = {"grades": self.grades, "scale": self.scale, "splits": self.splits}
        return Mapping.model_validate({"kind": "rated", "fields": fields, **labels})

    def _name(self, row: Row) -> str | None:
        name = row.get("product_id")
        return name if name is None or len(self.locales) == 1 else f"{name}-{row.get('product_locale')}"

    def _example(self, row: Row) -> Row:
        return {name: row.get(name) for name in _EXAMPLE} | {"product_id": self._name(row)}

    def _product(self, row: Row) -> Row:
        parts = (text(row.get(name), name) for name in ("product_description", "product_bullet_point"))
        attributes = {name: row.get(f"product_{name}") for name in ("brand", "color")}
        title = row.get("product_title")
        described = {"title": title, "description": "\n".join(filter(None, parts))}
        return {"id": self._name(row), **described, "attributes": attributes}


def _of(paths: str | list[str], root: str) -> list[tuple[str, str]]:
    return list(expand(paths, root).items())
