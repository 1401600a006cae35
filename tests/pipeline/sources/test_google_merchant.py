"""Google Merchant feeds in XML and as a table give the same products."""

from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.sources.google_merchant import GoogleMerchant
from tests.support.corpora import records

RSS = """<?xml version="1.0"?>
<rss xmlns:g="http://base.google.com/ns/1.0" version="2.0"><channel><title>Shop</title>
<item><g:id>M-R</g:id><g:title>Mug</g:title><g:description>&lt;p&gt;Holds tea&lt;/p&gt;</g:description>
<g:product_type>Home &gt; Mugs</g:product_type><g:product_type>Sale</g:product_type>
<g:google_product_category>2169</g:google_product_category><g:brand>Acme</g:brand><g:color>Red</g:color>
<g:item_group_id>M</g:item_group_id><g:price>9 EUR</g:price>
<g:product_detail><g:section_name>General</g:section_name><g:attribute_name>Volume</g:attribute_name>
<g:attribute_value>0.3 l</g:attribute_value></g:product_detail></item>
<item><g:id>C</g:id><g:title>Cap</g:title><g:google_product_category>173</g:google_product_category></item>
<item></item>
</channel></rss>
"""
TABLE = (
    "id\ttitle\tdescription\tproduct type\tgoogle product category\tbrand\tcolor\titem group id\tprice"
    "\tproduct_detail\n"
    "M-R\tMug\t<p>Holds tea</p>\tHome > Mugs\t2169\tAcme\tRed\tM\t9 EUR\tGeneral:Volume:0.3 l\n"
    "C\tCap\t\t\t173\t\t\t\t\t\n"
)
PRODUCTS = [
    ("M-R", "Mug. Holds tea | brand: Acme; color: Red; Volume: 0.3 l", "Home > Mugs", "M"),
    ("C", "Cap", None, None),
]


UNDECLARED = RSS.replace(' xmlns:g="http://base.google.com/ns/1.0"', "")


@pytest.mark.parametrize(("text", "empty"), [(RSS, 1), (TABLE, 0)])
def test_feeds(text: str, empty: int, tmp_path: Path):
    (tmp_path / "feed").write_text(text)
    kinds, tally = records(GoogleMerchant(path="feed"), tmp_path)
    assert [(row["id"], row["text"], row["category"], row["group"]) for row in kinds["documents"]] == PRODUCTS
    assert tally.unused.total() == empty and tally.counts["rows"] == 2 + empty and tally.unread == {"price"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sku,name\n1,Mug\n", "source feed: is no Google Merchant feed: neither XML"),
        ("<rss><item>", "not readable as XML"),
        (UNDECLARED, "not readable as XML"),
    ],
)
def test_refusals(text: str, message: str, tmp_path: Path):
    (tmp_path / "feed").write_text(text)
    with pytest.raises(UserError, match=message):
        records(GoogleMerchant(path="feed"), tmp_path)
