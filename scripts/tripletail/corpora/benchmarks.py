"""Two benchmarks that are prepared as published: the STS benchmark, and a cut of DBpedia-Entity in BEIR's layout."""

import csv
from pathlib import Path

import pyarrow as pa

from .corpus import Corpus, Outputs, github

SCORED_PAIR = pa.schema({"sentence1": pa.string(), "sentence2": pa.string(), "score": pa.float32()})
STSB_COMMIT = "30de0dec4ee199b7f42351d3f1a0b19592955385"
DBPEDIA_COMMIT = "7a1376ca20a006b470e3bbb4a08b17affd380d90"


def prepare_stsb(folder: Path) -> Outputs:
    """Read pairs of sentences with their similarity from 0 to 5, splits as published."""
    return {f"sts.{split}.parquet": read_scored_pairs(folder / f"stsb-en-{split}.csv") for split in ("train", "dev")}


def read_scored_pairs(path: Path) -> pa.Table:
    """Read rows of sentence, sentence and score; the file has no header."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [
            {"sentence1": first, "sentence2": second, "score": float(score)}
            for first, second, score in csv.reader(file)
        ]
    return pa.Table.from_pylist(rows, schema=SCORED_PAIR)


def copy_beir(folder: Path) -> Outputs:
    """Leave a BEIR folder as it is; the recipe reads its layout."""
    return {
        "corpus.jsonl": folder / "corpus.jsonl",
        "queries.jsonl": folder / "queries.jsonl",
        "qrels/test.tsv": folder / "test.tsv",
    }


STSB = Corpus(
    name="stsb",
    folder="sts/stsb_en",
    task="similarity of sentences, 0 to 5",
    origin="https://github.com/PhilipMay/stsb-multi-mt",
    licence="CC BY-SA 4.0 (scores); sentences: terms by source, listed there",
    downloads=(
        github(
            "PhilipMay/stsb-multi-mt",
            STSB_COMMIT,
            "data/stsb-en-train.csv",
            "e1e84fec60bbb598735552f54a35f4949904a484750fd2cb11e2720e49f63da6",
            708_863,
        ),
        github(
            "PhilipMay/stsb-multi-mt",
            STSB_COMMIT,
            "data/stsb-en-dev.csv",
            "d29586e96558c4eb52cf5ea5d14e9c24d3bf0e44f111b017caba43a5adc33226",
            204_675,
        ),
    ),
    prepare=prepare_stsb,
)

DBPEDIA = Corpus(
    name="dbpedia",
    folder="formats/beir/dbpedia_5k",
    task="entity search, graded, BEIR layout",
    origin="https://github.com/agentset-ai/embedding-leaderboard",
    licence="CC BY-SA 3.0 (DBpedia)",
    note="5,000 documents and 50 queries of DBpedia-Entity v2; a test set, nothing trains on it",
    downloads=(
        github(
            "agentset-ai/embedding-leaderboard",
            DBPEDIA_COMMIT,
            "datasets/dbpedia/corpus.jsonl",
            "61b717c96ff548d27ad3d7fbfc2682c43daa538e3e9d0cd39d4ae9e99c1d306c",
            2_536_096,
        ),
        github(
            "agentset-ai/embedding-leaderboard",
            DBPEDIA_COMMIT,
            "datasets/dbpedia/queries.jsonl",
            "93f48e1e465351fbb8d3b5c711c08034e1277e1225553230341bad7e39f16362",
            3_617,
        ),
        github(
            "agentset-ai/embedding-leaderboard",
            DBPEDIA_COMMIT,
            "datasets/dbpedia/qrels/test.tsv",
            "e92204355209bd2c52eab3ae1b3e09819cd61f4b1f446e413a4872100519e3d0",
            179_156,
        ),
    ),
    prepare=copy_beir,
)
