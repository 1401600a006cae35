"""WooCommerce's exports: variations belong to their product, several categories are several."""

from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.sources.woocommerce import WooCommerce, listed
from tests.support.corpora import records

HEADER = "ID,SKU,Type,Name,Short description,Description,Categories,Tags,Parent,Attribute 1 name,Attribute 1 value(s)"


def test_products_with_their_variations(tmp_path: Path):
    rows = [
        HEADER + ",In stock?",
        '11,H-R,"variation, virtual",Hoodie - Red,,,,,H,Color,Red,1',
        '10,H,variable,Hoodie,Warm and soft,,"Clothing > Tops > Hoodies, Sale","warm, soft",,Color,"Red, Blue",1',
        r"12,C,simple,Cap,<p>Light</p>,Line one\nLine two,Clothing > Caps,,,,,1",
        "13,,variation,Hoodie - Green,,,,,id:10,Color,Green,1",
        "14,,variation,Lost,,,,,id:99,,,1",
    ]
    (tmp_path / "goods.csv").write_text("\n".join(rows) + "\n")
    kinds, tally = records(WooCommerce(path="goods.csv"), tmp_path)
    assert [(row["id"], row["text"], row["category"], row["tags"]) for row in kinds["documents"]] == [
        ("10", "Hoodie. Warm and soft | Color: Red, Blue, Green", "Clothing > Tops > Hoodies", ["warm", "soft"]),
        ("12", "Cap. Light\n\nLine one\nLine two", "Clothing > Caps", []),
    ]
    assert tally.counts["rows"] == 5 and tally.counts["variants_folded"] == 2
    assert tally.examples["variation_without_product"] == ["goods.csv:6 its product 'id:99' is not in the file"]
    assert tally.unread == {"In stock?"}


def test_commas_in_lists():
    assert listed(r"Salt\, pepper > Mills, Sale") == ["Salt, pepper > Mills", "Sale"] and listed("") == []


def test_another_table_is_refused(tmp_path: Path):
    (tmp_path / "goods.csv").write_text("sku,name\n1,Mug\n")
    with pytest.raises(UserError, match="is not a product export of WooCommerce: no column 'Type'; it has sku, name"):
        WooCommerce(path="goods.csv").blocks(str(tmp_path), 0, 99)
