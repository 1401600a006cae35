"""Documents embedded by passages: against vectors one by one, however they are cut, stopped, changed and stored."""

import json
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.config import validate
from pipeline.core.errors import UserError
from pipeline.embedding import passage_rows
from pipeline.embedding.job import EmbedConfig, run
from pipeline.encoder import passage_vectors
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.encoder.passages import PassageCutter, PassagesConfig, passages
from pipeline.storage.artifact import Artifact
from pipeline.storage.vectors import l2_normalize, to_matrix
from tests.pipeline.embedding.test_job import files_of, stop_at
from tests.support.corpora import stay_in_process

ENCODER = {"model": "gt:all-minilm-l6-v2", "layers": 2, "max_length": 32, "dtype": "float32"}
CUT = {"tokens": 16, "overlap": 4, "full_text": 0.25}
SENTENCES = ["The kettle boils.", "A lamp shines brightly over the sofa!", "Scarves and shoes are sold.", "So it is."]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    stay_in_process(monkeypatch)


def texts(count: int) -> list[str]:
    """Documents of no to twenty sentences."""
    return [" ".join(SENTENCES[(row * step) % 4] for step in range(row % 21)) for row in range(count)]


def write(path: Path, documents: list[str]) -> Path:
    names = [f"d{row}" for row in range(len(documents))]
    pq.write_table(pa.table({"id": names, "text": documents, "title": [name.upper() for name in names]}), path)
    return path


def settings(out: Path, path: Path, **more: object) -> EmbedConfig:
    given = {"out": str(out), "input": str(path), "encoder": ENCODER, "passages": CUT, "num_actors": 1}
    return validate(EmbedConfig, given | more)


def test_rows_are_the_passages_of_documents(
    in_process: None, minilm: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    documents = [*texts(30), "", " \n"]
    path = write(tmp_path / "in.parquet", documents)
    done = run(settings(tmp_path / "out", path, rows_per_shard=7, columns=["title"]))
    table = done.read("vectors")
    encoder = Encoder.load(EncoderConfig.model_validate(ENCODER), "cpu")
    cutter, wanted, made = PassageCutter(encoder, PassagesConfig(**CUT)), [], []
    for row, text in enumerate(documents):
        if text.strip():
            spans = cutter.cut([text])[0]
            cut = passages(text, spans)
            wanted += [(f"d{row}", start, passage, f"D{row}") for (start, _), passage in zip(spans, cut, strict=True)]
            whole = encoder.encode([text], "document")
            made.append(0.75 * encoder.encode(cut, "document") + 0.25 * whole)
    names = ("id", "passage_start", "passage", "title")
    assert [*zip(*(table[name].to_pylist() for name in names), strict=True)] == wanted
    assert np.abs(to_matrix(table["vector"]) - np.concatenate(made)).max() < 1e-5
    assert done.manifest.notes["documents"] == len(made) and done.manifest.dropped == {"empty_text": 4}
    assert done.manifest.notes["passages"]["tokens"] == 16 and done.rows("vectors") == len(wanted)
    said = capfd.readouterr().err
    assert f"{len(wanted)} vectors of 384 float32 of passages of {len(made)} documents" in said
    assert "passages of at most 16 tokens on average (in a sample of" in said
    assert run(settings(tmp_path / "out", path, rows_per_shard=7, columns=["title"])).manifest == done.manifest
    with pytest.raises(UserError, match=r"another setting of .*passages"):
        run(settings(tmp_path / "out", path, columns=["title"], passages={"tokens": 16}))


def test_shards_and_groups_change_no_row(
    in_process: None, minilm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = write(tmp_path / "in.parquet", texts(50))
    one = run(settings(tmp_path / "one", path)).read("vectors")
    for size, characters in ((3, 1 << 20), (50, 1), (17, 300)):
        monkeypatch.setattr(passage_rows, "groups", lambda rows, limit=characters: passage_vectors.groups(rows, limit))
        other = run(settings(tmp_path / f"{size}", path, rows_per_shard=size)).read("vectors")
        assert other.drop_columns("vector").equals(one.drop_columns("vector"))
        assert np.abs(to_matrix(other["vector"]) - to_matrix(one["vector"])).max() < 1e-5


def test_an_error_leaves_whole_shards_and_no_pieces(
    in_process: None, minilm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path, calls = write(tmp_path / "in.parquet", texts(40)), []
    encoded = passage_rows.PassageRows._encoded

    def fails(rows: passage_rows.PassageRows, *given: object) -> pa.Table:
        calls.append(rows)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        return encoded(rows, *given)

    with monkeypatch.context() as patch, pytest.raises(UserError, match="No space left"):
        patch.setattr(passage_rows.PassageRows, "_encoded", fails)
        run(settings(tmp_path / "out", path, rows_per_shard=10))
    first = files_of(tmp_path / "out")
    assert len(first) == 3 and not list((tmp_path / "out").glob("vectors/*.partial"))
    done = run(settings(tmp_path / "out", path, rows_per_shard=10))
    assert first.items() <= files_of(tmp_path / "out").items()
    whole = run(settings(tmp_path / "whole", path, rows_per_shard=10))
    assert done.read("vectors").equals(whole.read("vectors")) and done.manifest.notes == whole.manifest.notes


def test_changed_documents_alone_are_embedded_anew(in_process: None, minilm: str, tmp_path: Path):
    documents = texts(40)
    path = write(tmp_path / "in.parquet", documents)
    first = run(settings(tmp_path / "out", path, incremental=True)).read("vectors")
    changed = [text + " It is new." if row == 20 else text for row, text in enumerate(documents)]
    write(path, changed)
    done = run(settings(tmp_path / "out", path, incremental=True))
    whole = run(settings(tmp_path / "whole", path, incremental=True)).read("vectors")
    of_changed = sum(name == "d20" for name in done.read("vectors")["id"].to_pylist())
    assert done.manifest.notes["copied"] == done.rows("vectors") - of_changed < len(first)
    assert done.read("vectors").drop_columns("vector").equals(whole.drop_columns("vector"))
    assert np.abs(to_matrix(done.read("vectors")["vector"]) - to_matrix(whole["vector"])).max() < 1e-5


def test_narrower_formats_are_means_of_what_was_cut(in_process: None, minilm: str, tmp_path: Path):
    path = write(tmp_path / "in.parquet", texts(25))
    formats = [{"dtype": "float32", "dim": 64}, {"dtype": "int8", "dim": 64}]
    done = run(settings(tmp_path / "out", path, extra_formats=formats, passages={**CUT, "full_text": 0.5}))
    alone = run(settings(tmp_path / "alone", path, passages={**CUT, "full_text": 0}))
    table, made = done.read("vectors"), to_matrix(alone.read("vectors")["vector"])
    encoder = Encoder.load(EncoderConfig.model_validate(ENCODER), "cpu")
    whole = dict(zip([f"d{row}" for row in range(25)], encoder.encode(texts(25), "document"), strict=True))
    of_rows = np.stack([whole[name] for name in table["id"].to_pylist()])
    wanted = 0.5 * l2_normalize(made[:, :64]) + 0.5 * l2_normalize(of_rows[:, :64])
    assert np.abs(to_matrix(table["vector_float32_64"]) - wanted).max() < 1e-5
    assert np.abs(to_matrix(table["vector_int8_64"], done.manifest.notes["calibration"]) - wanted).max() < 0.01


@pytest.mark.ray
@pytest.mark.timeout(290)
def test_a_killed_driver_goes_on_where_it_was(ray_session: None, minilm: str, tmp_path: Path):
    path, out = write(tmp_path / "in.parquet", texts(900)), tmp_path / "out"
    more = {"encoder.max_length": 32, "encoder.dtype": "float32", "passages": json.dumps(CUT)}
    code, said = stop_at(path, out, 2, signal.SIGKILL, **more)
    assert code == -signal.SIGKILL, said
    first = files_of(out)
    assert 2 <= len(first) < 80
    with pytest.raises(UserError, match=r"has no manifest\.json"):
        Artifact.open(str(out), "embed")
    done = run(settings(out, path, rows_per_shard=10))
    assert first.items() <= files_of(out).items() and not list(out.glob("vectors/*.partial"))
    ids, starts = (done.read("vectors")[name].to_pylist() for name in ("id", "passage_start"))
    assert len(set(zip(ids, starts, strict=True))) == len(ids)
    assert set(ids) == {f"d{row}" for row, text in enumerate(texts(900)) if text}
    assert done.manifest.notes["documents"] == len(set(ids))


def test_queries_have_no_passages_and_their_columns_a_name_of_their_own(in_process: None, minilm: str, tmp_path: Path):
    with pytest.raises(UserError, match="passages are cut from documents"):
        validate(EmbedConfig, {"input": "x", "role": "query", "passages": {}})
    path = write(tmp_path / "in.parquet", texts(3))
    pq.write_table(pq.read_table(path).rename_columns(["id", "text", "passage"]), path)
    with pytest.raises(UserError, match="more than one column 'passage'"):
        run(settings(tmp_path / "out", path, columns=["passage"]))
