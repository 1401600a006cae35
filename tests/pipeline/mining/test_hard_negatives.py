"""The call that Sentence Transformers' users know: the same negatives as theirs, row by row."""

import numpy as np
import pytest

from pipeline.core.errors import UserError
from pipeline.mining.hard_negatives import mine_hard_negatives
from pipeline.search import exact

peer = pytest.importorskip("sentence_transformers.util")
datasets = pytest.importorskip("datasets")


class Given:
    """A model whose vectors are given: a text `q3` or `d7` names a row; both libraries take it."""

    device = "cpu"

    def __init__(self, seed: int = 0, width: int = 12) -> None:
        self.rng_seed, self.width = seed, width

    def vector(self, text: str) -> np.ndarray:
        place = int(text[1:])
        rng = np.random.default_rng([self.rng_seed, place // 4, 7])
        own = np.random.default_rng([self.rng_seed, place, ord(text[0])])
        vector = rng.normal(size=self.width) + 0.8 * own.normal(size=self.width)
        return (vector / np.linalg.norm(vector)).astype(np.float32)

    def encode_document(self, texts, **_) -> np.ndarray:
        return np.stack([self.vector(text) for text in texts])

    encode_query = encode_document

    def similarity(self, left, right):
        import torch

        return torch.as_tensor(left) @ torch.as_tensor(right).T

    def similarity_pairwise(self, left, right):
        import torch

        return (torch.as_tensor(left) * torch.as_tensor(right)).sum(dim=1)

    def __repr__(self) -> str:
        return f"Given({self.rng_seed}, {self.width})"


class Cross:
    """A reranker whose scores are given."""

    def predict(self, pairs, **more):
        import torch

        scores = [np.random.default_rng([int(a[1:]), int(b[1:]), 3]).random() for a, b in pairs]
        return torch.tensor(scores) if more.get("convert_to_tensor") else np.array(scores)


def pairs(rows: int = 70) -> "datasets.Dataset":
    """Anchors, some of them with several positives and one with the same positive twice."""
    anchors = [f"q{row % 55}" for row in range(rows)] + ["q1"]
    positives = [f"d{(row * 7) % 60}" for row in range(rows)] + ["d7"]
    return datasets.Dataset.from_dict({"question": anchors, "answer": positives, "more": positives})


SETTINGS = [
    {},
    {"num_negatives": 5, "range_min": 3},
    {"range_min": 2, "range_max": 20, "absolute_margin": 0.05},
    {"relative_margin": 0.05, "num_negatives": 4},
    {"max_score": 0.6, "min_score": -0.1, "range_max": 40},
    {"absolute_margin": 0.0, "relative_margin": 0.3, "range_min": 1, "num_negatives": 2},
    {"corpus": [f"d{row}" for row in range(200)], "relative_margin": 0.1},
    {"range_max": 90, "num_negatives": 30},
]
FORMATS = ["triplet", "n-tuple", "labeled-pair", "labeled-list"]


def same(ours, theirs) -> None:
    assert ours.column_names == theirs.column_names and len(ours) == len(theirs) > 0
    for name in ours.column_names:
        for one, two in zip(ours[name], theirs[name], strict=True):
            if "score" in name:
                np.testing.assert_allclose(one, two, atol=2e-6)
            else:
                assert one == two


@pytest.mark.parametrize("setting", SETTINGS, ids=[", ".join(one) or "default" for one in SETTINGS])
@pytest.mark.parametrize("scores", [False, True])
def test_negatives_are_the_peers_row_by_row(setting, scores, monkeypatch):
    monkeypatch.setattr(exact, "CORPUS_TILE", 17)
    form = FORMATS[(SETTINGS.index(setting) + scores) % 4]
    setting = setting | {"output_format": form, "output_scores": scores, "verbose": False}
    ours = mine_hard_negatives(pairs(), Given(), faiss_batch_size=13, **setting)
    same(ours, peer.mine_hard_negatives(pairs(), Given(), **setting))


@pytest.mark.parametrize("form", FORMATS)
def test_negatives_of_a_reranker_are_the_peers(form):
    setting = {"max_score": 0.7, "relative_margin": 0.1, "output_format": form, "verbose": False, "num_negatives": 2}
    ours = mine_hard_negatives(pairs(), Given(), cross_encoder=Cross(), output_scores=True, **setting)
    same(ours, peer.mine_hard_negatives(pairs(), Given(), cross_encoder=Cross(), output_scores=True, **setting))


def test_positives_among_the_candidates_are_the_peers():
    ours = mine_hard_negatives(pairs(), Given(), include_positives=True, verbose=False)
    same(ours, peer.mine_hard_negatives(pairs(), Given(), include_positives=True, verbose=False))


def test_a_sample_is_allowed_seeded_and_within_the_window():
    setting = {"sampling_strategy": "random", "range_min": 2, "range_max": 12, "relative_margin": 0.05}
    setting |= {"output_format": "labeled-list", "verbose": False}
    one, two, other = (mine_hard_negatives(pairs(), Given(), seed=seed, **setting) for seed in (1, 1, 2))
    assert one.to_dict() == two.to_dict() != other.to_dict()
    window = mine_hard_negatives(pairs(), Given(), **setting | {"sampling_strategy": "top", "num_negatives": 10})
    allowed = {(row["question"], row["answer"][0]): set(row["answer"]) for row in window}
    assert all(set(row["answer"]) <= allowed[row["question"], row["answer"][0]] for row in one)


def test_vectors_are_kept_under_keys_that_change_with_model_prompt_and_texts(tmp_path):
    def files(**more) -> set[str]:
        mine_hard_negatives(pairs(), more.pop("model", Given()), cache_folder=str(tmp_path), verbose=False, **more)
        return {path.name for path in tmp_path.iterdir()}

    first = files()
    assert len(first) == 2 and files(num_negatives=1, relative_margin=0.1) == first
    counts = [len(first)]
    for more in ({"query_prompt": "query: "}, {"corpus_prompt": "text: "}, {"corpus": ["d99"]}, {"model": Given(1)}):
        counts.append(len(files(**more)))
    assert counts == [2, 3, 4, 5, 7]


def test_settings_without_room_are_refused():
    with pytest.raises(UserError, match="range_min 5 and range_max 6 leave no room for num_negatives 3"):
        mine_hard_negatives(pairs(), Given(), range_min=5, range_max=6)
    with pytest.raises(UserError, match="wanted anchors and positives"):
        mine_hard_negatives(datasets.Dataset.from_dict({"a": ["x"]}), Given())
