"""The generation job against a server that answers one document of ten wrongly, is killed and comes back."""

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.core import schema
from pipeline.core.config import main, validate
from pipeline.core.errors import UserError
from pipeline.generation.config import GenerateConfig
from pipeline.generation.job import run
from pipeline.storage.artifact import Artifact, Draft
from tests.support.chat_server import ChatServer, is_malformed, word
from tests.support.corpora import inline  # noqa: F401  a fixture
from tests.support.kills import run_until_killed

pytestmark = pytest.mark.usefixtures("inline")


def text(number: int) -> str:
    name = np.base_repr(number, 36).lower()
    return f"This is document number {name} and it tells of {word(number)} at length, in several words."


def write_documents(path: Path, count: int, first: int = 0) -> Path:
    rows = [{"id": f"d{number}", "text": text(number)} for number in range(first, first + count)]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


def settings(documents: Path, out: Path, chat_server: ChatServer, **more: Any) -> GenerateConfig:
    generator = {"type": "openai", "base_url": chat_server.url, "model": "m", "concurrency": 4}
    generator |= {"first_wait": 0.05, "longest_wait": 0.3}
    generator |= more.pop("generator", {})
    given = {"input": str(documents), "out": str(out), "rows_per_shard": 10, "round_trip": {"by": ["bm25"]}}
    return validate(GenerateConfig, given | more | {"generator": generator})


def rows_of(artifact: Artifact, table: str = "generated") -> list[dict[str, Any]]:
    return artifact.read(table).to_pylist()


def balance(artifact: Artifact) -> None:
    """Every document has queries or one reason; every query is kept or has one."""
    documents, queries = artifact.manifest.notes["documents"], artifact.manifest.notes["queries"]
    assert documents["read"] == documents["with_queries"] + sum(documents["without_queries"].values())
    assert queries["made"] == queries["kept"] + sum(queries["left_out"].values())
    assert queries["kept"] == artifact.rows("generated")
    assert len({row["doc_id"] for row in rows_of(artifact, "answers")}) == documents["with_queries"]


def test_malformed_answers_are_counted_and_everything_else_is_kept(tmp_path: Path, chat_server: ChatServer, capfd):
    documents = write_documents(tmp_path / "in.jsonl", 90)
    with documents.open("a") as file:
        file.write('{"id": "blank", "text": "  "}\nno json\n')
    artifact = run(settings(documents, tmp_path / "out", chat_server, generator={"price": {"prompt": 1, "answer": 2}}))
    balance(artifact)
    notes = artifact.manifest.notes
    malformed = {number: is_malformed(number) for number in range(90) if is_malformed(number)}
    assert len(malformed) == 9, "one document of ten"
    without = {"empty_answer": 2, "not_json": 2, "refusal": 1, "empty_text": 1, "unreadable_row": 1}
    assert notes["documents"] == {"read": 92, "with_queries": 85, "without_queries": dict(sorted(without.items()))}
    left_out = {"copy_of_document": 1, "query_is_no_text": 2, "repeated_query": 1, "surplus_query": 1}
    assert notes["queries"]["left_out"] == left_out
    answers = notes["answers"]
    assert answers["answers_with_too_few"] == answers["answers_with_too_many"] == 1
    assert answers["malformed: not_json"] == 4 and answers["answers_asked_again"] == 5
    assert answers["requests"] == 95 and answers["retries"] == 18, "one of five fails once in passing"
    assert answers["prompt_tokens"] == 9500 and notes["cost"] == pytest.approx((9500 + 2 * 1900) / 1e6)
    queries = [row["query"] for row in rows_of(artifact) if row["doc_id"] == "d3"]
    assert queries[0] == '=HYPERLINK("http://x") [31mshop number thing3thing question0', "cleaned as every text"
    assert {row["bm25_rank"] for row in rows_of(artifact)} == {1}
    assert {row["encoder_rank"] for row in rows_of(artifact)} == {None}
    said = capfd.readouterr().err
    assert "malformed answers: 4 empty_answer, 4 not_json, 2 refusal; 5 documents asked again" in said
    assert "95 requests, 18 retries, 9,500 tokens of prompts and 1,900 of answers, cost 0.0133" in said
    seeds = {(number, seed) for number, seed, _ in chat_server.requests()}
    assert len(seeds) == 95, "a document that is asked about again gets another seed"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["prompt"].startswith("Write {count} different")

    assert (
        run(settings(documents, tmp_path / "out", chat_server, generator={"concurrency": 1})).manifest
        == artifact.manifest
    )
    with pytest.raises(UserError, match="another setting of prompt"):
        run(settings(documents, tmp_path / "out", chat_server, prompt="Write {count} questions: {text}"))
    assert len(chat_server.requests()) == 95


def test_a_server_that_is_killed_and_comes_back_changes_nothing(tmp_path: Path, chat_server: ChatServer):
    documents = write_documents(tmp_path / "in.jsonl", 100)
    whole = run(settings(documents, tmp_path / "whole", chat_server))
    asked = len(chat_server.requests())

    def kill_and_start() -> None:
        for wanted in (20, 60):
            while len(chat_server.requests()) - asked < wanted:
                time.sleep(0.005)
            chat_server.kill()
            time.sleep(0.3)
            chat_server.start()

    killer = threading.Thread(target=kill_and_start)
    killer.start()
    artifact = run(settings(documents, tmp_path / "out", chat_server, generator={"retries": 40}))
    killer.join()
    balance(artifact)
    assert rows_of(artifact) == rows_of(whole) and rows_of(artifact, "answers") == rows_of(whole, "answers")
    assert artifact.manifest.dropped == whole.manifest.dropped
    assert artifact.manifest.notes["answers"]["retries"] > whole.manifest.notes["answers"]["retries"]


def test_a_server_that_stays_away_ends_the_job_in_one_line_and_what_was_done_is_kept(
    tmp_path: Path, chat_server: ChatServer
):
    documents = write_documents(tmp_path / "in.jsonl", 100)
    gone = threading.Thread(target=lambda: (_wait_for(lambda: len(chat_server.requests()) > 25), chat_server.kill()))
    gone.start()
    with pytest.raises(UserError, match=r"requests failed, more than max_failures .* the same command goes on"):
        run(settings(documents, tmp_path / "out", chat_server, generator={"retries": 1}))
    gone.join()
    with pytest.raises(UserError, match=r"has no manifest\.json"):
        Artifact.open(str(tmp_path / "out"), "generate")
    done = {path.name: path.stat().st_ino for path in (tmp_path / "out" / "answers").iterdir()}
    assert 1 <= len(done) < 10
    chat_server.port = 0
    chat_server.start()  # at another address
    artifact = run(settings(documents, tmp_path / "out", chat_server))
    balance(artifact)
    now = {path.name: path.stat().st_ino for path in (tmp_path / "out" / "answers").iterdir()}
    assert done.items() <= now.items() and len(now) == 10
    chat_server.log.write_text("")
    assert rows_of(artifact) == rows_of(run(settings(documents, tmp_path / "whole", chat_server)))


def _wait_for(ready: Any) -> None:
    while not ready():
        time.sleep(0.005)


def test_a_job_killed_at_any_file_ends_with_every_document_once(tmp_path: Path, chat_server: ChatServer):
    documents = write_documents(tmp_path / "in.jsonl", 18)
    whole = run(settings(documents, tmp_path / "whole", chat_server))
    expected = rows_of(whole), rows_of(whole, "answers"), whole.manifest.dropped
    number = 0
    while True:
        number += 1
        out = tmp_path / f"out-{number}"
        if not run_until_killed(lambda out=out: run(settings(documents, out, chat_server)), out, number):
            break
        artifact = run(settings(documents, out, chat_server))
        balance(artifact)
        assert (rows_of(artifact), rows_of(artifact, "answers"), artifact.manifest.dropped) == expected, number
        assert {path.name for path in out.iterdir()} == {
            "answers", "config.json", "generated", "manifest.json", "plan.json"
        }, number  # fmt: skip
        assert len(list(out.glob("*/*"))) == 4, number
        shutil.rmtree(out)
    assert number > 20, "the kills found the files of the job"


def test_a_killed_process_is_gone_on_with_and_asks_only_for_what_is_missing(tmp_path: Path, chat_server: ChatServer):
    documents = write_documents(tmp_path / "in.jsonl", 200)
    config = settings(documents, tmp_path / "out", chat_server, generator={"concurrency": 2})
    child = os.fork()
    if child == 0:
        try:
            run(config)
        finally:
            os._exit(1)
    answers = tmp_path / "out" / "answers"
    _wait_for(lambda: len(list(answers.glob("*.parquet"))) >= 3)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    held = len(list(answers.glob("*.parquet")))
    assert 3 <= held < 20
    time.sleep(0.3)
    chat_server.log.write_text("")
    artifact = run(config)
    balance(artifact)
    asked = {f"d{number}" for number, _, _ in chat_server.requests()}
    assert len(asked) == 200 - 10 * held
    assert rows_of(artifact) == rows_of(run(settings(documents, tmp_path / "whole", chat_server)))


def test_files_that_come_and_another_filter_ask_only_about_what_is_new(tmp_path: Path, chat_server: ChatServer):
    folder = tmp_path / "in"
    folder.mkdir()
    write_documents(folder / "b.jsonl", 20)
    first = rows_of(run(settings(folder, tmp_path / "out", chat_server)))
    asked = len(chat_server.requests())
    write_documents(folder / "a.jsonl", 10, first=100)
    second = run(settings(folder, tmp_path / "out", chat_server))
    assert {f"d{number}" for number, _, _ in chat_server.requests()[asked:]} == {f"d{n}" for n in range(100, 110)}
    assert rows_of(second)[-len(first) :] == first
    asked = len(chat_server.requests())
    third = run(settings(folder, tmp_path / "out", chat_server, round_trip=None))
    balance(third)
    assert len(chat_server.requests()) == asked and third.rows("generated") == third.rows("answers")
    assert {row["bm25_rank"] for row in rows_of(third)} == {None}


def test_queries_that_do_not_find_their_document_are_left_out(tmp_path: Path, minilm: str):
    rows = [
        {"id": "a", "title": "red wool scarf", "text": "red wool scarf. It is warm in winter and soft to the skin."},
        {"id": "b", "title": "a gas oven", "text": "a gas oven. It bakes bread and roasts meat at even heat."},
        {"id": "c", "title": "a gas oven", "text": "Garden hose of rubber, ten metres long, with a brass nozzle."},
    ]
    documents = tmp_path / "in.jsonl"
    documents.write_text("\n".join(map(json.dumps, rows)))
    more = {"title_column": "title", "generator": {"type": "rules"}, "input": str(documents)}
    trip = {"by": ["encoder", "bm25"], "found_by": "all", "encoder": {"model": minilm, "layers": 2}}
    made = run(validate(GenerateConfig, {**more, "out": str(tmp_path / "one"), "round_trip": trip}))
    balance(made)
    found = [(row["doc_id"], row["encoder_rank"], row["bm25_rank"]) for row in rows_of(made)]
    assert found == [("a", 1, 1), ("b", 1, 1)]
    assert made.manifest.dropped == {"not_found_again": 1}
    trip |= {"top_k": 3, "found_by": "any"}
    wide = run(validate(GenerateConfig, {**more, "out": str(tmp_path / "three"), "round_trip": trip}))
    assert [(row["doc_id"], row["bm25_rank"]) for row in rows_of(wide)] == [("a", 1), ("b", 1), ("c", None)]
    assert rows_of(wide)[2]["encoder_rank"] in (2, 3)


def write_build(path: Path, documents: list[dict[str, Any]], queries: list[str]) -> str:
    draft = Draft(str(path), "build", {}, {})
    rows = [{"title": "", "tags": [], "source": "t", **row} for row in documents]
    draft.write("corpus", pa.Table.from_pylist(rows, schema=schema.TABLES["corpus"]))
    asked = [{"query_id": f"q{n}", "text": text, "source": "t", "split": "test"} for n, text in enumerate(queries)]
    draft.write("queries", pa.Table.from_pylist(asked, schema=schema.TABLES["queries"]))
    return draft.finish(["corpus", "queries"]).path


def test_queries_that_people_have_asked_are_left_out_and_offers_of_a_product_are_one_group(
    tmp_path: Path, chat_server: ChatServer
):
    documents = [{"doc_id": f"d{n}", "text": text(n), "group_id": "g" if n < 2 else None} for n in range(5)]
    data = write_build(tmp_path / "data", documents, ["WHERE is  thing1thing question2"])
    config = settings(tmp_path, tmp_path / "out", chat_server, input=None, data=data)
    artifact = run(config)
    balance(artifact)
    assert artifact.manifest.dropped == {"known_query": 1}
    assert {row["doc_id"]: row["group_id"] for row in rows_of(artifact)} == {"d0": "g", "d1": "g"} | {
        f"d{n}": f"d{n}" for n in (2, 3, 4)
    }
    assert artifact.manifest.inputs["data"] == Artifact.open(data).manifest.fingerprint


def test_a_key_goes_into_the_header_and_nowhere_else(
    tmp_path: Path, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch, capfd
):
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    documents = write_documents(tmp_path / "in.jsonl", 5)
    run(settings(documents, tmp_path / "out", chat_server, generator={"api_key_env": "MY_KEY"}))
    assert {key for _, _, key in chat_server.requests()} == {"Bearer sk-very-secret"}
    held = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert held and not [path for path in held if b"sk-very-secret" in path.read_bytes()]
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(UserError, match="the environment variable MY_KEY is not set"):
        run(settings(documents, tmp_path / "other", chat_server, generator={"api_key_env": "MY_KEY"}))
    with pytest.raises(UserError, match="wanted the name of an environment variable") as error:
        settings(documents, tmp_path / "other", chat_server, generator={"api_key_env": "sk-very-secret"})
    assert "secret" not in str(error.value) and "sk-very-secret" not in capfd.readouterr().err


def test_mistakes_are_one_line_and_exit_2(tmp_path: Path, chat_server: ChatServer, capsys: pytest.CaptureFixture[str]):
    documents = write_documents(tmp_path / "in.jsonl", 5)
    flags = ["--generator.type", "openai", "--generator.model", "m"]
    here = ["--input", str(documents), *flags, "--generator.base_url"]
    cases = [
        ([*flags, "--generator.base_url", chat_server.url], "run `tripletail build` first"),
        ([*here, "ftp://x"], "wanted an address such as http://127.0.0.1:8000/v1"),
        ([*here, "http://me:pw@x/v1"], "an address holds no user, password or query"),
        (
            [*here, chat_server.url, "--prompt", "no place"],
            "a prompt is made of {count}, {text}, {title} and needs {text}",
        ),
        ([*here, chat_server.url, "--prompt", "{text} {"], "is no template"),
        ([*here, chat_server.url, "--text_column", "body"], "has no column 'body'; it has id, text"),
        (["--input", str(documents), "--generator.type", "ruels"], "did you mean rules?"),
    ]
    for argv, wanted in cases:
        with pytest.raises(SystemExit) as stop:
            main(GenerateConfig, "generate", run, ["--run", str(tmp_path / "run"), *argv])
        said = capsys.readouterr().err.strip()
        assert stop.value.code == 2 and wanted in said and "\n" not in said, said
