"""Mine the generator's planted truth with the jobs: `python -m scripts.drills.planted_truth FOLDER [--rows N]`.

Rows with planted copies, false and hard negatives are built (near duplicates clustered), mined with BM25 beside the
vectors, and several rules are compared with the truth: what share of the planted hard negatives is among the candidates
and kept, and what share of the planted false ones is kept. Prints a table on stderr and the recommended rule's figures
as JSON on stdout.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.building.config import BuildConfig
from pipeline.building.job import run as build
from pipeline.core.config import validate
from pipeline.core.progress import say
from pipeline.mining.candidate_arrays import as_array, list_positions
from pipeline.mining.config import MineConfig
from pipeline.mining.job import run as run_mining
from pipeline.mining.selection import select_from_table
from pipeline.mining.threshold_rule import ThresholdRule
from pipeline.storage.artifact import Artifact

RULES = {
    "none": {"max_percentage": None},
    "default": {},
    "default and words": {"max_lexical_percentage": 0.95},
    "words": {"max_percentage": None, "max_lexical_percentage": 0.95},
}
RECOMMENDED = "default and words"


def build_and_mine(folder: Path, options: argparse.Namespace) -> tuple[Artifact, Artifact]:
    """Generate rows with planted truth, build and mine them."""
    command = [sys.executable, "-m", "scripts.synthesize", str(folder / "planted"), "--rows", str(options.rows)]
    subprocess.run(
        [*command, "--format", "jsonl", "--false-negatives", "0.1", "--hard-negatives", "0.1"],
        check=True,
    )
    source = {"type": "jsonl", "kind": "qa", "name": "planted", "path": str(folder / "planted" / "rows" / "*.jsonl")}
    run = {"run": str(folder / "run")}
    data = build(validate(BuildConfig, run | {"sources": [source], "near_duplicates": {"threshold": 0.7}}))
    settings = {"encoder": {"layers": options.layers}, "lexical": {}, "top_k": options.top_k}
    return data, run_mining(validate(MineConfig, run | settings))


def planted(folder: Path, data: Artifact, mined: set[str]) -> dict[str, set[tuple[str, str]]]:
    """Planted (question id, document id) by kind, of the questions that were mined for."""
    qrels = data.read("qrels", ["query_id", "doc_id"]).to_pylist()
    document = {row["query_id"]: row["doc_id"] for row in qrels}
    truth: dict[str, set[tuple[str, str]]] = {"hard_negative": set(), "false_negative": set()}
    for file in sorted((folder / "planted" / "truth").glob("*.parquet")):
        for row in pq.read_table(file).to_pylist():
            query_id, doc_id = f"r{row['of']}", document.get(f"r{row['row']}")
            if row["kind"] in truth and query_id in mined and doc_id and doc_id != document.get(query_id):
                truth[row["kind"]].add((query_id, doc_id))
    return truth


def shares_of_truth(negatives: Artifact, truth: dict[str, set[tuple[str, str]]]) -> dict[str, dict[str, float]]:
    """Share of each kind among the candidates, and among what each rule selects."""
    seen: dict[str, set[tuple[str, str]]] = {name: set() for name in ("candidates", *RULES)}
    for file in negatives.files("candidates"):
        table = pq.read_table(file)
        column = as_array(table["candidates"])
        row, column_index, _ = list_positions(column)
        query_ids = table["anchor_id"].to_pylist()
        pairs = list(zip([query_ids[at] for at in row], column.flatten().field("doc_id").to_pylist(), strict=True))
        selected = {
            name: select_from_table(table, ThresholdRule.model_validate(rule))[0].selected[row, column_index]
            for name, rule in RULES.items()
        }
        seen["candidates"].update(pairs)
        for name, hit in selected.items():
            seen[name].update(pair for pair, is_selected in zip(pairs, hit, strict=True) if is_selected)
    return {
        name: {kind: len(true_pairs & pairs_of_rule) / max(1, len(true_pairs)) for kind, true_pairs in truth.items()}
        for name, pairs_of_rule in seen.items()
    }


def main() -> None:
    """Compare what each rule selects with the planted truth."""
    parser = argparse.ArgumentParser("python -m scripts.drills.planted_truth", description=__doc__)
    parser.add_argument("folder", help="a new directory for rows, data and negatives")
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--layers", type=int, help="keep only the first layers of the sample model")
    parser.add_argument("--top-k", type=int, default=50)
    options = parser.parse_args()
    folder = Path(options.folder)
    data, negatives = build_and_mine(folder, options)
    mined = {name for part in negatives.files("candidates") for name in pq.read_table(part)["anchor_id"].to_pylist()}
    truth = planted(folder, data, mined)
    shares = shares_of_truth(negatives, truth)
    say(f"drill_truth: {', '.join(f'{len(pairs):,} {kind}' for kind, pairs in truth.items())}")
    for name, figures in shares.items():
        say(f"  {name:<20} hard {figures['hard_negative']:.4f}  false {figures['false_negative']:.4f}")
    best = shares[RECOMMENDED]
    figures = {
        "found": shares["candidates"]["hard_negative"],
        "kept": best["hard_negative"],
        "false": best["false_negative"],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
