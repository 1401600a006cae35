"""The generator: what it says is planted is there, and nothing depends on shards or format."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.text.normalize import key, normalise
from scripts.tripletail.commands import synthesize


def write(out: Path, *flags: str) -> tuple[dict[int, Any], list[Any], Any]:
    """Rows by number, planted truth and plan."""
    synthesize.main([str(out), "--rows", "3000", "--workers", "1", *flags])
    if "jsonl" in flags:
        lines = [line for path in sorted(out.glob("rows/*.jsonl")) for line in path.read_text().splitlines()]
        rows = list(map(json.loads, lines))
    else:
        rows = [row for path in sorted(out.glob("rows/*.parquet")) for row in pq.read_table(path).to_pylist()]
    truth = [row for path in sorted(out.glob("truth/*.parquet")) for row in pq.read_table(path).to_pylist()]
    return {int(row["id"][1:]): row for row in rows}, truth, json.loads((out / "plan.json").read_text())


def shingles(text: str) -> set[tuple[str, ...]]:
    words = normalise(text).casefold().split()
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}


@pytest.mark.parametrize("kind", ["qa", "products"])
def test_what_is_planted_is_there(tmp_path: Path, kind: str):
    rows, truth, plan = write(tmp_path, "--kind", kind, "--leaks", "0.04", "--seed", "7")
    short, long = synthesize.TEXTS[kind]
    assert sorted(rows) == list(range(3000)) and plan["near_jaccard"] >= 0.8
    assert Counter(row["kind"] for row in truth) == plan["planted"] and min(plan["planted"].values()) > 20
    for planted in truth:
        row, of = rows[planted["row"]], rows[planted["of"]]
        a, b = shingles(row[long]), shingles(of[long])
        assert planted["of"] < planted["row"]
        if planted["kind"] in ("exact_duplicate", "leak_exact"):
            assert key(normalise(row[long])) == key(normalise(of[long])) and row[long] != of[long]
        elif planted["kind"] in ("near_duplicate", "leak_near"):
            assert len(a & b) / len(a | b) == pytest.approx(planted["jaccard"]) and planted["jaccard"] < 1
        leaks = planted["kind"].startswith("leak")
        assert (row["split"] == "train" and of["split"] != "train") if leaks else row["split"] == of["split"]
        subject, words = normalise(of[short]).casefold().split()[:3], normalise(row[long]).casefold().split()
        shared = sum(word in words for word in subject)
        assert shared == {"hard_negative": 2}.get(planted["kind"], 3)


def test_nothing_else_repeats(tmp_path: Path):
    rows, truth, _ = write(tmp_path)
    copies = {row["row"] for row in truth if row["jaccard"] is not None}
    seen: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, row in rows.items():
        if number not in copies:
            for shingle in shingles(row["answer"]):
                seen[shingle].append(number)
    shared = Counter((a, b) for numbers in seen.values() for a in numbers for b in numbers if a < b)
    assert max(shared.values(), default=0) <= 5  # of 34: subject and topic only


def test_rows_depend_on_neither_shards_nor_format(tmp_path: Path):
    single, truth, _ = write(tmp_path / "a")
    pieces, again, _ = write(tmp_path / "b", "--rows-per-shard", "700", "--format", "jsonl", "--workers", "2")
    assert len(list((tmp_path / "b" / "rows").iterdir())) == 5
    assert pieces == single and again == truth
    other, _, _ = write(tmp_path / "c", "--seed", "1")
    assert other != single


@pytest.mark.parametrize("flags", [("--near", "0.9"), ("--jaccard", "1.5"), ("--words", "3")])
def test_what_cannot_be_planted(tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...]):
    with pytest.raises(SystemExit, match="2"):
        write(tmp_path, *flags)
    message = capsys.readouterr().err
    assert message.startswith("synthesize: error: ") and message.count("\n") == 1
