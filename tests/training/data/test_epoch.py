"""Epochs as artifacts: the same bytes whatever composes them, and every row once."""

import hashlib
import shutil
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.core.errors import UserError
from pipeline.encoder.encoder import EncoderConfig
from pipeline.storage import shuffle
from pipeline.storage.artifact import Artifact
from pipeline.storage.files import open_parquet
from pipeline.storage.shuffle import Shuffle
from tests.support.ranks import run_ranks
from tests.support.rows import made, pair, table, use_small_buckets
from tests.support.runs import make_data
from training.data import bulk_rows, epoch
from training.data.epoch import EpochSettings, run_in_process
from training.data.epoch_composer import compose_epoch
from training.data.epoch_reader import EpochFeed, EpochReader, EpochWaiter, InMemoryEpochs, epoch_path, slots_for
from training.data.read_rows import load_rows, source_shares
from training.data.rows import Rows, rows_from
from training.data.rows_artifact import tokenise_in_pieces, write_rows

SIZE = 16
TOKENS = lambda texts, role: [[1] * (1 + len(text) % 7) for text in texts]  # noqa: E731


def planted(count: int = 1500, negatives: bool = True) -> Rows:
    """Rows among which a tenth repeat a document, a tenth a query, and negatives are other rows' positives."""
    rng = np.random.default_rng(0)
    query, document = np.arange(count), np.arange(count)
    query[rng.random(count) < 0.1] //= 2
    document[rng.random(count) < 0.1] //= 3
    pairs = [(f"q{q}", f"d{d}") for q, d in zip(query, document, strict=True)]
    given = [[f"d{n}" for n in rng.integers(0, count, 3)] for _ in pairs] if negatives else None
    return rows_from(table(pairs, given).append_column("source", [[f"s{i % 3}" for i in range(count)]]), {})


@pytest.fixture
def small(monkeypatch):
    use_small_buckets(monkeypatch)


def artifact_of(rows: Rows, place: Path) -> Artifact:
    return write_rows(str(place), {}, {}, tokenise_in_pieces(rows, TOKENS))


def contents(artifact: Artifact) -> dict[str, str]:
    root = Path(artifact.path)
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*.parquet")
    }


def steps_of(artifact: Artifact) -> list[pa.Table]:
    reader = EpochReader(artifact, 0)
    return [reader.batch(reader.step_ref(step)) for step in range(len(reader))]


def test_an_epoch_has_the_same_bytes_whatever_composes_it(small, tmp_path):
    def backwards(name, count, task):
        return [task(number) for number in reversed(range(count))][::-1]

    def threads(name, count, task):
        with ThreadPoolExecutor(5) as pool:
            return list(pool.map(task, range(count)))

    rows, how = artifact_of(planted(), tmp_path / "rows"), EpochSettings(SIZE, 3, max_negatives=2)
    found = [
        contents(compose_epoch(rows, how, 1, str(tmp_path / spread.__name__), spread))
        for spread in (run_in_process, backwards, threads)
    ]
    assert found[0] == found[1] == found[2] and len(found[0]) > 10
    once = artifact_of(planted(), tmp_path / "again")
    assert len(rows.files("rows")) > 5
    assert contents(compose_epoch(once, how, 1, str(tmp_path / "other"))) == found[0]
    assert contents(compose_epoch(rows, how, 2, str(tmp_path / "next"))) != found[0]


@pytest.mark.ray
def test_ray_composes_the_same_bytes(ray_session, small, tmp_path):
    rows, how = artifact_of(planted(400), tmp_path / "rows"), EpochSettings(SIZE, 3, max_negatives=1)
    place = str(tmp_path / "ray")
    on_ray = partial(shuffle.run_tasks, marks=f"{place}/staging/marks", on_done=shuffle.ignore_progress)
    found = compose_epoch(rows, how, 0, place, on_ray)
    assert contents(found) == contents(compose_epoch(rows, how, 0, str(tmp_path / "here")))
    assert not Path(place, "staging").exists()


@pytest.mark.parametrize("negatives", [False, True])
def test_a_ledger_of_rows_over_many_buckets(small, tmp_path, negatives):
    rows = planted(negatives=negatives)
    made_of = artifact_of(rows, tmp_path / "rows")
    for number in range(2):
        found = compose_epoch(
            made_of, EpochSettings(SIZE, 3, max_negatives=2), number, str(tmp_path / f"epoch{number}")
        )
        steps = steps_of(found)
        levels = {name.split("-")[2] for name in found.manifest.tables["rows"].files}
        assert levels >= {"0", "1", "2"}, "the rows were to go through several levels"
        assert [len(one) for one in steps[:-1]] == [SIZE] * (len(steps) - 1) and 4 <= len(steps[-1]) <= SIZE
        placed = [row for one in steps for row in one["row"].to_pylist()]
        left = found.read("left_out").to_pylist() if found.has("left_out") else []
        assert sorted(placed + [one["row"] for one in left]) == list(range(len(rows)))
        assert found.manifest.dropped == dict(Counter(one["reason"] for one in left))
        assert found.manifest.notes["tokens"] == sum(int(epoch.token_counts(one).sum()) for one in steps)


@pytest.mark.parametrize("negatives", [False, True])
def test_global_batches_are_the_same_for_any_number_of_ranks(small, negatives):
    rows = planted(negatives=negatives)
    first: list[list[int]] = []
    for ranks in (1, 2, 3, 4):
        feed = EpochFeed(InMemoryEpochs(rows, TOKENS, EpochSettings(SIZE, 5, slots_for(None, ranks), max_negatives=1)))
        batches = []
        for _, ref in feed.plan(0, 64):
            parts = [feed.rank_rows(ref, rank, ranks) for rank in range(ranks)]
            for part in parts:
                assert [rows.positive_id[row] for row in part.rows] == part.columns["positive.id"].tolist()
                assert part.columns["query.relevant"].shape[1] == parts[0].columns["query.relevant"].shape[1]
                assert len(part.texts["negative"]) == len(part.columns["negative.row"]) == len(part.rows) * negatives
            batches.append(sorted(row for part in parts for row in part.rows.tolist()))
        first = first or batches
        assert batches == first and len(batches) == 64
    assert [sorted(feed.reader(0).batch(ref)["row"].to_pylist()) for _, ref in feed.plan(60, 64)] == first[60:]


def test_slots_that_do_not_divide_are_named():
    assert [slots_for(None, ranks) for ranks in (1, 2, 3, 4, 5, 8)] == [12, 12, 12, 12, 60, 24]
    with pytest.raises(UserError, match=r"loop\.slots 12: cannot be divided among 5 workers; set loop\.slots to 60"):
        slots_for(12, 5)


def test_batches_of_one_source_and_a_temperature(small, tmp_path):
    rows = planted(600, negatives=False)
    alone = artifact_of(replace(rows, stream=rows.source), tmp_path / "alone")
    steps = steps_of(compose_epoch(alone, EpochSettings(SIZE, 1), 0, str(tmp_path / "epoch")))
    sources = [set(one["source"].to_pylist()) for one in steps]
    assert all(len(one) == 1 for one in sources) and set.union(*sources) == {"s0", "s1", "s2"}
    assert [len(one) for one in steps[:-3]] == [SIZE] * (len(steps) - 3), "short ones, one a source, come last"
    shares = source_shares({"big": 9000, "small": 1000}, {}, 2.0)
    assert 9000 * shares["big"] / (1000 * shares["small"]) == pytest.approx(3.0)
    assert 9000 * shares["big"] + 1000 * shares["small"] == pytest.approx(10_000)


def judged(folder: Path) -> tuple[Artifact, Artifact]:
    """A build and a mining whose rows have siblings, judgments, clusters, sources, teachers and their own texts."""
    numbers = range(90)
    pairs = [pair(f"q{n // 2}", f"d{n % 37}", source=f"s{n % 2}") for n in numbers]
    pairs += [pair("own", "d80", anchor="it is d5"), pair("dev", "d81", split="dev")]
    given = lambda n: [{"doc_id": f"d{m % 60}", "text": f"it is d{m % 60}", "score": 0.5} for m in (n, n + 9)]  # noqa: E731
    build = made(
        folder,
        "build",
        corpus=[
            {"doc_id": f"d{n}", "title": "", "text": f"it is d{n}", "cluster_id": f"c{n // 3}" if n < 40 else None}
            for n in numbers
        ],
        qrels=[{"query_id": f"q{n // 3}", "doc_id": f"d{n}", "relevance": n % 2, "split": "train"} for n in numbers],
        pairs=pairs,
        triplets=[pair(f"q{n}", f"d{n}", source="s0", negatives=given(n + 5), teacher_score=n / 9) for n in range(9)],
        labelled=[
            {"left_id": f"q{n}", "left": f"l {n}", "right_id": f"r{n}", "right": f"r {n}", "score": n % 3 / 2}
            | {"source": "graded", "split": "train"}
            for n in range(20)
        ],
    )
    mine = made(
        folder,
        "mine",
        triplets=[pair(f"q{n}", f"d{n}", source="mined", negatives=given(n + 3)) for n in range(30)],
        candidates=[
            {"anchor_id": f"q{n}", "positive_id": f"d{n}", "positive_score": n / 30, "candidates": []}
            for n in range(25)
        ],
    )
    return build, mine


class Opened(EpochFeed):
    """A feed of one epoch over and over."""

    def __init__(self, one: Artifact) -> None:
        super().__init__(lambda _: one)


@pytest.mark.parametrize("most_rows", [None, 70])
def test_rows_staged_by_query_are_the_rows_in_memory(tmp_path, monkeypatch, minilm, most_rows):
    monkeypatch.setattr(bulk_rows, "BLOCK_ROWS", 25)
    data, negatives = judged(tmp_path)
    kinds, mix = ["pairs", "triplets", "mined", "labelled"], {"s1": 0.5}
    rows = load_rows(kinds, data, negatives, None, most_rows, mix)
    encoder = EncoderConfig(layers=1, max_length=16)
    from pipeline.encoder.encoder import Encoder

    tokenize = Encoder.load(encoder, "cpu").tokenize
    inside = write_rows(str(tmp_path / "inside"), {}, {}, tokenise_in_pieces(rows, tokenize))
    steps = bulk_rows.BulkRows(
        kinds, data, negatives, encoder, Shuffle(str(tmp_path / "bulk" / "staging"), 3), str(tmp_path / "bulk"),
        max_rows=most_rows, mix=mix,
    )  # fmt: skip
    staged = bulk_rows.write_bulk_rows({}, {}, steps, run_in_process)
    assert staged.manifest.notes["columns"] == inside.manifest.notes["columns"]
    assert staged.manifest.notes["streams"][""]["rows"] == len(rows)
    assert len(staged.files("rows")) == 3
    how = EpochSettings(8, 2, max_negatives=1)
    for number in range(2):
        found = [Opened(compose_epoch(one, how, number, f"{one.path}-{number}")) for one in (inside, staged)]
        assert found[0].steps == found[1].steps > 5
        for _, ref in found[0].plan(0, found[0].steps):
            one, other = (feed.rank_rows(ref, 0, 1) for feed in found)
            assert one.texts == other.texts and one.rows.tolist() == other.rows.tolist()
            assert one.columns.keys() == other.columns.keys()
            for name, values in one.columns.items():
                np.testing.assert_array_equal(values, other.columns[name], err_msg=name)


WAYS = {"plain": (0.0, None), "dropout": (0.3, None), "dropout, cached": (0.3, 64)}


def curves() -> dict[str, dict[str, torch.Tensor]]:
    """Losses of short runs on this rank, and where its weights ended."""
    from pipeline.encoder.encoder import Encoder
    from training.loop.step import LoopConfig, TrainStep
    from training.losses.infonce import InfoNCE

    found, rows = {}, planted(90)
    for name, (dropout, cache) in WAYS.items():
        settings = LoopConfig(
            batch_size=24,
            validations=0,
            precision="float32",
            dropout=dropout,
            dropout_by_slot=True,
            cache_tokens=cache,
            max_steps=3,
        )
        encoder = Encoder.load(EncoderConfig(layers=1, max_length=16, dtype="float32"), "cpu")
        loop = TrainStep(encoder, InfoNCE(), rows, settings)
        losses = [loop.step(loop.load_batch(ref), step)["loss"] for step, ref in loop.plan(0)]
        weights = torch.cat([value.detach().reshape(-1) for value in loop.module.parameters()])
        found[name] = {"losses": torch.tensor(losses, dtype=torch.float64), "weights": weights}
    return found


def test_two_ranks_learn_what_one_learns(minilm):
    """Dropout too is the same for any number of ranks: a slot draws its own random numbers, whoever encodes it."""
    one, two = curves(), run_ranks(2, curves)
    for name, alone in one.items():
        assert len(alone["losses"]) == 3
        for rank in two:
            torch.testing.assert_close(rank[name]["losses"], alone["losses"], rtol=1e-5, atol=0)
        assert torch.equal(two[0][name]["weights"], two[1][name]["weights"])
    assert not torch.allclose(one["plain"]["losses"], one["dropout"]["losses"], rtol=1e-2)


def test_an_epoch_is_composed_while_the_one_before_is_read(tmp_path, monkeypatch):
    from pipeline.core.config import validate
    from training.run import epochs as data
    from training.run.config import TrainConfig

    config = validate(TrainConfig, {"run": str(tmp_path), "loop": {"batch_size": 16, "epochs": 3}})
    rows, home = artifact_of(planted(200), tmp_path / "rows"), config.paths["epochs"]
    with data.EpochComposer(rows, data.epoch_settings(config, [1]), config):
        time.sleep(0.5)
        assert sorted(path.name for path in Path(home).iterdir()) == ["epoch-00000"], "nobody has opened it yet"
        feed = EpochFeed(EpochWaiter(home, mark_opened=True))
        read = [len(ref) for _, ref in feed.plan(0, 3 * feed.steps)]
    assert len(read) == 3 * feed.steps == 3 * len(EpochReader(Artifact.open(epoch_path(home, 2), "epoch"), 2))

    def broken(rows, how, number, place, spread):
        raise OSError(28, "No space left on device", place)

    again = validate(TrainConfig, {"run": str(tmp_path / "full"), "loop": {"batch_size": 16, "epochs": 2}})
    epochs = data.EpochComposer(rows, data.epoch_settings(again, [1]), again)
    monkeypatch.setattr(data, "compose_epoch", broken)
    with epochs, pytest.raises(UserError, match=r"epoch 1: .*No space left on device"):
        list(EpochFeed(EpochWaiter(again.paths["epochs"], mark_opened=True)).plan(0, 20))


@pytest.mark.ray
def test_later_epochs_are_composed_on_cpus_that_training_leaves(ray_session, small, tmp_path, monkeypatch):
    """By tasks, no more at a time than there are such CPUs, with the bytes of a composition here."""
    from pipeline.core.config import validate
    from training.run import epochs as data
    from training.run.config import TrainConfig

    monkeypatch.setattr(data, "LOCAL_ROWS", 10)
    run_tasks, bounds = shuffle.run_tasks, []
    monkeypatch.setattr(
        shuffle, "run_tasks", lambda *args, **more: bounds.append(more.get("at_once")) or run_tasks(*args, **more)
    )
    config = validate(TrainConfig, {"run": str(tmp_path), "loop": {"batch_size": SIZE, "epochs": 2}})
    rows, how = artifact_of(planted(400), tmp_path / "rows"), data.epoch_settings(config, [1])
    with data.EpochComposer(rows, how, config, spare_cpus=2) as composer:
        assert bounds and set(bounds) == {None}, "before training all CPUs are free"
        bounds.clear()
        second = EpochWaiter(config.paths["epochs"], mark_opened=True)
        second(0)
        found = contents(second(1))
        assert composer.first.manifest.notes["steps"] > 0
    assert bounds and set(bounds) == {2}
    assert found == contents(compose_epoch(rows, how, 1, str(tmp_path / "here")))


def test_where_a_row_came_from_is_found(tmp_path, minilm):
    """The epoch of a run leads back to the texts of its data."""
    from pipeline.core.config import validate
    from pipeline.encoder.encoder import Encoder
    from pipeline.storage.files import write_json
    from training.run.config import TrainConfig
    from training.run.epochs import EpochComposer, epoch_settings, prepare_rows
    from training.run.lineage import explain, format_lineage

    data = make_data(tmp_path)
    given = {"run": str(tmp_path), "rows": ["pairs"], "encoder": {"layers": 1}, "loop": {"batch_size": 8}}
    config = validate(TrainConfig, given)
    rows = prepare_rows(config, data, None, None, Encoder.load(config.encoder, "cpu"))
    epochs = EpochComposer(rows, epoch_settings(config, [1, 2]), config)
    write_json(str(tmp_path / "training" / "config.json"), config.result_settings())
    found = explain(str(tmp_path), 2, 5)
    batch = EpochReader(epochs.first, 0).batch(EpochReader(epochs.first, 0).step_ref(2))
    texts = load_rows(["pairs"], data, None, None, None)
    row = batch["row"].to_pylist()[5]
    assert (found["row"], found["anchor"]["text"], found["positive"]["text"]) == (
        row, texts.anchors[row], texts.positives[row],
    )  # fmt: skip
    assert found["versions"]["build"]["fingerprint"] == data.manifest.fingerprint
    assert texts.positives[row] in format_lineage(found) and "reason judged 1" in format_lineage(found)
    with pytest.raises(UserError, match="row 8: the batch of step 2 has rows 0 to 7"):
        explain(str(tmp_path), 2, 8)
    with pytest.raises(UserError, match=r"step 900: no epoch .* has it; they hold steps 0 to"):
        explain(str(tmp_path), 900, 0)


def test_a_damaged_row_group_is_named_with_what_mends_it(small, tmp_path):
    rows, how = artifact_of(planted(400), tmp_path / "rows"), EpochSettings(SIZE, 3)
    place = tmp_path / "epoch"
    made = compose_epoch(rows, how, 0, str(place))
    whole, reader = contents(made), EpochReader(made, 0)
    refs = [reader.step_ref(step) for step in range(len(reader))]
    ref = next(one for one in refs if one.index >= reader.notes["group_steps"])
    path, number = Path(reader.files[ref.file]), ref.index // reader.notes["group_steps"]
    with open_parquet(str(path)) as parquet:
        column = parquet.metadata.row_group(number).column(0)
        start, size = column.dictionary_page_offset or column.data_page_offset, column.total_compressed_size
    bytes_ = bytearray(path.read_bytes())
    bytes_[start : start + size] = b"\xff" * size
    path.write_bytes(bytes_)
    with pytest.raises(
        UserError, match=rf"{path.name}: .*\(row group {number}\); remove {place}, and the same command"
    ):
        reader.batch(ref)
    shutil.rmtree(place)
    assert contents(compose_epoch(rows, how, 0, str(place))) == whole
