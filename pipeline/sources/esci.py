"""Amazon's Shopping Queries (ESCI): judgments in an examples Parquet file, products in another.

A product is known by its id and its locale: the same id is another text in another country.
"""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from pipeline.sources.parquet import cut, rows_of
from pipeline.sources.reading.mapping import Mapping, Row, string
from pipeline.sources.reading.paths import expand
from pipeline.sources.reading.record import Block, Parsed, SourceConfig, Templated, chunks
from pipeline.sources.reading.splits import Split

_EXAMPLES = Mapping(kind="rated", fields={"relevance": "esci_label", "id": "query_id"})


class Esci(SourceConfig, Templated):
    """Examples and products, as published; their `split` of train and test is kept unless `hashed`."""

    type: Literal["esci"] = "esci"
    examples: str | list[str] = Field(min_length=1, description="shopping_queries_dataset_examples.parquet")
    products: str | list[str] = Field(min_length=1, description="shopping_queries_dataset_products.parquet")
    locales: list[str] = Field(default=["us"], description="us, es, jp; an empty list takes all")
    version: Literal["small", "large"] = Field(default="large", description="small: the harder queries of task 1")
    grades: dict[str, int] = Field(default={"E": 3, "S": 2, "C": 1, "I": 0}, description="relevance of each label")
    hashed: bool = Field(default=False, description="split by hash whatever the examples say")

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

    def parse(self, block: Block) -> Iterator[Parsed]:
        """Read the rows of the block's row groups."""
        fields = {"attributes": "attributes"}
        mapping = Mapping(kind="product", html=True, template=self.template, fields=fields)
        if block.part == 0:
            mapping = _EXAMPLES.model_copy(update={"grades": self.grades})

        def take(row: tuple[int, int, Row], parsed: Parsed) -> None:
            line, order, values = row
            parsed.tally.counts["rows"] += 1
            origin: Row = {"source": self.label, "order": order}
            if self.locales and values.get("product_locale") not in self.locales:
                parsed.tally.skip("other_locale")
            elif block.part == 0 and not values.get(f"{self.version}_version", 1):
                parsed.tally.skip("other_version")
            elif block.part == 0:
                split = None if self.hashed else _split(values.get("split"))
                mapping.take(self._example(values), line, origin | {"split": split}, self.prefix, parsed)
            else:
                mapping.take(self._product(values), line, origin, self.prefix, parsed)

        return chunks(rows_of(block), take)

    def _name(self, row: Row) -> str | None:
        name = row.get("product_id")
        return name if name is None or len(self.locales) == 1 else f"{name}-{row.get('product_locale')}"

    def _example(self, row: Row) -> Row:
        return row | {"product_id": self._name(row)}

    def _product(self, row: Row) -> Row:
        text = "\n".join(
            filter(None, (string(row.get("product_description")), string(row.get("product_bullet_point"))))
        )
        attributes = {name: row.get(f"product_{name}") for name in ("brand", "color")}
        title = row.get("product_title")
        return {"id": self._name(row), "title": title, "description": text, "attributes": attributes}


def _of(paths: str | list[str], root: str) -> list[tuple[str, str]]:
    return list(expand(paths, root).items())


def _split(value: object) -> Split | None:
    splits: dict[object, Split] = {"train": "train", "dev": "dev", "validation": "dev", "test": "test"}
    return splits.get(value)
