"""Product search: Chorus, an electronics catalogue with graded judgments, and MSRD, films with relevance 0 or 1."""

import csv
import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

from .corpus import (
    DOCUMENT,
    JUDGMENT,
    PAIR,
    QUERY,
    Corpus,
    Outputs,
    github,
    rows_table,
    split_tables,
)
from .splits import read_splits

MAX_ATTRIBUTE_CHARS = 600
MAX_TITLE_CHARS = 60
CHORUS_COMMIT = "96edf8b536e521be06cab910e0f6a9b25e3016fc"
MSRD_COMMIT = "77567655e8343607538e2ef203b4c0b322526d93"
CHORUS_CATALOGUE = (
    (1_558_268, "15b622a11a6267aa0c450919a84b0fc41d7748db552f4c9c0e04167bbc7c38cb"),
    (1_643_302, "17d95160289440d03ca50af65c1363d9edd1d5e82678ddb874b27aeac1f87c33"),
    (1_662_955, "d4d088908fa648da7e79682872a77771ba42f065b253c4fb0f333e630d94f45a"),
    (1_422_844, "533329e5173eac349ce61512fc86a352d5f6651e31694e03aa6e8428cbeaf3c0"),
)


def prepare_chorus(folder: Path) -> Outputs:
    """Make documents of the products, queries with their judgments, and pairs of titles with descriptions."""
    documents = [product_document(product) for product in read_catalogue(folder)]
    with (folder / "rated.csv").open(encoding="utf-8-sig", newline="") as file:
        ratings = list(csv.DictReader(file))
    texts = sorted({rating["query"] for rating in ratings})
    splits = read_splits("chorus")
    queries = {
        text: {"query_id": f"q{number:03d}", "text": text, "split": splits.get(number, "train")}
        for number, text in enumerate(texts)
    }
    judgments = [
        queries[rating["query"]] | {"doc_id": rating["docid"], "relevance": int(rating["rating"])} for rating in ratings
    ]
    return {
        "corpus.parquet": rows_table(documents, DOCUMENT),
        **split_tables("queries", queries.values(), QUERY),
        **split_tables("qrels", judgments, JUDGMENT),
        "pairs.train.parquet": rows_table(title_pairs(documents), PAIR),
    }


def read_catalogue(folder: Path) -> list[dict[str, Any]]:
    """Read the products of the four archives."""
    products: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.json.zip")):
        with zipfile.ZipFile(path) as archive:
            products += json.loads(archive.read(archive.namelist()[0]))
    return products


def product_document(product: dict[str, Any]) -> dict[str, Any]:
    """Make a document of a product: its short description and its attributes that are text."""
    attributes = "; ".join(
        f"{name.removeprefix('attr_t_').strip('_').replace('_', ' ')}: {value}"
        for name, value in product.items()
        if name.startswith("attr_t_")
    )[:MAX_ATTRIBUTE_CHARS]
    description = product.get("short_description") or ""
    text = f"{description} | {attributes}" if attributes else description
    return {
        "doc_id": product["id"],
        "title": product["title"],
        "text": " ".join(text.split()),
        "category": product.get("attr_t_product_type") or product["supplier"],
    }


def title_pairs(documents: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Pair titles with texts that say more than a title does."""
    return [
        {"anchor": row["title"], "positive": row["text"]} for row in documents if len(row["text"]) > MAX_TITLE_CHARS
    ]


def prepare_movies(folder: Path) -> Outputs:
    """Make documents of films, their overviews as texts, and of queries with the candidates that were judged."""
    with gzip.open(folder / "movies-corpus.jsonl.gz", "rt", encoding="utf-8") as file:
        films = [json.loads(line) for line in file]
    documents = [
        {
            "doc_id": film["id"],
            "title": " ".join(film["title"].split()),
            "text": " ".join(film["overview"].split()),
            "category": None,
        }
        for film in films
    ]
    lines = gzip.decompress((folder / "movies-judgments.tsv.gz").read_bytes()).decode()
    splits = read_splits("movies")
    queries: dict[str, dict[str, Any]] = {}
    film_ids = {row["doc_id"] for row in documents}
    judgments = []
    for row in csv.DictReader(io.StringIO(lines), delimiter="\t", quoting=csv.QUOTE_NONE):
        number = len(queries)
        query = queries.setdefault(
            row["query"],
            {"query_id": f"q{number:05d}", "text": row["query"], "split": splits.get(number, "train")},
        )
        if row["doc_id"] in film_ids:
            judgments.append(query | {"doc_id": row["doc_id"], "relevance": int(row["grade"])})
    return {
        "corpus.parquet": rows_table(documents, DOCUMENT),
        **split_tables("queries", queries.values(), QUERY),
        **split_tables("qrels", judgments, JUDGMENT),
    }


CHORUS = Corpus(
    name="chorus",
    folder="product/chorus_icecat",
    task="product search, graded",
    origin="https://github.com/querqy/chorus",
    licence="Apache-2.0 (judgments), Icecat Open Content License (products)",
    downloads=(
        *(
            github("querqy/chorus", CHORUS_COMMIT, f"data-encoder/ecommerce/vectors/data/{n}.json.zip", sha256, size)
            for n, (size, sha256) in enumerate(CHORUS_CATALOGUE, 1)
        ),
        github(
            "querqy/chorus",
            CHORUS_COMMIT,
            "katas/Broad_Query_Set_rated.csv",
            "065b79c6c19b9ea8fa2dc2b0b8dae3f40c6389454a1f26aac3d3f8a7d43731b2",
            75_875,
            name="rated.csv",
        ),
    ),
    prepare=prepare_chorus,
)

MOVIES = Corpus(
    name="movies",
    folder="product/movies_msrd",
    task="film search, relevance 0 or 1",
    origin="https://github.com/elastic/elasticsearch-labs",
    licence="CC BY 4.0",
    note="adapted there from metarank/msrd; most zeros are candidates that nobody looked at",
    downloads=(
        github(
            "elastic/elasticsearch-labs",
            MSRD_COMMIT,
            "notebooks/search/sample_data/learning-to-rank/movies-corpus.jsonl.gz",
            "e7dbd5a64fd4ec15d9224795eda8d833fa12da871620ea661a36cca6eefabb00",
            3_630_092,
        ),
        github(
            "elastic/elasticsearch-labs",
            MSRD_COMMIT,
            "notebooks/search/sample_data/learning-to-rank/movies-judgments.tsv.gz",
            "38f64a511f48192fb2eeea02b54ca0420876a611072e57c1ab773adddc84ce3e",
            2_233_169,
        ),
    ),
    prepare=prepare_movies,
)
