"""A small reranker, rows with and without negatives, and a step over them."""

from pathlib import Path

import pyarrow as pa

from pipeline.encoder.pair_classifier import PairClassifier, PairClassifierConfig
from tests.support.mining import reranker_directory
from training.data.rows import Rows, rows_from
from training.loop.reranker_step import RerankerStep
from training.loop.step import LoopConfig
from training.losses.loss import Loss

NEGATIVES = [2, 0, 1, 3, 0, 1, 2, 0, 3, 1, 0, 2, 1, 0]


def load(folder: Path, minilm: str, seed: int = 0) -> PairClassifier:
    """A tiny cross-encoder of one label, in a folder of its own."""
    path = folder / "tiny"
    path = path if path.exists() else Path(reranker_directory(path, minilm, 1))
    return PairClassifier.load(PairClassifierConfig(model=str(path), max_length=32), seed=seed)


def make_rows() -> Rows:
    """14 rows of pairs with none to three negatives, of other weights, with a teacher's scores where it gave some."""
    count = len(NEGATIVES)
    negatives = [
        [{"doc_id": f"n{i}-{j}", "text": f"part {i * 7 + j} of a lamp", "score": 0.1 * j} for j in range(NEGATIVES[i])]
        for i in range(count)
    ]
    table = pa.table(
        {
            "anchor_id": [f"q{i}" for i in range(count)],
            "anchor": ["how do I mend " + " ".join(str(i * k) for k in range(1 + i % 4)) for i in range(count)],
            "positive_id": [f"p{i}" for i in range(count)],
            "positive": [f"lamp {i} is mended with part {i * 3}" for i in range(count)],
            "negatives": negatives,
            "teacher": [None if i == 3 else 0.5 + 0.02 * i for i in range(count)],
            "weight": [1.0 + 0.5 * (i % 3) for i in range(count)],
            "table": ["mined"] * count,
            "table_row": list(range(count)),
            "source": ["test"] * count,
        }
    )
    return rows_from(table, {})


def make_step(model: PairClassifier, loss: Loss, batch_negatives: int = 2, **config) -> RerankerStep:
    """A step over these rows, without dropout unless the settings say so."""
    settings = {"batch_size": len(NEGATIVES), "validations": 0, "precision": "float32", "dropout": 0.0} | config
    return RerankerStep(model, loss, make_rows(), LoopConfig(**settings), batch_negatives=batch_negatives)
