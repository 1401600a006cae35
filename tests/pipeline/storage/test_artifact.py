"""Artifacts: whole or refused, the same or named, here or on a remote store."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import UserError
from pipeline.storage import artifact, files, shards
from pipeline.storage.artifact import Artifact, Draft, begin
from pipeline.storage.fingerprints import fingerprint_file
from tests.support.s3 import Store

SETTINGS = {"seed": 7, "model": "small"}
INPUTS = {"corpus": "abc"}
QUERIES = pa.table({"query_id": ["q1", "q2"], "text": ["a", "b"], "source": ["s", "s"], "split": ["train", "dev"]})


def start(path: str, *, settings=SETTINGS, inputs=INPUTS, overwrite=False, keep=False) -> Draft | Artifact:
    return begin(path, "build", settings, inputs, overwrite=overwrite, resume=keep)


def finished(path: str) -> Artifact:
    draft = start(path)
    assert isinstance(draft, Draft)
    draft.write("queries", QUERIES)
    draft.drop({"empty text": 3})
    return draft.finish(["queries"])


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "data")


def test_a_finished_artifact_reads_back(place):
    finished(place)
    found = Artifact.open(place, "build")
    assert found.read("queries").equals(QUERIES) and found.rows("queries") == 2 and found.has("queries")
    assert found.rows("corpus") == 0 and not found.has("corpus")
    assert [Path(name).name for name in found.files("queries")] == ["part-00000.parquet"]
    with pytest.raises(UserError, match="no table 'corpus'; it holds queries"):
        found.files("corpus")


def test_the_manifest_says_what_was_made_of_what(place):
    manifest = finished(place).manifest
    assert manifest.tables["queries"].columns == dict.fromkeys(QUERIES.column_names, "string")
    assert (manifest.kind, manifest.inputs, manifest.dropped) == ("build", INPUTS, {"empty text": 3})
    assert json.loads((Path(place) / "config.json").read_text()) == SETTINGS


def test_the_manifest_comes_last(place, monkeypatch):
    written = []
    move = files.write_json
    monkeypatch.setattr(
        artifact, "write_json", lambda path, value: (written.append(Path(path).name), move(path, value))
    )
    monkeypatch.setattr(
        artifact, "write_parquet", lambda path, table, _: (written.append("rows"), pq.write_table(table, path))
    )
    (Path(place) / "queries").mkdir(parents=True)
    draft = Draft(place, "build", SETTINGS, INPUTS)
    draft.write("queries", QUERIES)
    draft.finish(["queries"])
    assert written == ["rows", "manifest.json"]


def test_an_unfinished_artifact_is_refused_with_the_job_to_run(place):
    draft = start(place)
    assert isinstance(draft, Draft)
    draft.write("queries", QUERIES)
    with pytest.raises(UserError, match=r"not a finished artifact; run `tripletail build` first"):
        Artifact.open(place, "build")


def test_a_missing_artifact_is_refused_with_the_job_to_run(place):
    with pytest.raises(UserError, match=r"no such directory; run `tripletail build` first"):
        Artifact.open(place, "build")


def test_another_kind_of_artifact_is_refused(place):
    finished(place)
    with pytest.raises(UserError, match="was made by `build`, wanted the artifact of `mine`"):
        Artifact.open(place, "mine")


def test_the_same_again_is_the_finished_one_untouched(place):
    finished(place)
    before = {path: path.stat().st_mtime_ns for path in Path(place).rglob("*")}
    again = start(place)
    assert isinstance(again, Artifact) and again.rows("queries") == 2
    assert {path: path.stat().st_mtime_ns for path in Path(place).rglob("*")} == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"settings": {**SETTINGS, "seed": 8}}, "another setting of seed"),
        ({"settings": {**SETTINGS, "depth": 1}}, "another setting of depth"),
        ({"inputs": {"corpus": "xyz"}}, r"another input \(corpus\)"),
        ({"inputs": {**INPUTS, "model": "m"}}, r"another input \(model\)"),
    ],
)
def test_a_difference_is_refused_by_name_and_overwritten_when_asked(place, change, named):
    finished(place)
    with pytest.raises(UserError, match=named):
        start(place, **change)
    assert Artifact.open(place, "build").rows("queries") == 2
    assert isinstance(start(place, **change, overwrite=True), Draft)
    assert not (Path(place) / "queries").exists() and not (Path(place) / "manifest.json").exists()


def test_inputs_that_may_grow_go_on_with_what_is_there(place):
    finished(place)
    more = {"settings": SETTINGS, "inputs": {**INPUTS, "corpus": "abcd"}, "overwrite": False, "may_change": ["corpus"]}
    assert isinstance(begin(place, "build", **more | {"inputs": INPUTS}), Artifact)
    assert isinstance(begin(place, "build", **more), Draft)
    assert (Path(place) / "queries" / "part-00000.parquet").exists()
    assert not (Path(place) / "manifest.json").exists()
    kept = begin(place, "build", **more | {"inputs": {"corpus": "abcde"}, "resume": True})
    assert isinstance(kept, Draft) and kept.finish(["queries"]).rows("queries") == 2
    with pytest.raises(UserError, match="another setting of seed"):
        begin(place, "build", **more | {"settings": {**SETTINGS, "seed": 8}})


def test_another_kind_at_the_same_place_is_refused(place):
    finished(place)
    with pytest.raises(UserError, match="was made by `build`"):
        begin(place, "mine", SETTINGS, INPUTS, overwrite=False)


def test_no_password_is_written_down_and_another_one_is_no_other_setting(place):
    settings = {
        "sources": [{"path": "sftp://me:pa55word@host/rows.jsonl", "name": "a:b@c"}],
        "model": "https://host/m?X-Amz-Signature=5ecret&versionId=3&sig=5ecret#5",
        "uri": "s3://bucket/a:b@c",
    }
    draft = begin(place, "build", settings, {}, overwrite=False)
    written = (Path(place) / "config.json").read_text()
    assert "pa55word" not in written and "5ecret" not in written
    assert json.loads(written) == {
        "sources": [{"path": "sftp://me:***@host/rows.jsonl", "name": "a:b@c"}],
        "model": "https://host/m?X-Amz-Signature=***&versionId=3&sig=***#5",
        "uri": "s3://bucket/a:b@c",
    }
    assert isinstance(draft, Draft)
    draft.finish([])
    with pytest.raises(UserError, match=r"with another setting of uri \(was"):
        begin(place, "build", settings | {"uri": "s3://bucket/other"}, {}, overwrite=False)


def test_an_unfinished_artifact_is_cleared(place):
    draft = start(place)
    assert isinstance(draft, Draft)
    draft.write("queries", QUERIES, part=5)
    assert isinstance(start(place), Draft)
    assert not (Path(place) / "queries").exists()


def test_keep_goes_on_with_the_same_plan_only(place):
    draft = start(place)
    assert isinstance(draft, Draft)
    draft.write("queries", QUERIES, part=5)
    kept = start(place, keep=True)
    assert isinstance(kept, Draft) and (Path(place) / "queries" / "part-00005.parquet").exists()
    kept.write("queries", QUERIES, part=6)
    assert kept.finish(["queries"]).rows("queries") == 4

    other = place + "2"
    start(other)
    (Path(other) / "rest").write_text("x")
    assert isinstance(start(other, settings={"seed": 0}, keep=True), Draft)
    assert not (Path(other) / "rest").exists()


def test_a_foreign_directory_is_never_cleared(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="not empty and not an artifact"):
            start(str(tmp_path), overwrite=overwrite)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_an_empty_directory_is_taken(tmp_path):
    assert isinstance(start(str(tmp_path)), Draft)


def test_a_place_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        start(str(tmp_path / "file" / "data"))


def test_drops_add_up_by_reason(place):
    draft = start(place)
    assert isinstance(draft, Draft)
    draft.drop({"empty text": 2, "too long": 0})
    draft.drop({"empty text": 1, "duplicate": 4})
    assert draft.finish([]).manifest.dropped == {"duplicate": 4, "empty text": 3}


def test_the_fingerprint_follows_settings_inputs_and_rows_but_not_the_place(tmp_path):
    one, two = finished(str(tmp_path / "a")), finished(str(tmp_path / "b"))
    assert one.manifest.fingerprint == two.manifest.fingerprint
    draft = start(str(tmp_path / "c"), inputs={"corpus": "other"})
    assert isinstance(draft, Draft)
    draft.write("queries", QUERIES)
    assert draft.finish(["queries"]).manifest.fingerprint != one.manifest.fingerprint
    draft = start(str(tmp_path / "d"))
    assert isinstance(draft, Draft)
    draft.write("queries", QUERIES.slice(0, 1))
    assert draft.finish(["queries"]).manifest.fingerprint != one.manifest.fingerprint, "fewer rows of the same inputs"
    draft = start(str(tmp_path / "e"), settings={**SETTINGS, "seed": 8})
    assert isinstance(draft, Draft)
    draft.write("queries", QUERIES)
    assert draft.finish(["queries"]).manifest.fingerprint != one.manifest.fingerprint


def test_nothing_of_a_finished_artifact_is_gone_on_with_when_it_is_replaced(place):
    """Its manifest cannot be read, so that nobody knows which of its files are whole."""
    finished(place)
    (Path(place) / "manifest.json").write_text("{")
    (Path(place) / "queries" / "part-00007.parquet").write_bytes(b"of the earlier one")
    assert isinstance(start(place, overwrite=True, keep=True), Draft)
    assert sorted(path.name for path in Path(place).iterdir()) == ["config.json", "plan.json"]


def test_a_table_that_breaks_its_contract_is_refused_when_written(place):
    draft = start(place)
    assert isinstance(draft, Draft)
    with pytest.raises(UserError, match="queries: column 'split' is missing; there are query_id, text, source"):
        draft.write("queries", QUERIES.drop_columns(["split"]))
    with pytest.raises(UserError, match=r"qrels: column 'relevance' is string, expected int32"):
        draft.write("qrels", pa.table({key: ["high"] for key in ("query_id", "doc_id", "relevance", "split")}))


def test_a_file_of_another_schema_is_refused_when_read(tmp_path):
    path = str(tmp_path / "queries.parquet")
    pq.write_table(QUERIES.drop_columns(["text"]), path)
    with pytest.raises(UserError, match=rf"{path}: column 'text' of table 'queries' is missing; rerun the job"):
        files.read_parquet(path, "queries")
    pq.write_table(QUERIES.set_column(1, "text", pa.array([1, 2])), path)
    with pytest.raises(UserError, match="column 'text' is int64, expected string as in table 'queries'"):
        files.read_parquet(path, "queries")


def test_a_file_that_is_no_parquet_is_named(tmp_path):
    path = tmp_path / "queries.parquet"
    path.write_bytes(b"not parquet at all")
    with pytest.raises(UserError, match=rf"{path}: not readable as Parquet"):
        files.read_parquet(str(path))
    with pytest.raises(UserError, match="no such file"):
        files.read_parquet(str(tmp_path / "none.parquet"))


@pytest.mark.parametrize("text", ["{", "{}", '{"tables": {}}', '{"tables": {"a": {"size": 1}}}'])
def test_a_manifest_of_another_version_is_a_user_error(place, text):
    finished(place)
    (Path(place) / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json"):
        Artifact.open(place, "build")


def test_row_groups_are_bounded(tmp_path):
    path = str(tmp_path / "many.parquet")
    files.write_parquet(path, pa.table({"id": range(files.ROW_GROUP_ROWS * 2 + 1)}))
    assert pq.ParquetFile(path).metadata.num_row_groups == 3


def test_token_ids_are_split_by_byte_wherever_they_are(tmp_path):
    """A name that Parquet does not know is ignored in silence: the file itself says how its columns are packed."""
    negative = pa.struct([("id", pa.int64()), ("tokens", pa.list_(pa.int32()))])
    schema = pa.schema([("anchor", pa.list_(pa.int32())), ("negatives", pa.list_(negative)), ("step", pa.int32())])
    rows = pa.table([[[1, 2]], [[{"id": 3, "tokens": [4]}]], [5]], schema=schema)
    path = str(tmp_path / "rows.parquet")
    files.write_parquet(path, rows)
    group = pq.ParquetFile(path).metadata.row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    split = {column.path_in_schema for column in columns if "BYTE_STREAM_SPLIT" in column.encodings}
    assert split == {"anchor.list.element", "negatives.list.element.tokens.list.element"}
    assert pq.read_table(path).equals(rows)


def test_an_unknown_scheme_is_a_user_error():
    with pytest.raises(UserError, match="nosuch"):
        start("nosuch://bucket/data")


@pytest.fixture
def bucket(monkeypatch):
    """An S3 bucket on a server of this process, reached as users reach theirs: by environment variables alone."""
    pytest.importorskip("s3fs", reason="needs the extra 's3'")
    store = Store()
    with store.serving(monkeypatch):
        yield f"s3://{store.bucket}/runs/data"


def test_a_remote_artifact_is_like_a_local_one(bucket):
    assert finished(bucket).rows("queries") == 2
    found = Artifact.open(bucket, "build")
    assert found.files("queries") == [f"{bucket}/queries/part-00000.parquet"]
    assert found.read("queries").equals(QUERIES)
    assert isinstance(start(bucket), Artifact)
    with pytest.raises(UserError, match="another setting of seed"):
        start(bucket, settings={**SETTINGS, "seed": 8})
    assert isinstance(start(bucket, settings={**SETTINGS, "seed": 8}, overwrite=True), Draft)
    with pytest.raises(UserError, match=r"not a finished artifact; run `tripletail build` first"):
        Artifact.open(bucket, "build")
    with pytest.raises(UserError, match="no such directory"):
        Artifact.open(bucket + "2", "build")
    assert fingerprint_file(f"{bucket}/config.json") == fingerprint_file(f"{bucket}/config.json")


def test_a_remote_draft_is_kept_and_gone_on_with(bucket):
    draft = start(bucket)
    assert isinstance(draft, Draft)
    draft.write("queries", QUERIES, part=0)
    kept = start(bucket, keep=True)
    assert isinstance(kept, Draft)
    kept.write("queries", QUERIES, part=1)
    assert kept.finish(["queries"]).rows("queries") == 4


def test_parts_that_other_processes_wrote_are_counted(bucket):
    import s3fs

    draft = start(bucket)
    assert isinstance(draft, Draft)
    draft.write("queries", QUERIES, part=0)
    fs, root = files.filesystem(bucket)
    assert len(fs.ls(f"{root}/queries")) == 1  # now this process has a listing to be stale
    elsewhere = s3fs.S3FileSystem(skip_instance_cache=True)
    elsewhere.copy(f"{root}/queries/part-00000.parquet", f"{root}/queries/part-00001.parquet")
    assert draft.finish(["queries"]).rows("queries") == 4


def test_shards_of_an_object_store_are_found_committed_and_renamed(bucket):
    fs, root = files.filesystem(bucket)
    fs.pipe(f"{root}/in/b.jsonl", b'{"id": "b1"}\n{"id": "b2"}\n')
    first = shards.plan(shards.find_files(f"{bucket}/in"), 1, "s", ["mb"])
    for shard in first:
        shards.commit(f"{bucket}/out", shard.name, shards.read(shard, ["id"]), {})
    fs.pipe(f"{root}/in/a.csv", b"id\na1\n")
    second = shards.plan(shards.find_files(f"{bucket}/in"), 1, "s", ["ma", "mb"])[:-1]
    (stale,) = shards.reuse_outputs(f"{bucket}/out", second)
    assert stale == f"{bucket}/out/{first[-1].name}.parquet"
    assert files.read_parquet(stale)["id"].to_pylist() == ["b2"]
    assert [shards.committed(f"{bucket}/out", shard.name) is not None for shard in second] == [False, True]


def test_an_unreadable_row_group_is_named(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"a": list(range(3000))}), path, row_group_size=1000, use_dictionary=False)
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    found = bytearray(path.read_bytes())
    found[column.data_page_offset : column.data_page_offset + 16] = b"\xff" * 16
    path.write_bytes(found)
    with pytest.raises(UserError, match=r"rows.parquet: row group 1 \(rows 1000 to 1999\) is not readable: "):
        files.read_parquet(str(path))
