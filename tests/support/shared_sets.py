"""Sources that read every one of the shared corpora."""

from pathlib import Path
from typing import Any

Source = dict[str, Any]


def _parquet(path: str, **more: Any) -> list[Source]:
    return [{"type": "parquet", "path": path, **more}]


def _labelled(folder: str, stem: str, *splits: str, **more: Any) -> list[Source]:
    """Files of labelled pairs, one a split."""
    files = [
        {"path": f"{folder}/{stem}.{split}.parquet", "kind": "labelled", "split": split, **more} for split in splits
    ]
    return [{"type": "parquet", "files": files}]


def _file(source_type: str, path: str, **more: Any) -> list[Source]:
    return [{"type": source_type, "path": f"formats/{path}", **more}]


SHARED_SETS: dict[str, list[Source]] = {
    "medquad": _parquet("qa/medquad", template="{text}", group="title"),
    "covidqa": _parquet("qa/covidqa"),
    "coffee": _parquet("qa/stackexchange_coffee"),
    "matheducators": _parquet("qa/stackexchange_matheducators"),
    "chorus": _parquet("product/chorus_icecat", corpus_split="train"),
    "debian": _parquet("product/debian_packages", tables=["pairs"]),
    "debian_corpus": _parquet("product/debian_packages", tables=["corpus"]),
    "movies": _parquet("product/movies_msrd"),
    "abt_buy": _labelled("matching/abt_buy", "pairs_labelled", "train", "dev"),
    "wdc_computers": _labelled("matching/wdc_computers", "pairs_labelled", "train", "dev"),
    "wdc_watches": _labelled("matching/wdc_watches", "pairs_labelled", "train", "dev"),
    "stsb_en": _labelled("sts/stsb_en", "sts", "train", "dev", scale=5),
    "stsb_de": _labelled("sts/stsb_de", "sts", "train", "dev", scale=5),
    "rqe": _labelled("duplicates/rqe_amia2016", "pairs_labelled", "train"),
    "posts": _file("stackexchange", "stackexchange/Posts.xml"),
    "squad": _file("squad", "squad_json/200423_covidQA.json"),
    "shopify": _file("shopify", "shopify_csv/*.csv"),
    "ditto": _file("ditto", "ditto_colval/abt_buy.valid.txt"),
    "stsb_csv": _file(
        "csv", "stsb_csv/stsb-en-dev.csv", kind="labelled", columns=["sentence1", "sentence2", "score"], scale=5
    ),
    "quepid": [
        *_parquet("product/chorus_icecat", tables=["corpus"], name="products"),
        *_file("csv", "quepid_csv/rated.csv", kind="rated"),
    ],
    "dbpedia": _file("beir", "beir/dbpedia_5k", splits={"test": "test"}),
    "amazon_meta": _file("amazon", "amazon/meta_Gift_Cards.sample150.jsonl"),
    "amazon_qa": _file("amazon", "amazon/qa_Appliances.sample150.json", holds="questions"),
    "esci": [
        {
            "type": "esci",
            "examples": "formats/converted_esci_shape/shopping_queries_dataset_examples.parquet",
            "products": "formats/converted_esci_shape/shopping_queries_dataset_products.parquet",
        }
    ],
    "wands": _file("wands", "converted_wands_shape"),
}


def recipe(name: str, shared_data: Path) -> dict[str, Any]:
    """Recipe of a build of one shared set."""
    sources = [{"name": name, **source} for source in SHARED_SETS[name]]
    return {"root": str(shared_data), "sources": sources}
