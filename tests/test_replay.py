"""Replay: batches of another corpus at a fixed share, one source each, the same for any number of ranks."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import validate
from pipeline.encoder import Encoder, EncoderConfig
from pipeline.errors import UserError
from pipeline.schema import TABLES
from tests.test_batches import siblings, table
from tests.test_fit import make_data, settings
from tests.test_rows import made, pair
from training.batches import compose, deal, rows_from, stable_id
from training.fit import job as fit
from training.fit.config import TrainConfig
from training.replay import SCOPE, Mixed, Replay, load_mixed, scoped, spread
from training.rows import clusters, read_table, relevant

SIZE = 8


@pytest.fixture(scope="module")
def rows():
    """190 own rows with siblings and a shared document, then 60 replayed ones."""
    others = [(f"other {i // 2}", f"document {i}") for i in range(60)]
    return rows_from(table(siblings() + others), {})


def count(rows, mixed: Mixed, epochs: int) -> list[tuple[int, int]]:
    """Own and replayed batches of each epoch; none holds both."""
    found = []
    for epoch in range(epochs):
        parts = [{bool(row >= mixed.start) for row in batch} for batch in mixed(rows, SIZE, 5, epoch).batches]
        assert all(len(part) == 1 for part in parts)
        found.append((sum({False} == part for part in parts), sum({True} == part for part in parts)))
    return found


@pytest.mark.parametrize("share", [0.02, 0.1, 0.2, 0.5, 0.8])
def test_the_share_holds_over_epochs(rows, share):
    counts = count(rows, Mixed(190, share), 12)
    own, replayed = map(sum, zip(*counts, strict=True))
    assert replayed / (own + replayed) == pytest.approx(share, abs=0.004)
    assert max(n for _, n in counts) - min(n for _, n in counts) <= 1 + 0.5 * share / (1 - share)


def test_every_own_row_is_placed_once_or_reported(rows):
    epoch = Mixed(190, 0.3)(rows, SIZE, 1, 2)
    own = [row for batch in epoch.batches for row in batch if row < 190]
    assert sorted([*own, *epoch.left_out.tolist()]) == list(range(190))


def test_replayed_rows_come_again_only_when_all_have_come(rows):
    batches = [batch for batch in Mixed(190, 0.5)(rows, SIZE, 1, 0).batches if batch[0] >= 190]
    passes = 60 // SIZE
    first = np.concatenate(batches[:passes])
    assert len(set(first.tolist())) == len(first)
    assert len(batches) > 2 * passes
    assert [batch.tolist() for batch in batches[:passes]] != [batch.tolist() for batch in batches[passes : 2 * passes]]


def test_composition_is_pure_and_changes_with_epoch_and_seed(rows):
    def chosen(seed, epoch):
        return [tuple(batch) for batch in Mixed(190, 0.2)(rows, SIZE, seed, epoch).batches]

    assert chosen(1, 0) == chosen(1, 0)
    assert len({tuple(chosen(*place)) for place in ((1, 0), (1, 1), (2, 0))}) == 3
    for batch in chosen(1, 0):
        for size in (1, 2, 3, 4):
            parts = [deal(np.array(batch), np.arange(len(rows)), rank, size) for rank in range(size)]
            assert sorted(np.concatenate(parts).tolist()) == sorted(batch)


def test_no_known_positive_is_a_negative(rows):
    for batch in Mixed(190, 0.4)(rows, SIZE, 3, 1).batches:
        for row in batch:
            known = set(rows.known[row][rows.known[row] >= 0].tolist())
            assert not known & {int(rows.positive_id[other]) for other in batch if other != row}


def test_replayed_batches_are_evenly_spread():
    mark = lambda batches: "".join("r" if len(batch) else "o" for batch in batches)  # noqa: E731
    own, replayed = np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int64)
    assert mark(spread([own] * 8, [replayed] * 2)) == "oooor" * 2
    assert mark(spread([own] * 2, [replayed] * 4)) == "orrorr"
    assert mark(spread([own] * 3, [])) == "ooo"


def test_without_replay_nothing_changes(rows):
    only = rows_from(table(siblings()), {})
    for epoch in (0, 3):
        mixed = [batch.tolist() for batch in Mixed(190, 0.2)(rows, SIZE, 1, epoch).batches if batch[0] < 190]
        alone = compose(rows, SIZE, 1, epoch, slice(0, 190))
        assert mixed == [batch.tolist() for batch in alone.batches]
        placed = sorted(row for batch in compose(only, SIZE, 1, epoch).batches for row in batch.tolist())
        assert set(placed) <= set(range(190))


def test_too_few_rows_to_replay_are_named(rows):
    with pytest.raises(UserError, match=r"replay: 5 rows do not fill a batch of 8; lower loop\.batch_size"):
        Mixed(245, 0.2)(rows, SIZE, 1, 0)


@pytest.fixture
def two(tmp_path):
    """Two artifacts that use the same ids for other things."""

    def artifact(name, answers):
        documents = [
            {"doc_id": f"d{n}", "title": "", "text": f"{name} {n}", "source": name, "cluster_id": "c"} for n in range(3)
        ]
        return made(
            tmp_path / name,
            "build",
            corpus=documents,
            queries=[{"query_id": "q0", "text": "?", "source": name, "split": "train"}],
            qrels=[{"query_id": "q0", "doc_id": "d2", "relevance": 1, "split": "train"}],
            pairs=[pair(f"q{n}", f"d{n}", source=name, positive=f"{name} {n}") for n in range(answers)],
            triplets=[pair("q9", "d1", source=name, negatives=[{"doc_id": "d2", "text": "no"}, {"text": "none"}])],
        )

    return artifact("own", 3), artifact("other", 2)


def test_ids_of_two_artifacts_do_not_meet(two):
    data, other = two
    own = read_table(["pairs"], data, None)
    rows, mixed = load_mixed(own, data, Replay(data=other.path, share=0.5, rows=["pairs", "triplets"]), other, None)
    assert (mixed, len(rows)) == (Mixed(3, 0.5), 6)
    assert rows.positives[:4] == ["own 0", "own 1", "own 2", "other 0"]
    kinds = [np.concatenate([rows.query_id[part], rows.positive_id[part]]) for part in (slice(0, 3), slice(3, 6))]
    assert not set(kinds[0].tolist()) & set(kinds[1].tolist())
    ids = lambda *names: {stable_id(SCOPE + name) for name in names}  # noqa: E731
    assert set(rows.known[3].tolist()) - {-1} == ids("d0", "d2")
    assert set(rows.negative_id[5].tolist()) == {stable_id(SCOPE + "d2"), -1}
    assert rows.positive_cluster[0] != rows.positive_cluster[3] == stable_id(SCOPE + "c")
    assert rows.positive_id[0] == rows_from(own, relevant(data), None, clusters(data)).positive_id[0]


def test_scoped_rows_keep_their_schema_and_texts(two):
    table = read_table(["triplets"], two[1], None)
    renamed = scoped(table)
    assert renamed.schema == table.schema == TABLES["triplets"]
    assert renamed["negatives"].to_pylist()[0][0]["text"] == "no"


def test_settings(tmp_path):
    with pytest.raises(UserError, match="give either `data`, a build artifact, or `recipe`"):
        validate(TrainConfig, {"replay": {"share": 0.2}})
    with pytest.raises(UserError, match=r"replay.share.*less than 1"):
        validate(TrainConfig, {"replay": {"data": "x", "share": 1.0}})
    recipe = tmp_path / "corpus.yaml"
    recipe.write_text(f"run: {tmp_path}/made\nbuild: {{sources: [{{type: parquet, path: qa}}]}}\n")
    config = validate(TrainConfig, {"replay": {"recipe": str(recipe)}})
    assert config.recipes() == [str(recipe)]
    assert config.places["replay"] == f"{tmp_path}/made/data"
    with pytest.raises(
        UserError, match=rf"made/data: no such directory; run `python -m scripts.build --config {recipe}`"
    ):
        config.replay.open()


@pytest.mark.ray
def test_a_run_with_every_way_to_keep(ray_session, tmp_path):
    """Replay, the distance to the base, an average and a share of the base, on two workers of Ray Train."""
    make_data(tmp_path)
    other = make_data(tmp_path / "other", ("train",))
    found = {}
    for name, share in (("near", 0.3), ("far", 1.0)):
        config = settings(
            tmp_path,
            out=str(tmp_path / name),
            overwrite=True,
            tuned_share=share,
            replay={"data": other.path, "share": 0.4},
            loss={"type": "sum", "losses": [{}, {"weight": 0.5, "loss": {"type": "keep"}}]},
            loop={
                "batch_size": 16,
                "epochs": 2,
                "log_every": 1,
                "dropout": 0.0,
                "average": {"type": "ema", "decay": 0.5},
            },
        )
        model = fit.run(config)
        found[name] = Encoder.load(EncoderConfig(model=model, dtype="float32"), "cpu").encode(["pan"], "query")
    base = Encoder.load(EncoderConfig(layers=1, max_length=32, dtype="float32"), "cpu").encode(["pan"], "query")
    near, far = (float((found[name] * base).sum()) for name in ("near", "far"))
    assert far < near < 0.99999
    lines = [json.loads(line) for line in (tmp_path / "training" / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if "loss" in line]
    own = json.loads((tmp_path / "training" / "manifest.json").read_text())
    assert own["inputs"]["replay"] == other.manifest.fingerprint and own["notes"]["rows"] < 60
    assert trained[0]["moved"] == pytest.approx(0.0, abs=1e-3) and trained[-1]["moved"] > 1e-4
    assert trained[-1]["steps"] == 2 * 5, "three own batches an epoch, and two in five are replayed"
    assert not Path(model, "average.safetensors").exists()
