"""Embedding: shards and ids without Ray; the job on a real model, killed and gone on with."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core import schema
from pipeline.core.config import validate
from pipeline.core.errors import UserError
from pipeline.embedding.job import EmbedConfig, run
from pipeline.embedding.unique_ids import check_ids
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.encoder.truncation import Truncation
from pipeline.storage import shards
from pipeline.storage.artifact import Artifact, Draft
from pipeline.storage.vectors import rows_with_text, to_matrix, vectors_table

ROOT = Path(__file__).resolve().parents[3]
ENCODER = {"model": "gt:all-minilm-l6-v2", "layers": 2}
WORDS = ("kettle", "lamp", "mug", "shoes", "scarf", "headphones", "bicycle", "hose", "tripod", "sofa", "oven")


def texts(count: int) -> list[str]:
    return [" ".join(WORDS[(row * step) % 11] for step in range(1, 3 + row % 7)) for row in range(count)]


def write_rows(path: Path, count: int, start: int = 0, group: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"id": [f"d{row}" for row in range(start, start + count)], "text": texts(count)})
    pq.write_table(table, path, row_group_size=group)
    return path


def write_lines(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("size", [1, 3, 8, 100])
def test_shards_cover_every_row_once_in_order(tmp_path: Path, size: int):
    write_rows(tmp_path / "in" / "a.parquet", 20)
    write_rows(tmp_path / "in" / "b.parquet", 5, start=20)
    write_lines(tmp_path / "in" / "c.jsonl", [{"id": f"d{row}", "text": "x"} for row in range(25, 32)])
    write_rows(tmp_path / "in" / "_skipped.parquet", 3)
    plan = shards.plan(shards.find_files(str(tmp_path / "in")), size, "salt")
    read = [name for shard in plan for name in shards.read(shard, ["id"])["id"].to_pylist()]
    assert read == [f"d{row}" for row in range(32)]
    assert [shard.rows for shard in plan] == [shards.read(shard, ["text"]).num_rows for shard in plan]
    assert len({shard.name for shard in plan}) == len(plan) and all(shard.rows <= size for shard in plan)
    assert plan == shards.plan(shards.find_files(str(tmp_path / "in")), size, "salt")
    assert not {s.name for s in plan} & {
        s.name for s in shards.plan(shards.find_files(str(tmp_path / "in")), size, "other")
    }


def test_a_damaged_or_foreign_file_is_no_committed_shard(tmp_path: Path):
    table = pa.table({"id": ["a", "b"]})
    shards.commit(str(tmp_path), "good", table, {"empty_text": 1})
    assert shards.committed(str(tmp_path), "good") == {"rows": 2, "empty_text": 1}
    whole = (tmp_path / "good.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:-20])
    (tmp_path / "empty.parquet").write_bytes(b"")
    pq.write_table(table, tmp_path / "foreign.parquet")
    assert [shards.committed(str(tmp_path), name) for name in ("cut", "empty", "foreign", "absent")] == [None] * 4
    assert not list(tmp_path.glob("*.partial"))


def test_ids_that_are_missing_or_twice_are_named(tmp_path: Path):
    lines = write_lines(tmp_path / "a.jsonl", [{"id": "a"}, {"id": "b"}, {"id": "a"}])
    with pytest.raises(UserError, match=r"a\.jsonl: 1 ids of 'id' occur more than once \('a'\)"):
        check_ids(shards.plan([str(lines)], 2, ""), "id", str(tmp_path / "ids"))
    lines = write_lines(tmp_path / "b.jsonl", [{"id": "a"}, {"id": "b"}, {"id": None}])
    with pytest.raises(UserError, match=r"b\.jsonl: 1 rows have no 'id', first row 3"):
        check_ids(shards.plan([str(lines)], 2, ""), "id", str(tmp_path / "ids"))


def test_many_ids_are_compared_by_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipeline.embedding.unique_ids._IDS_A_BUCKET", 4)
    monkeypatch.setattr("pipeline.embedding.unique_ids._IDS_A_TASK", 10)
    path, staging = write_rows(tmp_path / "a.parquet", 30), tmp_path / "ids"
    check_ids(shards.plan([str(path)], 7, ""), "id", str(staging))
    assert not staging.exists()
    twice = pa.concat_tables([pq.read_table(path), pa.table({"id": ["d11"], "text": ["x"]})])
    pq.write_table(twice, path)
    with pytest.raises(UserError, match="d11"):
        check_ids(shards.plan([str(path)], 7, ""), "id", str(staging))


def test_blank_texts_are_left_out_and_integer_ids_become_strings():
    rows = pa.table({"n": [1, 2, 3, 4], "t": ["a", None, " \n", "b"]})
    assert rows_with_text(rows, "f", "n", "t").to_pylist() == [{"id": "1", "text": "a"}, {"id": "4", "text": "b"}]
    with pytest.raises(UserError, match="f: column 'n' is int64, expected strings"):
        rows_with_text(rows, "f", "t", "n")


def test_numbers_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="not finite in float16"):
        vectors_table(pa.chunked_array([["a"]]), np.array([[1e6, 0]], np.float32), "float16")


def settings(out: Path, **more: object) -> EmbedConfig:
    return validate(EmbedConfig, {"out": str(out), "encoder": ENCODER, "rows_per_shard": 10, "num_actors": 1} | more)


def test_the_model_of_the_run_is_the_default():
    assert validate(EmbedConfig, {"run": "r", "encoder": {"layers": 2}}).encoder.model == "r/model"
    with pytest.raises(UserError, match="data or input, not both"):
        validate(EmbedConfig, {"data": "a", "input": "b"})


def test_errors_are_one_line_and_exit_2(tmp_path: Path, minilm: str, capsys: pytest.CaptureFixture[str]):
    from pipeline.core.config import main

    good = write_rows(tmp_path / "good.parquet", 3)
    (tmp_path / "bad.parquet").write_bytes(b"no parquet at all")
    (tmp_path / "file").write_text("")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text((Path(minilm) / "config.json").read_text())
    model = ["--encoder.model", "gt:all-minilm-l6-v2", "--encoder.layers", "1"]
    cases = [
        (["--input", str(good), "--encoder.model", str(tmp_path / "none")], "no such directory"),
        (["--input", str(good), "--encoder.model", str(tmp_path / "bare")], "has no tokenizer"),
        ([*model], "run `tripletail build` first"),
        (["--input", str(good), "--text_column", "body", *model], "has no column 'body'; it has id, text"),
        (["--input", str(good), "--id_column", "key", *model], "has no column 'key'; it has id, text"),
        (["--input", str(good), *model, "--out", str(tmp_path / "file" / "out")], "out"),
        (["--input", str(tmp_path / "bad.parquet"), *model], "not readable as Parquet"),
        (["--input", str(tmp_path / "*.csv"), *model], "no such file or directory"),
    ]
    for argv, wanted in cases:
        with pytest.raises(SystemExit) as stop:
            main(EmbedConfig, "embed", run, ["--run", str(tmp_path / "run"), *argv])
        said = capsys.readouterr().err.strip()
        assert stop.value.code == 2 and wanted in said and "\n" not in said, said


@pytest.mark.ray
def test_vectors_of_a_corpus_equal_the_encoder(
    tmp_path: Path, minilm: str, ray_session: None, capfd: pytest.CaptureFixture[str]
):
    draft = Draft(str(tmp_path / "data"), "build", {}, {})
    plain = [*texts(23), "", "last"]
    rows = [
        {"doc_id": f"d{row}", "title": "", "text": text, "tags": [], "source": "t"} for row, text in enumerate(plain)
    ]
    draft.write("corpus", pa.Table.from_pylist(rows, schema=schema.TABLES["corpus"]))
    data = draft.finish(["corpus"])
    done = run(settings(tmp_path / "out", data=data.path, dtype="float16", num_actors=2))
    assert done.manifest.dropped == {"empty_text": 1}
    assert done.manifest.inputs["data"] == data.manifest.fingerprint
    table = pa.concat_tables([pq.read_table(path) for path in done.files("vectors")])
    assert table.schema.field("vector").type == pa.list_(pa.field("element", pa.float16()), 384)
    assert table["id"].to_pylist() == [row["doc_id"] for row in rows if row["text"]]
    encoder = Encoder.load(EncoderConfig.model_validate(ENCODER), "cpu")
    assert done.manifest.notes["encoder"] == encoder.identity and done.manifest.notes["dim"] == 384
    wanted = encoder.encode([text for text in plain if text], "document")
    cut = Truncation.measure(encoder, [text for text in plain if text], "document")
    assert done.manifest.notes["truncation"] == {"document": cut.note()} and cut.texts == 24
    said = capfd.readouterr().err
    assert f"embed: {cut.sentence()}" in said and f", {cut.text_share:.0%} of texts cut" in said
    assert np.abs(np.array(table["vector"].to_pylist()) - wanted).max() < 5e-3

    assert run(settings(tmp_path / "out", data=data.path, dtype="float16", num_actors=1)).manifest == done.manifest
    assert "already done" in capfd.readouterr().err
    with pytest.raises(UserError, match=r"another setting of .*dtype"):
        run(settings(tmp_path / "out", data=data.path, dtype="float32"))


# A suite that a shell runs in the background ignores Ctrl-C, and so would all that it starts.
HEARS = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


def command(path: Path, out: Path, **more: object) -> list[str]:
    given = {"--input": path, "--out": out, "--rows_per_shard": 10, "--num_actors": 1}
    given |= {f"--{name}": value for name, value in more.items()}
    given |= {f"--encoder.{name}": value for name, value in ENCODER.items()}
    return [sys.executable, "-c", HEARS, "-m", "scripts.embed", *(str(word) for item in given.items() for word in item)]


def stop_at(path: Path, out: Path, shards_held: int, how: signal.Signals, **more: object) -> tuple[int, str]:
    """Start the job in a process of its own, and signal it once so many shards are committed; code and stderr."""
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with (out.parent / "said").open("w+") as said:
        driver = subprocess.Popen(command(path, out, **more), cwd=ROOT, env=env, stderr=said)
        deadline = time.monotonic() + 120
        while len(list(out.glob("vectors/*.parquet"))) < shards_held:
            assert driver.poll() is None and time.monotonic() < deadline, (out.parent / "said").read_text()
            time.sleep(0.005)
        os.kill(driver.pid, how)
        return driver.wait(60), (out.parent / "said").read_text()


def files_of(out: Path) -> dict[Path, tuple[int, int]]:
    """Inode and time of every committed shard, once the workers of a stopped driver write no more."""
    held = -1
    while held != (now := len(list(out.glob("vectors/*")))):
        held = now
        time.sleep(2)
    return {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in out.glob("vectors/*.parquet")}


ROWS = 1200  # ten a shard: the job lasts seconds, and a signal finds it at work however late it comes


@pytest.mark.ray
@pytest.mark.timeout(290)
def test_an_interrupted_and_a_killed_driver_go_on_where_they_were(tmp_path: Path, minilm: str, ray_session: None):
    path, out, shards = write_rows(tmp_path / "in.parquet", ROWS), tmp_path / "out", ROWS // 10
    code, said = stop_at(path, out, 2, signal.SIGINT)
    assert code == 130 and "the same command resumes" in said and "Traceback" not in said, said
    first = files_of(out)
    assert 2 <= len(first) < shards - 10
    code, said = stop_at(path, out, len(first) + 3, signal.SIGKILL)
    assert code == -signal.SIGKILL and f"resumes after {10 * len(first):,} of {ROWS:,}" in said, said
    with pytest.raises(UserError, match=r"has no manifest\.json"):
        Artifact.open(str(out), "embed")
    second = files_of(out)
    assert len(first) + 3 <= len(second) < shards and first.items() <= second.items()

    done = run(settings(out, input=str(path)))
    whole = run(settings(tmp_path / "whole", input=str(path)))
    assert second.items() <= files_of(out).items()
    assert done.read("vectors").equals(whole.read("vectors"))
    assert sorted(done.read("vectors")["id"].to_pylist()) == sorted(f"d{row}" for row in range(ROWS))
    assert not list(out.glob("vectors/*.partial"))


@pytest.mark.ray
def test_a_killed_worker_loses_no_row(tmp_path: Path, minilm: str, ray_session: None):
    import psutil

    path, out, killed = write_rows(tmp_path / "in.parquet", 1500), tmp_path / "out", []

    def kill_a_worker() -> None:
        while len(list(out.glob("vectors/*.parquet"))) < 2:
            time.sleep(0.005)
        for process in psutil.Process().children(recursive=True):
            if any("EmbedShard" in word for word in process.cmdline()):
                process.kill()
                killed.append(process.pid)

    killer = threading.Thread(target=kill_a_worker, daemon=True)
    killer.start()
    done = run(settings(out, input=str(path), rows_per_shard=5))
    assert killed, "the job was over before its worker could be killed"
    assert done.read("vectors")["id"].to_pylist() == [f"d{row}" for row in range(1500)]


@pytest.mark.ray
def test_only_what_is_new_is_embedded_and_what_is_gone_is_left_out(tmp_path: Path, minilm: str, ray_session: None):
    folder, also = tmp_path / "in", [{"dtype": "int8"}, {"dtype": "binary", "dim": 64}]
    folder.mkdir()
    rows = [{"id": f"d{row}", "title": f"t{row}", "text": text} for row, text in enumerate(texts(25))]
    write_lines(folder / "b.jsonl", [*rows, {"id": "x", "title": "", "text": "  "}])
    with (folder / "b.jsonl").open("a") as file:
        file.write("no json\n")
    more = {"input": str(folder), "columns": ["title"], "extra_formats": also, "incremental": True, "dtype": "float16"}
    first = run(settings(tmp_path / "out", **more))
    assert first.manifest.dropped == {"empty_text": 1, "unreadable_row": 1} and first.rows("vectors") == 25
    ranges = first.manifest.notes["calibration"]
    before = files_now(tmp_path / "out")

    (folder / "a.csv").write_text("id,title,text\na1,new,warm wool scarf\n")
    second = run(settings(tmp_path / "out", **more))
    table = second.read("vectors")
    assert table["id"].to_pylist() == ["a1", *(f"d{row}" for row in range(25))]
    assert table["title"].to_pylist() == ["new", *(f"t{row}" for row in range(25))]
    assert set(before.values()) < set(files_now(tmp_path / "out").values())
    assert second.manifest.notes["calibration"] == ranges

    rows[3]["text"], rows[4]["title"] = "a text of another kind", "renamed"
    write_lines(folder / "b.jsonl", rows[1:])
    third = run(settings(tmp_path / "out", **more))
    found = third.read("vectors")
    assert found["id"].to_pylist() == ["a1", *(f"d{row}" for row in range(1, 25))]
    assert third.manifest.notes["copied"] == 23 and third.manifest.dropped == {}
    assert found["title"][4].as_py() == "renamed"
    fresh = run(settings(tmp_path / "fresh", **more, calibration=str(tmp_path / "out" / "calibration.json")))
    for name in ("vector", "vector_int8"):
        ours, wanted = (to_matrix(one.read("vectors")[name], ranges) for one in (third, fresh))
        assert np.abs(ours - wanted).max() < 0.02
    with pytest.raises(UserError, match="another setting of extra_formats"):
        run(settings(tmp_path / "out", **more | {"extra_formats": []}))


def files_now(out: Path) -> dict[str, int]:
    return {file.name: file.stat().st_ino for file in out.glob("vectors/*.parquet")}


@pytest.mark.ray
def test_unfinished_work_of_another_model_is_cleared(tmp_path: Path, minilm: str, ray_session: None):
    path = write_rows(tmp_path / "in.parquet", 30)
    first = run(settings(tmp_path / "out", input=str(path)))
    names = set(first.manifest.tables["vectors"].files)
    (tmp_path / "out" / "manifest.json").unlink()
    other = run(settings(tmp_path / "out", input=str(path), encoder=ENCODER | {"layers": 1}))
    assert not names & set(other.manifest.tables["vectors"].files)
    assert other.rows("vectors") == 30


def test_a_shard_without_rows_is_read_as_an_empty_table(tmp_path: Path):
    pq.write_table(
        pa.table({"id": pa.array([], pa.string()), "text": pa.array([], pa.string())}), tmp_path / "a.parquet"
    )
    write_rows(tmp_path / "b.parquet", 3)
    empty = shards.Shard(0, str(tmp_path / "a.parquet"), 0, 0, 0, "a")
    assert shards.read(empty, ["text", "id"]).schema.names == ["text", "id"]
    none_of_three = shards.Shard(0, str(tmp_path / "b.parquet"), 3, 0, 0, "b")
    assert shards.read(none_of_three, ["id"]).num_rows == 0


@pytest.mark.ray
def test_a_file_of_blank_texts_is_counted_and_ends_no_job(tmp_path: Path, minilm: str, ray_session: None):
    write_rows(tmp_path / "in" / "a.parquet", 3)
    pq.write_table(pa.table({"id": ["x", "y"], "text": ["", "  "]}), tmp_path / "in" / "b.parquet")
    config = {"input": str(tmp_path / "in"), "out": str(tmp_path / "out"), "encoder": {**ENCODER, "model": minilm}}
    for _ in range(2):
        artifact = run(validate(EmbedConfig, config))
        assert sorted(artifact.read("vectors", ["id"])["id"].to_pylist()) == ["d0", "d1", "d2"]
        assert artifact.manifest.dropped == {"empty_text": 2}
