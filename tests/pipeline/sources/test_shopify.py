"""Shopify's exports and templates: the rows of a handle are one product wherever they stand in the source."""

from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.sources.shopify import Shopify
from tests.support.corpora import records

OLD = "Handle,Title,Body (HTML),Vendor,Type,Tags,Option1 Name,Option1 Value,Variant SKU\n"
NEW = (
    "Title,URL handle,Description,Vendor,Product category,Type,Tags,Published on online store,Status,SKU,"
    "Option1 name,Option1 value\n"
)


def documents(root: Path) -> list[tuple[str, str, str | None]]:
    kinds, _ = records(Shopify(path="*.csv"), root)
    return [(row["id"], row["text"], row["category"]) for row in kinds["documents"]]


def test_columns_of_the_template_since_2025(tmp_path: Path):
    (tmp_path / "new.csv").write_text(
        NEW + 'Clay mug,clay-mug,<p>Holds tea</p>,Acme,Home & Garden > Mugs,Mug,"tea, clay",TRUE,active,A1,Color,Red\n'
        ",clay-mug,,,,,,,,A2,Color,Blue\n"
    )
    kinds, tally = records(Shopify(path="new.csv"), tmp_path)
    assert [(row["id"], row["text"], row["category"], row["tags"]) for row in kinds["documents"]] == [
        ("clay-mug", "Clay mug. Holds tea | vendor: Acme; Color: Red, Blue", "Home & Garden > Mugs", ["tea", "clay"])
    ]
    assert tally.counts == {"rows": 2, "variants_folded": 1, "html_removed": 1} and not tally.dropped
    assert tally.unread == {"Published on online store", "Status", "SKU"}


def test_rows_of_a_handle_anywhere_in_the_source(tmp_path: Path):
    (tmp_path / "old1.csv").write_text(
        OLD + "lamp,,,,,,,Tall,B0\npot,Pot,Holds soil,Acme,Garden,soil,Color,Red,B1\n"
        "vase,Vase,Holds roses,Acme,Garden,rose,Color,White,B2\npot,,,,,,,Blue,B3\nvase,,,,,,,Black,B4\n"
    )
    (tmp_path / "old2.csv").write_text(
        OLD + "pot,,,,,,,Green,B5\nlamp,Lamp,,Acme,Home,,Height,Low,B6\norphan,,,,,,,Red,B7\n"
    )
    kinds, tally = records(Shopify(path="*.csv"), tmp_path)
    assert [(row["id"], row["text"], row["category"]) for row in kinds["documents"]] == [
        ("pot", "Pot. Holds soil | vendor: Acme; Color: Red, Blue, Green", "Garden"),
        ("vase", "Vase. Holds roses | vendor: Acme; Color: White, Black", "Garden"),
        ("lamp", "Lamp. vendor: Acme; Height: Tall, Low", "Home"),
    ]
    assert tally.counts == {"rows": 8, "variants_folded": 4}
    assert tally.examples["missing_field"] == ["old2.csv:4 no row of handle 'orphan' has a Title"]
    assert len({row["order"] for row in kinds["documents"]}) == 3


def test_a_product_exported_twice_is_one_and_another_under_its_handle_is_not_folded(tmp_path: Path):
    (tmp_path / "a.csv").write_text(OLD + "pot,Pot,Holds soil,,,,Color,Red,B1\n")
    (tmp_path / "b.csv").write_text(OLD + "pot,Pot,Holds soil,,,,Color,Blue,B1\n")
    assert documents(tmp_path) == [("pot", "Pot. Holds soil | Color: Red, Blue", None)]
    (tmp_path / "b.csv").write_text(OLD + "pot,Cup,Holds tea,,,,Color,Blue,B1\n")
    assert [row[:2] for row in documents(tmp_path)] == [
        ("pot", "Pot. Holds soil | Color: Red, Blue"),
        ("pot", "Cup. Holds tea | Color: Red, Blue"),
    ]


def test_another_table_is_refused(tmp_path: Path):
    (tmp_path / "goods.csv").write_text("sku,name\n1,Mug\n")
    with pytest.raises(UserError) as raised:
        Shopify(path="goods.csv").blocks(str(tmp_path), 0, 99)
    assert str(raised.value) == (
        "source goods.csv: is not a product export of Shopify: no column 'Handle' or 'URL handle'; it has sku, name"
    )
