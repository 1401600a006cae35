"""The call that Sentence Transformers' users know: the same negatives as theirs, row by row."""

import sys

import numpy as np
import pytest

from pipeline.core.errors import UserError
from pipeline.mining.hard_negatives import mine_hard_negatives
from pipeline.search import exact

peer = pytest.importorskip("sentence_transformers.util")
datasets = pytest.importorskip("datasets")


class HashModel:
    """A model whose vectors are given: a text `q3` or `d7` names a row; both libraries take it."""

    device = "cpu"

    def __init__(self, seed: int = 0, width: int = 12) -> None:
        self.rng_seed, self.width = seed, width

    def vector(self, text: str) -> np.ndarray:
        number = int(text[1:])
        rng = np.random.default_rng([self.rng_seed, number // 4, 7])
        noise = np.random.default_rng([self.rng_seed, number, ord(text[0])])
        vector = rng.normal(size=self.width) + 0.8 * noise.normal(size=self.width)
        return (vector / np.linalg.norm(vector)).astype(np.float32)

    def encode_document(self, texts, **_) -> np.ndarray:
        return np.stack([self.vector(text) for text in texts])

    encode_query = encode_document

    def get_embedding_dimension(self) -> int:
        return self.width

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
        for ours_value, two in zip(ours[name], theirs[name], strict=True):
            if "score" in name:
                np.testing.assert_allclose(ours_value, two, atol=2e-6)
            else:
                assert ours_value == two


@pytest.mark.parametrize("setting", SETTINGS, ids=[", ".join(names) or "default" for names in SETTINGS])
@pytest.mark.parametrize("scores", [False, True])
def test_negatives_are_the_peers_row_by_row(setting, scores, monkeypatch):
    monkeypatch.setattr(exact, "CORPUS_TILE", 17)
    form = FORMATS[(SETTINGS.index(setting) + scores) % 4]
    setting = setting | {"output_format": form, "output_scores": scores, "verbose": False}
    ours = mine_hard_negatives(pairs(), HashModel(), faiss_batch_size=13, **setting)
    same(ours, peer.mine_hard_negatives(pairs(), HashModel(), **setting))


@pytest.mark.parametrize("form", FORMATS)
def test_negatives_of_a_reranker_are_the_peers(form):
    setting = {"max_score": 0.7, "relative_margin": 0.1, "output_format": form, "verbose": False, "num_negatives": 2}
    ours = mine_hard_negatives(pairs(), HashModel(), cross_encoder=Cross(), output_scores=True, **setting)
    same(ours, peer.mine_hard_negatives(pairs(), HashModel(), cross_encoder=Cross(), output_scores=True, **setting))


@pytest.mark.parametrize("setting", SETTINGS[2:7])
def test_negatives_by_faiss_are_the_peers_by_faiss(setting, monkeypatch):
    faiss = pytest.importorskip("faiss", reason="the extra [ann] is not installed")
    calls: list[tuple[int]] = []
    flat = faiss.IndexFlatIP

    def counted(dim):
        calls.append((dim,))
        return flat(dim)

    monkeypatch.setattr(faiss, "IndexFlatIP", counted)
    setting = setting | {"use_faiss": True, "output_scores": True, "verbose": False}
    ours = mine_hard_negatives(pairs(), HashModel(), faiss_batch_size=13, **setting)
    assert len(calls) > 4, "a flat index for each block of anchors and piece of the corpus"
    same(ours, peer.mine_hard_negatives(pairs(), HashModel(), **setting))


def test_without_faiss_the_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"needs faiss; install it with `pip install 'tripletail\[ann\]'`"):
        mine_hard_negatives(pairs(), HashModel(), use_faiss=True, verbose=False)


class Pooled(HashModel):
    """A model that starts and stops a pool of processes, and notes which calls had it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[object] = []

    def start_multi_process_pool(self, target_devices=None) -> dict:
        self.calls.append(("start", target_devices))
        return {"pool": 1}

    def stop_multi_process_pool(self, pool) -> None:
        self.calls.append(("stop", pool))

    def encode_document(self, texts, *, pool=None, **more) -> np.ndarray:
        self.calls.append(pool)
        return super().encode_document(texts, **more)

    encode_query = encode_document


@pytest.mark.parametrize(("processes", "devices"), [(True, None), (["cpu", "cpu"], ["cpu", "cpu"])])
def test_several_processes_encode_where_the_model_has_them(processes, devices):
    model = Pooled()
    ours = mine_hard_negatives(pairs(), model, use_multi_process=processes, verbose=False)
    pool = {"pool": 1}
    assert model.calls == [("start", devices), pool, pool, ("stop", pool)]
    same(ours, mine_hard_negatives(pairs(), HashModel(), verbose=False))


def test_several_processes_are_refused_where_there_are_none(minilm):
    with pytest.raises(UserError, match="HashModel has no start_multi_process_pool"):
        mine_hard_negatives(pairs(), HashModel(), use_multi_process=True)
    with pytest.raises(UserError, match=r"needs a SentenceTransformer as model; for a model directory run `python"):
        mine_hard_negatives(pairs(), minilm, use_multi_process=True)
    with pytest.raises(UserError, match="needs Sentence Transformers' CrossEncoder"):
        mine_hard_negatives(pairs(), Pooled(), cross_encoder="some/reranker", use_multi_process=True)


def test_a_real_model_encodes_in_two_processes(minilm):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(minilm, device="cpu")
    rows = {"anchor": [f"thing number {row}" for row in range(6)], "positive": [f"item {row}" for row in range(6)]}
    data = datasets.Dataset.from_dict(rows)
    setting = {"num_negatives": 2, "verbose": False, "output_scores": True}
    ours = mine_hard_negatives(data, model, use_multi_process=["cpu", "cpu"], **setting)
    same(ours, mine_hard_negatives(data, model, **setting))


def test_positives_among_the_candidates_are_the_peers():
    ours = mine_hard_negatives(pairs(), HashModel(), include_positives=True, verbose=False)
    same(ours, peer.mine_hard_negatives(pairs(), HashModel(), include_positives=True, verbose=False))


def test_a_sample_is_allowed_seeded_and_within_the_window():
    setting = {"sampling_strategy": "random", "range_min": 2, "range_max": 12, "relative_margin": 0.05}
    setting |= {"output_format": "labeled-list", "verbose": False}
    first, two, other = (mine_hard_negatives(pairs(), HashModel(), seed=seed, **setting) for seed in (1, 1, 2))
    assert first.to_dict() == two.to_dict() != other.to_dict()
    window = mine_hard_negatives(pairs(), HashModel(), **setting | {"sampling_strategy": "top", "num_negatives": 10})
    allowed = {(row["question"], row["answer"][0]): set(row["answer"]) for row in window}
    assert all(set(row["answer"]) <= allowed[row["question"], row["answer"][0]] for row in first)


def test_vectors_are_kept_under_keys_that_change_with_model_prompt_and_texts(tmp_path):
    def files(**more) -> set[str]:
        mine_hard_negatives(pairs(), more.pop("model", HashModel()), cache_folder=str(tmp_path), verbose=False, **more)
        return {path.name for path in tmp_path.iterdir()}

    first = files()
    assert len(first) == 2 and files(num_negatives=1, relative_margin=0.1) == first
    counts = [len(first)]
    for more in (
        {"query_prompt": "query: "},
        {"corpus_prompt": "text: "},
        {"corpus": ["d99"]},
        {"model": HashModel(1)},
    ):
        counts.append(len(files(**more)))
    assert counts == [2, 3, 4, 5, 7]


def test_settings_without_room_are_refused():
    with pytest.raises(UserError, match="range_min 5 and range_max 6 leave no room for num_negatives 3"):
        mine_hard_negatives(pairs(), HashModel(), range_min=5, range_max=6)
    with pytest.raises(UserError, match="it needs a column of anchors, one of positives"):
        mine_hard_negatives(datasets.Dataset.from_dict({"a": ["x"]}), HashModel())
    with pytest.raises(UserError, match="output_format 'flag': choose from triplet, n-tuple, labeled-pair"):
        mine_hard_negatives(pairs(), HashModel(), output_format="flag")
