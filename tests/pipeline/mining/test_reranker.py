"""Rerankers: a real model directory with small random weights, and its scores in a table of candidates."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.core import schema
from pipeline.core.errors import UserError
from pipeline.encoder.cross_encoder import CrossEncoderConfig, Reranker
from pipeline.mining.reranker import add_cross_scores
from tests.support.mining import reranker_directory

LEFTS = [f"question {'long ' * (row % 9)}{row}" for row in range(23)]
RIGHTS = [f"answer {'and more ' * (row % 5)}{row * 7}" for row in range(23)]


@pytest.mark.parametrize("labels", [1, 2])
def test_scores_are_the_models_own_whatever_the_batch(tmp_path, minilm, labels, monkeypatch):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from pipeline.encoder import cross_encoder as cross

    folder = reranker_directory(tmp_path / "m", minilm, labels)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        logits = torch.cat(
            [model(**tokenizer(a, b, return_tensors="pt")).logits for a, b in zip(LEFTS, RIGHTS, strict=True)]
        )
    expected = (logits.softmax(dim=-1)[:, 1] if labels == 2 else logits[:, 0].sigmoid()).numpy()
    assert expected.std() > 0.01
    for budget, pairs in ((64, 7), (4096, 100)):
        monkeypatch.setattr(cross, "_PAIRS_PER_PIECE", pairs)
        scores = Reranker(CrossEncoderConfig(model=folder, token_budget=budget, dtype="float32"), "cpu").score(
            LEFTS, RIGHTS
        )
        np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_identity_changes_with_all_that_decides_a_score(tmp_path, minilm):
    first, two = (reranker_directory(tmp_path / name, minilm, labels) for name, labels in (("a", 1), ("b", 2)))
    configs = [
        {"model": first},
        {"model": two},
        {"model": first, "max_length": 32},
        {"model": first, "activation": "identity"},
        {"model": first, "dtype": "float32"},
        {"model": first, "dtype": "bfloat16"},
    ]
    identities = [
        Reranker(CrossEncoderConfig.model_validate({"dtype": "float16"} | config), "cpu").identity for config in configs
    ]
    assert len({tuple(sorted(identity.items())) for identity in identities}) == len(identities)


class Counted:
    """A scorer that counts what it is asked."""

    def __init__(self) -> None:
        self.pairs: list[tuple[str, str]] = []

    def score(self, lefts: list[str], rights: list[str]) -> np.ndarray:
        self.pairs += zip(lefts, rights, strict=True)
        return np.float32([len(left) + len(right) / 100 for left, right in zip(lefts, rights, strict=True)])


@pytest.mark.parametrize("top", [None, 1])
def test_candidates_of_an_anchor_are_scored_once_for_all_its_pairs(top):
    candidates = [[("a", 0.9), ("b", 0.8)], [("a", 0.9), ("b", 0.8)], [("b", 0.4)], []]
    rows = [
        {"anchor_id": name, "positive_id": f"p{n}", "candidates": [{"doc_id": d, "score": s} for d, s in candidates[n]]}
        for n, name in enumerate(("q", "q", "r", "s"))
    ]
    table = pa.Table.from_pylist(rows, schema=schema.TABLES["candidates"])
    pairs = pa.table({"anchor": ["one", "one", "three", "s"], "positive": ["p", "pp", "ppp", "pppp"]})
    texts = pa.table({"doc_id": ["b", "a"], "text": ["bbbb", "aa"]})
    scorer = Counted()
    scored = add_cross_scores(table, pairs, texts, scorer, top)
    assert len(scorer.pairs) == len(set(scorer.pairs)) == (3 if top is None else 2) + 4
    assert scored.schema == schema.TABLES["candidates"]
    expected = [[3.02, 3.04], [3.02, 3.04], [5.04], []]
    expected = expected if top is None else [[3.02, None], [3.02, None], [5.04], []]
    got = [[candidate["cross_score"] for candidate in row] for row in scored["candidates"].to_pylist()]
    assert [[v if v is None else pytest.approx(v) for v in row] for row in expected] == got
    assert scored["positive_cross_score"].to_pylist() == pytest.approx([3.01, 3.02, 5.03, 1.04])
    assert [row["doc_id"] for row in scored["candidates"].to_pylist()[0]] == ["a", "b"]


def test_what_is_no_reranker_is_named(tmp_path, minilm):
    with pytest.raises(UserError, match="has 3 labels; a reranker has one, or two"):
        Reranker(CrossEncoderConfig(model=reranker_directory(tmp_path / "three", minilm, 3)))
    with pytest.raises(UserError, match="is no reranker, its weights lack classifier"):
        Reranker(CrossEncoderConfig(model=minilm))
    with pytest.raises(UserError, match="no such directory"):
        Reranker(CrossEncoderConfig(model=str(tmp_path / "none")))
