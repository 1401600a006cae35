"""Exports of shops and training data with negatives, from the file to the tables, row by row."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import UserError
from pipeline.storage.artifact import Artifact
from tests.support.corpora import build, inline, table, write_jsonl

__all__ = ["inline"]
TRAIN = {"train": 1, "dev": 0, "test": 0}


def read(tmp_path: Path, *sources: dict[str, Any], **more: Any) -> Artifact:
    recipe = {"root": str(tmp_path), "sources": list(sources), "split": TRAIN, "overwrite": True, **more}
    return build(recipe, tmp_path / "run")


def corpus(artifact: Artifact, *columns: str) -> list[tuple[Any, ...]]:
    return sorted(tuple(row[name] for name in columns) for row in table(artifact, "corpus"))


def test_negatives_that_rows_bring_along(inline: None, tmp_path: Path):
    lines: dict[str, dict[str, Any]] = {
        "flag": {"query": "red shoe", "pos": ["Scarlet sneaker", "Red trainer"], "neg": ["Felt hat", "Scarf"]},
        "tuples": {"anchor": "small table", "positive": "Side table", "negative_1": "Chair", "negative_2": "Cloth"},
        "tevatron": {"query_id": "7", "query": "warm socks"},
        "list": {"query": "tea mug", "docs": ["Mug for tea", "Beer glass"], "labels": [1, 0]},
    }
    lines["flag"] |= {"pos_scores": [9.1, 8.8], "neg_scores": [1.2, -3.0]}
    lines["tevatron"]["positive_passages"] = [{"docid": "77", "title": "Wool socks", "text": "Thick wool."}]
    lines["tevatron"]["negative_passages"] = [{"docid": "78", "title": "Belt", "text": "Leather."}]
    for name, row in lines.items():
        write_jsonl(tmp_path / f"{name}.jsonl", [row])
    artifact = read(tmp_path, *({"type": "jsonl", "path": f"{n}.jsonl", "kind": "pair", "name": n} for n in lines))
    found = {
        (row["anchor"], row["positive"], tuple(n["text"] for n in row["negatives"])): (
            [None if n["score"] is None else round(n["score"], 1) for n in row["negatives"]],
            {n["reason"] for n in row["negatives"]},
        )
        for row in table(artifact, "triplets")
    }
    assert found == {
        ("red shoe", "Scarlet sneaker", ("Felt hat", "Scarf")): ([1.2, -3.0], {"given"}),
        ("red shoe", "Red trainer", ("Felt hat", "Scarf")): ([1.2, -3.0], {"given"}),
        ("small table", "Side table", ("Chair", "Cloth")): ([None, None], {"given"}),
        ("warm socks", "Wool socks. Thick wool.", ("Belt. Leather.",)): ([None], {"given"}),
        ("tea mug", "Mug for tea", ("Beer glass",)): ([None], {"given"}),
    }
    assert {"77", "78"} <= {row["doc_id"] for row in table(artifact, "corpus")}


def test_amazons_metadata_of_2023_with_judgments(inline: None, tmp_path: Path):
    rows = [
        {"title": "Comb", "features": [f"Of {what}"], "description": [], "store": store, "categories": path}
        | {"details": {}, "parent_asin": f"B{number}"}
        for number, (what, store, path) in enumerate(
            [("wood", "Kam", ["Beauty", "Hair", "Combs"]), ("steel", "Lo", [])]
        )
    ]
    write_jsonl(tmp_path / "meta.jsonl", rows)
    (tmp_path / "judged.csv").write_text("query,product_id,relevance\nwooden comb,B0,3\nsteel comb,B1,2\n")
    artifact = read(
        tmp_path, {"type": "amazon", "path": "meta.jsonl"}, {"type": "csv", "path": "judged.csv", "kind": "rated"}
    )
    assert corpus(artifact, "doc_id", "text", "category") == [
        ("B0", "Comb. Of wood | store: Kam", "Beauty > Hair > Combs"),
        ("B1", "Comb. Of steel | store: Lo", None),
    ]
    assert sorted((row["anchor"], row["positive_id"], row["relevance"]) for row in table(artifact, "pairs")) == [
        ("steel comb", "B1", 2),
        ("wooden comb", "B0", 3),
    ]


def test_shopify_cut_inside_a_product(inline: None, tmp_path: Path):
    head = "Handle,Title,Body (HTML),Vendor,Type,Tags,Option1 Name,Option1 Value,Variant SKU\n"
    (tmp_path / "old1.csv").write_text(
        head + "pot,Pot,<p>Holds soil</p>,Acme,Garden,soil,Color,Red,B1\n"
        "vase,Vase,<p>Holds roses</p>,Acme,Garden,rose,Color,White,B2\npot,,,,,,,Blue,B3\nvase,,,,,,,Black,B4\n"
    )
    (tmp_path / "old2.csv").write_text(head + "pot,,,,,,,Green,B5\nlamp,Lamp,,Acme,Home,,Title,Default Title,B6\n")
    artifact = read(tmp_path, {"type": "shopify", "path": "old*.csv"})
    assert corpus(artifact, "doc_id", "text") == [
        ("lamp", "Lamp. vendor: Acme"),
        ("pot", "Pot. Holds soil | vendor: Acme; Color: Red, Blue, Green"),
        ("vase", "Vase. Holds roses | vendor: Acme; Color: White, Black"),
    ]
    assert not artifact.manifest.dropped and artifact.manifest.notes["unread_columns"] == {"shopify": ["Variant SKU"]}
    with pytest.raises(UserError, match=r"has the columns of a product export, .*`type: shopify`"):
        read(tmp_path, {"type": "csv", "path": "old1.csv", "kind": "product"})


def test_offers_of_one_product_are_no_negatives_of_each_other(inline: None, tmp_path: Path):
    place = ["Shoes > Men", "Shoes > Women"]
    rows = [
        {"id": f"o{n}", "title": f"Runner P{n // 2}", "description": f"Size {n}", "category": place[n % 2]}
        | {"item_group_id": f"P{n // 2}"}
        for n in range(6)
    ]
    write_jsonl(tmp_path / "offers.jsonl", rows)
    source = {"type": "jsonl", "path": "offers.jsonl", "kind": "product", "fields": {"group": "item_group_id"}}
    artifact = read(tmp_path, source, pairs={"similar": {"by": ["group"]}})
    group = {row["id"]: row["item_group_id"] for row in rows}
    triplets = table(artifact, "triplets")
    assert triplets and {row["group_id"] for row in triplets} <= set(group.values())
    for row in triplets:
        own = {group[row["anchor_id"]], group[row["positive_id"]]}
        assert not own & {group[negative["doc_id"]] for negative in row["negatives"]}
    found = {(row["anchor_id"].removeprefix("t-"), row["positive_id"]) for row in table(artifact, "pairs")}
    assert found == {(a, b) for a in group for b in group if a != b and group[a] == group[b]}


WOO = """ID,SKU,Type,Name,Short description,Description,Categories,Tags,Parent
10,H,variable,Hoodie,Warm and soft,,"Clothing > Tops > Hoodies, Sale","warm, soft",
11,H-R,variation,Hoodie - Red,,,,,H
12,C,simple,Cap,,Line one\\nLine two,Clothing > Caps,,
"""


def test_woocommerce_and_a_table_with_two_columns_for_one_thing(inline: None, tmp_path: Path):
    (tmp_path / "goods.csv").write_text(WOO)
    (tmp_path / "mixed.csv").write_text(
        "id,sku,title,name,description,text\n,S1,,Red mug,,Holds tea\n2,S2,Blue cup,,Nice cup,\n"
    )
    mixed = {"type": "csv", "path": "mixed.csv", "kind": "product", "name": "mixed", "prefix": "m-"}
    with pytest.raises(UserError, match=r"source goods.csv: has the columns of a product export, .*woocommerce`"):
        read(tmp_path, {"type": "csv", "path": "goods.csv", "kind": "product"}, mixed)
    artifact = read(tmp_path, {"type": "woocommerce", "path": "goods.csv"}, mixed)
    assert corpus(artifact, "doc_id", "text", "category", "tags") == [
        ("10", "Hoodie. Warm and soft", "Clothing > Tops > Hoodies", ["warm", "soft"]),
        ("12", "Cap. Line one Line two", "Clothing > Caps", []),
        ("m-2", "Blue cup. Nice cup", None, []),
        ("m-S1", "Red mug. Holds tea", None, []),
    ]
    fields = {"title": "Name", "text": "Description", "id": "ID", "category": "Categories"}
    plain = read(tmp_path, {"type": "csv", "path": "goods.csv", "kind": "product", "fields": fields})
    assert corpus(plain, "doc_id", "category") == [
        ("10", "Clothing > Tops > Hoodies"),
        ("11", None),
        ("12", "Clothing > Caps"),
    ]


def test_categories_as_shops_write_them(inline: None, tmp_path: Path):
    rows: list[dict[str, Any]] = [
        {"title": "Mug", "categories": [["Home", "Kitchen"], ["Gifts"]]},
        {"title": "Cup", "categories": '["Home >> Kitchen"]'},
        {"title": "Pan", "categories": ["Home > Kitchen", "Sale"]},
        {"title": "Pot", "categories": {"lvl0": "Home", "lvl1": "Home > Kitchen"}},
        {"title": "Box", "categories": "Home > Kitchen, Sale"},
        {"title": "Lid", "category": {"id": 3, "name": "Kitchen"}, "tags": '["tea", "red"]'},
        {"title": "Tub", "category": [{"id": 3, "name": "Kitchen"}], "tags": "['tea', 'red']"},
    ]
    write_jsonl(tmp_path / "cat.jsonl", [{"id": str(n), **row} for n, row in enumerate(rows)])
    artifact = read(tmp_path, {"type": "jsonl", "path": "cat.jsonl", "kind": "product"})
    assert corpus(artifact, "doc_id", "category", "tags") == [
        *[(str(n), "Home > Kitchen", []) for n in range(5)],
        ("5", None, ["tea", "red"]),
        ("6", None, ["tea", "red"]),
    ]
    assert artifact.manifest.notes["counts"]["category_not_read"] == 2
    assert "`fields: {category: category.name}`" in artifact.manifest.notes["examples"]["category_not_read"][0]
    inner = {"type": "jsonl", "path": "cat.jsonl", "kind": "product", "fields": {"category": "category.name"}}
    assert corpus(read(tmp_path, inner), "doc_id", "category")[5:] == [("5", "Kitchen"), ("6", "Kitchen")]
