"""Mine the generator's planted truth with the jobs: `python -m scripts.drills.planted_truth FOLDER [--rows N]`.

Rows with planted copies, false and hard negatives are built (near duplicates clustered), mined with BM25 beside the
vectors, and several rules are held against the truth: what share of the planted hard negatives is among the candidates
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
from pipeline.mining.job import run as mine
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


def made(folder: Path, options: argparse.Namespace) -> tuple[Artifact, Artifact]:
    """Plant, build and mine."""
    command = [sys.executable, "-m", "scripts.synthesize", str(folder / "planted"), "--rows", str(options.rows)]
    subprocess.run(
        [*command, "--format", "jsonl", "--false-negatives", "0.1", "--hard-negatives", "0.1"],
        check=True,
    )
    source = {"type": "jsonl", "kind": "qa", "name": "planted", "path": str(folder / "planted" / "rows" / "*.jsonl")}
    run = {"run": str(folder / "run")}
    data = build(validate(BuildConfig, run | {"sources": [source], "near_duplicates": {"threshold": 0.7}}))
    settings = {"encoder": {"layers": options.layers}, "lexical": {}, "top_k": options.top_k}
    return data, mine(validate(MineConfig, run | settings))


def planted(folder: Path, data: Artifact, mined: set[str]) -> dict[str, set[tuple[str, str]]]:
    """Planted (question id, document id) by kind, of the questions that were mined for."""
    judged = data.read("qrels", ["query_id", "doc_id"]).to_pylist()
    document = {row["query_id"]: row["doc_id"] for row in judged}
    found: dict[str, set[tuple[str, str]]] = {"hard_negative": set(), "false_negative": set()}
    for file in sorted((folder / "planted" / "truth").glob("*.parquet")):
        for row in pq.read_table(file).to_pylist():
            asked, told = f"r{row['of']}", document.get(f"r{row['row']}")
            if row["kind"] in found and asked in mined and told and told != document.get(asked):
                found[row["kind"]].add((asked, told))
    return found


def held(negatives: Artifact, truth: dict[str, set[tuple[str, str]]]) -> dict[str, dict[str, float]]:
    """Share of each kind among the candidates, and among what each rule takes."""
    seen: dict[str, set[tuple[str, str]]] = {name: set() for name in ("candidates", *RULES)}
    for file in negatives.files("candidates"):
        table = pq.read_table(file)
        column = as_array(table["candidates"])
        row, place, _ = list_positions(column)
        asked = table["anchor_id"].to_pylist()
        pairs = list(zip([asked[at] for at in row], column.flatten().field("doc_id").to_pylist(), strict=True))
        taken = {
            name: select_from_table(table, ThresholdRule.model_validate(rule))[0].selected[row, place]
            for name, rule in RULES.items()
        }
        seen["candidates"].update(pairs)
        for name, hit in taken.items():
            seen[name].update(pair for pair, one in zip(pairs, hit, strict=True) if one)
    return {
        name: {kind: len(wanted & found) / max(1, len(wanted)) for kind, wanted in truth.items()}
        for name, found in seen.items()
    }


def main() -> None:
    """Hold the rules against the truth."""
    parser = argparse.ArgumentParser("python -m scripts.drills.planted_truth", description=__doc__)
    parser.add_argument("folder", help="a new directory for rows, data and negatives")
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--layers", type=int, help="keep only the first layers of the sample model")
    parser.add_argument("--top-k", type=int, default=50)
    options = parser.parse_args()
    folder = Path(options.folder)
    data, negatives = made(folder, options)
    mined = {name for part in negatives.files("candidates") for name in pq.read_table(part)["anchor_id"].to_pylist()}
    truth = planted(folder, data, mined)
    shares = held(negatives, truth)
    say(f"drill_truth: {', '.join(f'{len(found):,} {kind}' for kind, found in truth.items())}")
    for name, found in shares.items():
        say(f"  {name:<20} hard {found['hard_negative']:.4f}  false {found['false_negative']:.4f}")
    best = shares[RECOMMENDED]
    found = {
        "found": shares["candidates"]["hard_negative"],
        "kept": best["hard_negative"],
        "false": best["false_negative"],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
