"""Compare systems of an encoder and BM25 at every weight: `python -m scripts.bench.systems --root DATA [--quick]`.

Each shipped recipe is built once and evaluated once, on its dev split: the encoder, BM25, mixed scores at each weight
of the grid, at the weight that the train split chooses, and reciprocal ranks; with `--reranker` each of the last two
ranked anew. `--model` takes trained encoders, whose choice on the train split would be biased: they have seen it, and
get the fixed weights alone. `--tune` chooses k1 and b of BM25 on the train split too. Jobs resume, so the same command
goes on after a kill. Prints a table with a row a system and a column a set, and writes {out}/systems.json.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from pipeline.core.config import exit_on_user_error, load_recipe
from pipeline.search.score_mix import GRID
from scripts.bench.harness import update_rows

ROOT = Path(__file__).resolve().parents[2]
SETS, METRIC = ("covidqa", "matheducators", "medquad", "movies", "chorus"), "ndcg@10"


def systems(reranker: str | None, *, tuned: bool) -> list[dict[str, Any]]:
    """The systems that are compared with each encoder."""
    compared: list[dict[str, Any]] = [{"type": "mix", "weight": weight, "name": f"mix{weight:g}"} for weight in GRID]
    compared += [{"type": "mix", "name": "mix-tuned"}] if tuned else []
    compared.append({"type": "rrf"})
    if reranker:
        scored = {"type": "rerank", "cross_encoder": {"model": reranker}}
        compared += [{**scored, "of": of, "name": f"{of}-reranked"} for of in ("mix", "rrf")]
    return compared


def job(name: str, settings: dict[str, Any], path: Path) -> None:
    """Run one job with a recipe of its own; a finished one returns at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    subprocess.run([sys.executable, "-m", f"scripts.{name}", "--config", str(path)], cwd=ROOT, check=True)


def scores_of(name: str, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Scores of every model and system on a set, as its evaluation wrote them."""
    recipe = load_recipe(str(ROOT / "scripts" / "recipes" / f"{name}.yaml"))
    folder = (Path(options.run) / name).resolve()
    job("build", {"run": str(folder), "root": options.root, **recipe["build"]}, folder / "build.yaml")
    encoder = recipe["train"].get("encoder", {}) | ({"layers": 2} if options.quick else {})
    models = {Path(path).parent.name: {**encoder, "model": path} for path in options.model}
    evaluate = {"run": str(folder), **recipe["evaluate"], "variants": None, "tuning": "train", "overwrite": True}
    evaluate |= {"models": models} if models else {"encoder": encoder}
    evaluate |= {"systems": systems(options.reranker, tuned=not models), "bm25": {"tune": options.tune}}
    evaluate |= {"max_queries": 100} if options.quick else {}
    job("evaluate", evaluate, folder / "evaluate.yaml")
    models_of: dict[str, dict[str, Any]] = json.loads((folder / "report" / "metrics.json").read_text())["models"]
    return models_of


def table(scores: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Markdown of the metric, a row a system and a column a set; with the weight where one was chosen."""
    names = list(dict.fromkeys(name for of_set in scores.values() for name in of_set))
    lines = ["| system | " + " | ".join(scores) + " |", "|---" * (len(scores) + 1) + "|"]
    for name in names:
        cells = [_cell(of_set.get(name)) for of_set in scores.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(scores: dict[str, Any] | None) -> str:
    if scores is None:
        return ""
    tuning = scores.get("system", scores).get("tuning", {})
    return f"{scores[METRIC]:.3f}" + (f" ({tuning['chosen']})" if "chosen" in tuning else "")


def rows(name: str, scores: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the file: each system beside BM25."""
    peer = scores["bm25"][METRIC]
    return [
        {
            "name": f"{METRIC}, {name}, {system}", "ours": of_system[METRIC], "peer": peer, "unit": METRIC,
            "ratio": of_system[METRIC] / peer, "goal": "", "met": None,
            "settings": of_system.get("system", of_system.get("settings")),
        }
        for system, of_system in scores.items()
    ]  # fmt: skip


def flags() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m scripts.bench.systems", description=__doc__)
    parser.add_argument("--root", required=True, help="where relative paths of the recipes start")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--model", nargs="+", default=[], help="trained encoders; default: the untrained one")
    parser.add_argument("--reranker", help="cross-encoder that ranks anew")
    parser.add_argument("--tune", action="store_true", help="choose k1 and b of BM25")
    parser.add_argument("--run", default="runs/systems", help="directory of all jobs")
    parser.add_argument("--out", default="runs/bench", help="directory of systems.json")
    parser.add_argument("--quick", action="store_true", help="two layers, 100 queries: does it run")
    return parser.parse_args()


def main() -> None:
    """Evaluate the sets one after the other; the table grows and is printed after each."""
    options = flags()
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    with exit_on_user_error("bench_systems"):
        for name in options.sets:
            scores[name] = scores_of(name, options)
            update_rows(Path(options.out) / "systems.json", rows(name, scores[name]))
            print(table(scores), flush=True)


if __name__ == "__main__":
    main()
