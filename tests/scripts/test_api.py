"""Tripletail from Python: jobs with keywords, rows in memory as sources, artifacts as tables, errors as exceptions."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from pipeline.building.config import BuildConfig
from pipeline.core.errors import UserError
from pipeline.storage.artifact import Artifact
from pipeline.storage.files import read_json
from scripts import tripletail
from scripts.tripletail.rows import is_rows, write_rows
from tests.support.corpora import inline, table, write_jsonl

__all__ = ["inline"]
ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    {"question": f"How do I mend a {thing}?", "answer": f"A {thing} is mended with part {number} and some patience."}
    for number, thing in enumerate(("kettle", "lamp", "tent", "drill", "pan", "mug", "hose", "tripod"))
]
FAQ = {"kind": "qa", "name": "faq"}
TABLES = ("corpus", "queries", "qrels", "pairs")


def run_python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'scripts'}", "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", **env}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def in_every_form() -> dict[str, Any]:
    datasets = pytest.importorskip("datasets")
    return {
        "list": ROWS,
        "pandas": pd.DataFrame(ROWS),
        "arrow": pa.Table.from_pylist(ROWS),
        "datasets": datasets.Dataset.from_list(ROWS),
        "streamed": datasets.Dataset.from_list(ROWS).to_iterable_dataset(num_shards=3),
    }


def test_importing_it_imports_nothing_slow():
    result = run_python(
        "import sys, tripletail\n"
        "print(sorted(set(dir(tripletail)) - set(tripletail.__all__)))\n"
        "assert not {'torch', 'ray', 'pydantic', 'pyarrow'} & set(sys.modules), 'slow'\n"
        "from tripletail import *\nprint(build.__module__, Artifact.__name__)"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("\n")[:2] == ["[]", "tripletail.api Artifact"]


def test_every_public_name_is_documented_with_an_example():
    for name in tripletail.__all__:
        item = getattr(tripletail, name)
        assert item.__doc__, name
        if item.__module__.endswith("tripletail.api"):
            assert "Example:" in item.__doc__ and f"tripletail.{name}(" in item.__doc__


@pytest.mark.parametrize("form", ["list", "pandas", "arrow", "datasets", "streamed"])
def test_rows_in_memory_are_rows_of_a_file(inline, tmp_path, form):
    write_jsonl(tmp_path / "faq.jsonl", ROWS)
    file = {"type": "jsonl", "path": str(tmp_path / "faq.jsonl"), **FAQ}
    expected = tripletail.build(run=str(tmp_path / "file"), sources=[file])
    artifact = tripletail.build(run=str(tmp_path / form), sources=[{"rows": in_every_form()[form], **FAQ}])
    assert expected.rows("pairs") == len(ROWS)
    for name in TABLES:
        assert table(artifact, name) == table(expected, name)


def test_a_field_that_the_first_row_lacks_is_read(tmp_path):
    path = write_rows([{"anchor": "a"}, {"anchor": "b", "positive": "c"}], str(tmp_path), "pairs")
    assert pa.parquet.read_table(path).to_pylist()[1] == {"anchor": "b", "positive": "c"}


def test_equal_rows_are_one_input_and_others_another(inline, tmp_path, capsys):
    def build(rows: list[dict[str, str]], **more: Any) -> Artifact:
        return tripletail.build(run=str(tmp_path / "run"), sources=[{"rows": rows, **FAQ}], **more)

    first = build(ROWS)
    assert build(list(map(dict, ROWS))).manifest == first.manifest
    assert "already done" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"is finished but with another setting of sources"):
        build(ROWS[1:])
    assert build(ROWS[1:], overwrite=True).rows("pairs") == len(ROWS) - 1
    files = sorted(path.name for path in (tmp_path / "run" / "inputs").iterdir())
    assert len(files) == 2 and all(name.startswith("faq-") and name.endswith(".parquet") for name in files)


def test_what_a_job_records_can_be_run_without_the_rows(inline, tmp_path):
    first = tripletail.build(run=str(tmp_path / "run"), sources=[{"rows": ROWS, **FAQ}])
    recorded = read_json(first.path + "/config.json")
    again = tripletail.build(recorded, run=str(tmp_path / "again"))
    assert table(again, "pairs") == table(first, "pairs")
    assert again.manifest.inputs == first.manifest.inputs


def test_rows_do_not_depend_on_how_they_are_cut(tmp_path):
    single = pa.Table.from_pylist([{"id": str(number), "text": f"text {number}"} for number in range(70_000)])
    pieces = pa.concat_tables([single.slice(start, 999) for start in range(0, 70_000, 999)])
    assert write_rows(single, str(tmp_path), "a") == write_rows(pieces, str(tmp_path), "a")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_bare_data_set_holds_pairs(inline, tmp_path):
    rows = pd.DataFrame({"anchor": [row["question"] for row in ROWS], "positive": [row["answer"] for row in ROWS]})
    assert tripletail.build(run=str(tmp_path / "one"), sources=rows).rows("pairs") == len(ROWS)
    assert tripletail.build(run=str(tmp_path / "list"), sources=[rows]).rows("pairs") == len(ROWS)


def test_sources_of_settings_are_no_rows():
    assert is_rows(ROWS) and is_rows(pd.DataFrame(ROWS))
    for value in ([{"type": "jsonl", "path": "a"}], [{"rows": ROWS}], [], ["a"], None, "a.jsonl", ["a", "b"]):
        assert not is_rows(value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"rows": []}, r"rows of 'rows': there are none"),
        ({"rows": [{}], "name": "faq"}, r"rows of 'faq': there are none"),
        ({"rows": 3}, r"rows of 'rows': expected a Ray or Hugging Face data set, .* got int"),
        ({"rows": [{"question": 1}, {"question": "a"}]}, r"rows of 'rows': .*"),
        ({"rows": ROWS, "type": "jsonl"}, r"source with rows: its type is 'jsonl'; leave type out"),
        ({"rows": ROWS, "kind": "qu"}, r"setting 'sources.0.files.0.kind' is 'qu'"),
        ({"rows": ROWS, **FAQ, "fields": {"answer": "text"}}, r"kind qa has no role 'answer'"),
    ],
)
def test_rows_that_cannot_be_used_are_named(inline, tmp_path, source, message):
    with pytest.raises(UserError, match=message):
        tripletail.build(run=str(tmp_path), sources=[source])
    assert not list(tmp_path.glob("inputs/*.partial"))


def test_a_data_set_of_several_splits_is_refused(inline, tmp_path):
    datasets = pytest.importorskip("datasets")
    splits = datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)})
    with pytest.raises(UserError, match=r"name one split of the data set, such as dataset\['train'\]"):
        tripletail.build(run=str(tmp_path), sources=[{"rows": splits, **FAQ}])


def test_mistakes_are_exceptions_that_name_the_setting(tmp_path):
    for call, message in (
        (lambda: tripletail.build(run=str(tmp_path), sorces=[]), "unknown setting 'sorces'; did you mean 'sources'?"),
        (lambda: tripletail.train(run=str(tmp_path), loop={"epoch": 1}), "did you mean 'loop.epochs'?"),
        (lambda: tripletail.mine(run=str(tmp_path)), "no such directory; run `tripletail build` first"),
        (lambda: tripletail.embed(run=str(tmp_path), input=str(tmp_path / "none.txt")), "none.txt"),
        (lambda: tripletail.index(run=str(tmp_path)), "no such directory; run `tripletail embed` first"),
        (lambda: tripletail.run({"mine": {}}, first="train"), "has no section 'train:'"),
        (lambda: tripletail.run("nowhere.yaml"), "recipe nowhere.yaml: No such file"),
        (lambda: tripletail.inspect(tmp_path / "none"), "no such directory"),
        (lambda: tripletail.search("a", tmp_path / "none"), "is no artifact of index or embed"),
        (lambda: tripletail.load_encoder(tmp_path, layers=0), "setting 'layers' is 0"),
    ):
        with pytest.raises(UserError) as caught:
            call()
        assert message in str(caught.value) and "\n" not in str(caught.value)


def test_what_ray_wraps_is_unwrapped():
    class TaskError(Exception):
        cause = UserError("corpus.parquet: no such file")

    with pytest.raises(UserError, match=r"^corpus.parquet: no such file$"), tripletail.api.user_errors():
        raise TaskError
    with pytest.raises(ZeroDivisionError), tripletail.api.user_errors():
        _ = 1 // 0


def test_a_recipe_is_a_path_a_name_settings_or_an_object(inline, tmp_path, monkeypatch):
    sources = [{"rows": ROWS, **FAQ}]
    by_name = tripletail.run("quickstart", run=tmp_path / "name", last="build")["build"]
    assert by_name.rows("corpus") > 500
    by_settings = tripletail.run({"run": str(tmp_path / "settings"), "build": {"sources": sources}})["build"]
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"run": str(tmp_path / "path"), "build": {"sources": sources}}))
    by_path = tripletail.build(path, min_chars=3)
    config = BuildConfig(run=str(tmp_path / "object"), sources=by_path_sources(by_path))
    by_object = tripletail.build(config, max_chars=5000)
    for artifact in (by_settings, by_path, by_object):
        assert table(artifact, "pairs") == table(by_settings, "pairs")
    assert read_json(by_object.path + "/config.json")["max_chars"] == 5000


def by_path_sources(artifact: Artifact) -> Any:
    return read_json(artifact.path + "/config.json")["sources"]


def test_inspect_shows_and_returns_what_there_is(inline, tmp_path, capsys):
    data = tripletail.build(run=str(tmp_path / "run"), sources=[{"rows": ROWS, **FAQ}])
    survey = tripletail.inspect(data, html=tmp_path / "data.html")
    assert {item.name for item in survey.tables} >= {"corpus", "pairs"}
    assert "corpus" in capsys.readouterr().out and "Random rows" in (tmp_path / "data.html").read_text()
    assert data.table("pairs", ["anchor"]).column_names == ["anchor"]
    assert list(data.pandas("pairs")["source"].unique()) == ["faq"]
    assert Artifact.open(data.path).manifest == data.manifest


@pytest.mark.ray
def test_the_callers_ray_session_is_used_and_left_running(ray_session, tmp_path):
    import ray

    node = ray.get_runtime_context().get_node_id()
    data = tripletail.build(
        run=str(tmp_path / "run"), sources=[{"rows": ray.data.from_items(ROWS, override_num_blocks=3), **FAQ}]
    )
    assert data.rows("pairs") == len(ROWS)
    assert sorted(data.dataset("pairs", ["anchor"]).to_pandas()["anchor"]) == sorted(row["question"] for row in ROWS)
    assert ray.is_initialized() and ray.get_runtime_context().get_node_id() == node


@pytest.mark.ray
def test_rows_are_embedded_and_searched(ray_session, minilm, tmp_path):
    rows = [{"id": str(number), "text": row["answer"], "title": row["question"]} for number, row in enumerate(ROWS)]
    encoder = {"model": minilm, "layers": 2, "backend": "torch"}
    vectors = tripletail.embed(run=str(tmp_path), input=rows, encoder=encoder, columns=["title"])
    assert vectors.rows("vectors") == len(rows)
    searcher = tripletail.Searcher(vectors.path)
    best = tripletail.search([row["question"] for row in ROWS], searcher, top_k=1)
    assert [hits[0].doc_id for hits in best] == [row["id"] for row in rows]
    assert tripletail.search(ROWS[0]["question"], vectors, top_k=2)[0].title == ROWS[0]["question"]
    loaded = tripletail.load_encoder(minilm, layers=2, device="cpu")
    assert loaded.encode(["a kettle"], "query").shape == (1, 384)
