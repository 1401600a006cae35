"""What benchmarks share: the sets that they read, medians of jobs that are measured in turns, and files of results.

In turns, other load on the machine slows all of them alike.
"""

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SETS = {
    "movies_msrd": "product/movies_msrd",
    "debian_packages": "product/debian_packages",
    "covidqa": "qa/covidqa",
    "medquad": "qa/medquad",
}


def medians(repeats: int, jobs: Sequence[Callable[[], dict[str, float]]]) -> list[dict[str, float]]:
    """Run all jobs, one after the other, `repeats` times, and return the median of each figure, by job."""
    turns = [[job() for job in jobs] for _ in range(repeats)]
    return [
        {key: statistics.median(turn[number][key] for turn in turns) for key in turns[0][number]}
        for number in range(len(jobs))
    ]


def update_rows(target: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows of results into a JSON file, in place of those of the same names; others that it holds stay."""
    target.parent.mkdir(parents=True, exist_ok=True)
    earlier = json.loads(target.read_text(encoding="utf-8")) if target.exists() else []
    names = {row["name"] for row in rows}
    kept = [row for row in earlier if row["name"] not in names]
    target.write_text(json.dumps([*kept, *rows], indent=2) + "\n", encoding="utf-8")


def read_text_pairs(data: str, name: str) -> list[tuple[str, str]]:
    """Training pairs (query, relevant document) of one of `SETS` below the folder of the corpora, in file order."""
    import pyarrow.parquet as pq

    folder = Path(data) / SETS[name]
    if (folder / "pairs.train.parquet").exists():
        table = pq.read_table(folder / "pairs.train.parquet")
        return list(zip(table["anchor"].to_pylist(), table["positive"].to_pylist(), strict=True))
    queries, corpus, qrels = (
        pq.read_table(folder / f"{part}.parquet").to_pylist() for part in ("queries.train", "corpus", "qrels.train")
    )
    texts = {row["query_id"]: row["text"] for row in queries}
    documents = {row["doc_id"]: f"{row['title'] or ''} {row['text']}".strip() for row in corpus}
    return [(texts[row["query_id"]], documents[row["doc_id"]]) for row in qrels if row["relevance"] > 0]
