"""Amazon's product metadata of 2023, and questions as AmazonQA gives them."""

import json
from pathlib import Path

from pipeline.sources.amazon import Amazon
from tests.support.corpora import records, write_jsonl

BALM = {
    "main_category": "All Beauty",
    "title": "Leather balm",
    "average_rating": 4.8,
    "features": ["Softens leather", "Eight ounces"],
    "description": ["A balm for bags."],
    "price": None,
    "images": [],
    "store": "Howler",
    "categories": ["Health & Household", "Household Supplies", "Leather Care"],
    "details": {"Material": "Wax", "Is Discontinued": "No"},
    "parent_asin": "B0AAA00001",
    "bought_together": None,
}


def test_metadata_of_2023(tmp_path: Path):
    combs = [
        {"title": "Comb", "features": [f"Of {m}"], "description": [], "store": s, "categories": c, "parent_asin": a}
        for m, s, c, a in [("wood", "Kam", ["Beauty", "Combs"], "B2"), ("steel", "Lo", [], "B3")]
    ]
    combs[1]["details"] = json.dumps({"Colour": "grey"})  # as the Hub's copy of the data set has it
    write_jsonl(tmp_path / "meta.jsonl", [BALM, *combs, {"title": "No id", "features": []}])
    kinds, tally = records(Amazon(path="meta.jsonl"), tmp_path)
    assert [(row["id"], row["text"], row["category"]) for row in kinds["documents"]] == [
        (
            "B0AAA00001",
            "Leather balm. A balm for bags.\nSoftens leather Eight ounces | "
            "store: Howler; Material: Wax; Is Discontinued: No",
            "Health & Household > Household Supplies > Leather Care",
        ),
        ("B2", "Comb. Of wood | store: Kam", "Beauty > Combs"),
        ("B3", "Comb. Of steel | store: Lo; Colour: grey", None),
    ]
    assert dict(tally.unused) == {"unreadable_row": 1}
    assert tally.examples["unreadable_row"] == [
        "meta.jsonl:4 no field 'parent_asin' or 'asin' for id; it has title, features"
    ]
    assert tally.unread == {"main_category", "average_rating", "price", "images", "bought_together"}


def test_a_variant_belongs_to_the_group_of_its_parent(tmp_path: Path):
    write_jsonl(tmp_path / "meta.jsonl", [{"title": "Mug", "asin": "B1", "parent_asin": "P"}])
    kinds, _ = records(Amazon(path="meta.jsonl"), tmp_path)
    assert [(row["id"], row["group"]) for row in kinds["documents"]] == [("B1", "P")]


def test_amazonqa(tmp_path: Path):
    answers = [
        {"answerText": "Yes, it fits.", "answerType": "Y", "helpful": [1, 1]},
        {"answerText": "It did for me.", "answerType": "?", "helpful": [0, 0]},
    ]
    row = {"asin": "B1", "category": "Tools", "questionText": "Does it fit?", "questionType": "yesno"}
    row |= {"review_snippets": ["Fits well.", "Nice."], "answers": answers, "is_answerable": 1, "qid": 7}
    empty = {**row, "questionText": "Is it red?", "answers": []}
    write_jsonl(tmp_path / "train-qar.jsonl", [row, empty])
    kinds, tally = records(Amazon(path="train-qar.jsonl", holds="questions"), tmp_path)
    assert [(query["text"], query["group"]) for query in kinds["queries"]] == [("Does it fit?", "B1")]
    assert [document["text"] for document in kinds["documents"]] == ["Yes, it fits.", "It did for me."]
    assert [judgment["relevance"] for judgment in kinds["judgments"]] == [1, 1]
    assert tally.counts["rows"] == 2 and tally.unused.total() == 1
    assert {"review_snippets", "is_answerable", "questionType"} <= tally.unread
