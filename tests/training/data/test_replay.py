"""Replay: batches of another corpus at a fixed share, one source each, the same for any number of ranks."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.config import validate
from pipeline.core.errors import UserError
from pipeline.core.schema import TABLES
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.text.normalize import stable_id
from tests.support.rows import made, pair, siblings, table
from tests.support.runs import make_data, settings
from training.data.epoch import REPLAY, EpochSettings
from training.data.epoch_composer import StreamSteps, interleave
from training.data.epoch_reader import EpochReader, InMemoryEpochs
from training.data.read_rows import document_clusters, read_table, relevant_documents
from training.data.replay import ID_PREFIX, Replay, load_with_replay, with_id_prefix
from training.data.rows import rows_from
from training.run import job
from training.run.config import TrainConfig

SIZE = 8
TOKENS = lambda texts, role: [[1] * (1 + len(text) % 3) for text in texts]  # noqa: E731


@pytest.fixture(scope="module")
def rows():
    """190 own rows with siblings and a shared document, then 60 replayed ones."""
    return twofold(60)


def twofold(replayed: int):
    others = [(f"other {i // 2}", f"document {i}") for i in range(replayed)]
    return replace(rows_from(table(siblings() + others), {}), stream=[""] * 190 + [REPLAY] * replayed)


def batches(rows, share: float | None, seed: int = 5, epochs: int = 1, first: int = 0) -> list[list[list[int]]]:
    """Row numbers of the batches of epochs."""
    made = InMemoryEpochs(rows, TOKENS, EpochSettings(SIZE, seed, replay=share))
    found = []
    for number in range(first, first + epochs):
        reader = EpochReader(made(number), number)
        steps = [reader.batch(reader.step_ref(step)) for step in range(len(reader))]
        assert all(len(set(table["stream"].to_pylist())) == 1 for table in steps)
        found.append([table["row"].to_pylist() for table in steps])
    return found


@pytest.mark.parametrize("share", [0.02, 0.1, 0.2, 0.5, 0.8])
def test_the_share_holds_over_epochs(rows, share):
    counts = [[sum(b[0] < 190 for b in one), sum(b[0] >= 190 for b in one)] for one in batches(rows, share, epochs=12)]
    own, replayed = map(sum, zip(*counts, strict=True))
    assert replayed / (own + replayed) == pytest.approx(share, abs=0.004)
    assert max(n for _, n in counts) - min(n for _, n in counts) <= 1 + 0.5 * share / (1 - share)


def test_every_own_row_is_placed_once_or_reported(rows):
    epochs = InMemoryEpochs(rows, TOKENS, EpochSettings(SIZE, 1, replay=0.3))
    epoch = epochs(2)
    own = [row for row in epoch.read("rows")["row"].to_pylist() if row < 190]
    left = epoch.read("left_out")["row"].to_pylist() if epoch.has("left_out") else []
    assert sorted([*own, *left]) == list(range(190))


def test_replayed_rows_come_again_only_when_all_have_come(rows):
    (one,) = batches(rows, 0.5, seed=1)
    again = [sorted(batch) for batch in one if batch[0] >= 190]
    passes = 60 // SIZE
    first = np.concatenate(again[:passes])
    assert len(set(first.tolist())) == len(first)
    assert len(again) > 2 * passes
    assert again[:passes] != again[passes : 2 * passes]


def test_composition_is_pure_and_changes_with_epoch_and_seed(rows):
    def chosen(seed, epoch):
        return str(batches(rows, 0.2, seed, first=epoch))

    assert chosen(1, 0) == chosen(1, 0)
    assert len({chosen(*place) for place in ((1, 0), (1, 1), (2, 0))}) == 3


def test_streams_are_evenly_spread_and_a_short_batch_is_last():
    def order(*streams: StreamSteps) -> str:
        table = interleave(list(streams), [[number] for number in range(len(streams))], 4)
        steps = table.to_pylist()
        assert [one["step"] for one in steps] == list(range(len(steps)))
        return "".join("or"[one["file"]] if one["rows"] == 4 else "s" for one in steps)

    assert order(StreamSteps(["o"], [8]), StreamSteps(["r"], [2])) == "oorooooroo"
    assert order(StreamSteps(["o"], [2]), StreamSteps(["r"], [4])) == "rorror"
    assert order(StreamSteps(["o"], [3], short=2), StreamSteps(["r"], [3])) == "ororrs"


def test_without_replay_nothing_changes(rows):
    for epoch in (0, 3):
        mixed = [batch for batch in batches(rows, 0.2, 1, first=epoch)[0] if batch[0] < 190]
        assert mixed == batches(rows_from(table(siblings()), {}), None, 1, first=epoch)[0]


def test_too_few_rows_to_replay_are_named():
    with pytest.raises(UserError, match=r"replay: 5 rows do not fill a batch of 8; lower loop\.batch_size"):
        batches(twofold(5), 0.2)


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
    rows = load_with_replay(own, data, Replay(data=other.path, share=0.5, rows=["pairs", "triplets"]), other, None)
    assert rows.stream == [""] * 3 + [REPLAY] * 3
    assert rows.positives[:4] == ["own 0", "own 1", "own 2", "other 0"]
    kinds = [np.concatenate([rows.query_id[part], rows.positive_id[part]]) for part in (slice(0, 3), slice(3, 6))]
    assert not set(kinds[0].tolist()) & set(kinds[1].tolist())
    ids = lambda *names: {stable_id(ID_PREFIX + name) for name in names}  # noqa: E731
    assert set(rows.relevant_id[3].tolist()) == ids("d0", "d2")
    assert set(rows.negative_id[5].tolist()) == {stable_id(ID_PREFIX + "d2"), -1}
    assert rows.positive_cluster[0] != rows.positive_cluster[3] == stable_id(ID_PREFIX + "c")
    assert rows.positive_id[0] == rows_from(own, relevant_documents(data), None, document_clusters(data)).positive_id[0]


def test_scoped_rows_keep_their_schema_and_texts(two):
    table = read_table(["triplets"], two[1], None)
    renamed = with_id_prefix(table)
    assert renamed.schema == table.schema and set(TABLES["triplets"].names) < set(table.column_names)
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
    assert config.paths["replay"] == f"{tmp_path}/made/data"
    with pytest.raises(UserError, match=rf"made/data: no such directory; run `tripletail build --config {recipe}`"):
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
            interpolation=share,
            replay={"data": other.path, "share": 0.4},
            loss={"type": "weighted_sum", "losses": [{}, {"weight": 0.5, "loss": {"type": "base_distillation"}}]},
            loop={
                "batch_size": 16,
                "epochs": 2,
                "log_every": 1,
                "dropout": 0.0,
                "average": {"type": "ema", "decay": 0.5},
            },
        )
        model = job.run(config)
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
