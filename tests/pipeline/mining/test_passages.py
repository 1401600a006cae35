"""Mining by passages: candidates and scores against every passage one by one, through the job and beside an index."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.core import schema
from pipeline.core.config import validate
from pipeline.core.errors import UserError
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.encoder.passages import PassageCutter, PassagesConfig, passages
from pipeline.mining.config import MineConfig
from pipeline.mining.job import run
from pipeline.storage.artifact import Draft

ENCODER = {"model": "gt:all-minilm-l6-v2", "layers": 2, "max_length": 32, "dtype": "float32"}
CUT = {"tokens": 16, "full_text": 0.25}
THINGS = ["kettle", "lamp", "mug", "scarf", "bicycle", "hose", "tripod", "sofa"]
FILLING = "It is sold with a warranty of two years and can be repaired at home. "


def text(row: int) -> str:
    return FILLING * (row % 4) + f"This {THINGS[row % 8]} is number {row}. " + FILLING * (row % 3)


def write_data(path: str) -> str:
    draft = Draft(path, "build", {}, {})
    rows = [{"doc_id": f"d{row}", "title": "", "text": text(row), "tags": [], "source": "t"} for row in range(30)]
    rows.insert(9, {"doc_id": "blank", "title": "", "text": " ", "tags": [], "source": "t"})
    draft.write("corpus", pa.Table.from_pylist(rows, schema=schema.TABLES["corpus"]))
    pairs = [
        {
            "anchor_id": f"q{row}", "anchor": f"a {THINGS[row % 8]} of number {row}", "positive_id": f"d{row}",
            "positive": text(row), "source": "t", "split": "train", "group_id": f"g{row}", "relevance": 1.0,
        }
        for row in range(0, 30, 4)
    ]  # fmt: skip
    draft.write("pairs", pa.Table.from_pylist(pairs, schema=schema.TABLES["pairs"]))
    return draft.finish(["corpus", "pairs"]).path


def wanted(queries: list[str]) -> np.ndarray:
    """Scores [Q, 30] of the documents."""
    encoder = Encoder.load(EncoderConfig.model_validate(ENCODER), "cpu")
    cutter, asked = PassageCutter(encoder, PassagesConfig(**CUT)), encoder.encode(queries, "query")
    documents = [text(row) for row in range(30)]
    cut = [passages(document, spans) for document, spans in zip(documents, cutter.cut(documents), strict=True)]
    best = [(asked @ encoder.encode(of_one, "document").T).max(axis=1) for of_one in cut]
    return 0.75 * np.stack(best, axis=1) + 0.25 * asked @ encoder.encode(documents, "document").T


@pytest.mark.ray
@pytest.mark.parametrize("index", ["exact", "hnsw"])
def test_the_best_passage_decides(ray_session: None, minilm: str, tmp_path: Path, index: str):
    data = write_data(str(tmp_path / "data"))
    settings = {
        "run": str(tmp_path), "data": data, "encoder": ENCODER, "passages": CUT, "top_k": 8, "index": {"type": index},
        "rule": {"num_negatives": 2, "max_percentage": None}, "rows_per_shard": 11, "num_actors": 1,
    }  # fmt: skip
    done = run(validate(MineConfig, settings))
    rows = done.read("candidates").to_pylist()
    assert [row["anchor_id"] for row in rows] == [f"q{row}" for row in range(0, 30, 4)]
    scores = wanted([f"a {THINGS[row % 8]} of number {row}" for row in range(0, 30, 4)])
    for number, row in enumerate(rows):
        positive = 4 * number
        assert abs(row["positive_score"] - scores[number, positive]) < 2e-3
        found = [(int(one["doc_id"][1:]), one["score"]) for one in row["candidates"]]
        assert len(found) == 8 and positive not in [document for document, _ in found]
        assert all(abs(score - scores[number, document]) < 2e-3 for document, score in found)
        assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
        others = np.delete(scores[number], positive)
        assert abs(found[-1][1] - np.sort(others)[-8]) < 2e-3
    assert done.manifest.dropped["empty_document"] == 1
    if index == "hnsw":
        assert done.manifest.notes["index_recall"] == 1.0


def test_passages_are_checked_before_work(minilm: str, tmp_path: Path):
    data = write_data(str(tmp_path / "data"))
    settings = {"run": str(tmp_path), "data": data, "encoder": ENCODER, "passages": {"tokens": 33}}
    with pytest.raises(UserError, match=r"passages\.tokens 33: the encoder cuts documents at 32 tokens"):
        run(validate(MineConfig, settings))
