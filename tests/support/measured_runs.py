"""Finished runs as `compare`, `cross-validate` and `release` read them, with given values of each query."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.storage import artifact
from pipeline.storage.artifact import Draft

Values = dict[str, dict[str, float]]  # nDCG@10 by model and query


def write_artifact(
    path: Path, kind: str, settings: dict[str, Any], tables: dict[str, pa.Table], data: str = "d1", **notes: Any
):
    draft = artifact.begin(str(path), kind, settings, {"data": data}, overwrite=True)
    assert isinstance(draft, Draft)
    for name, table in tables.items():
        draft.write(name, table)
    draft.finish(list(tables), **notes)


def measured_run(folder: Path, values: Values, settings: dict[str, Any] | None = None, **how: Any) -> str:
    """A finished run: its report, and its training where there are settings of one."""
    split, data = how.get("split", "test"), how.get("data", "d1")
    rows = [
        {"model": model, "query_id": query, "ndcg@10": value, "hit@1": float(value > 0.52)}
        for model, of_model in (values | {"tuned:96:int8": values["tuned"]}).items()  # and a variant of its vectors
        for query, value in of_model.items()
    ]
    write_artifact(folder / "report", "evaluate", {"split": split}, {"per_query": pa.Table.from_pylist(rows)}, data)
    models = {model: {"layers": 6, "of": 6, "ndcg@10": 0.0} for model in values}
    content = {"split": split, "documents": 90, "baseline": "base", "models": models}
    (folder / "report" / "metrics.json").write_text(json.dumps(content))
    lines = ["query_id,query", *(f"{query},text of {query}" for query in next(iter(values.values())))]
    (folder / "report" / "queries.csv").write_text("\ufeff" + "\n".join(lines))
    if settings is not None:
        write_artifact(folder / "training", "train", settings, {}, rows=1_200)
        log = [{"step": 5, "loss": 1.0, "seconds_per_step": 2.0}, {"step": 10, "loss": 0.5, "seconds_per_step": 3.0}]
        (folder / "training" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    return str(folder)
