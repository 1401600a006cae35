"""`tripletail init`: files that nobody has described become a recipe that passes the preflight as it is."""

import json
from pathlib import Path

import pytest
import yaml

from scripts.tripletail.commands import init, run
from tests.support.checkout import ROOT

SAMPLE = ROOT / "scripts" / "sample"
FAQ = "Question;Answer\n" + "".join(f"How do I mend mug {n}?;Take glue number {n}.\n" for n in range(40))
CATALOGUE = "".join(
    json.dumps({"sku": f"p{n}", "name": f"mug {n}", "description": f"A mug for day {n}.", "categories": "Mugs"}) + "\n"
    for n in range(60)
)
JUDGMENTS = "query,product_id,rating\n" + "".join(f"mug for day {n},p{n},1\n" for n in range(60))
SCORED = "a man eats\tsomeone eats\t4.2\na dog runs\ta cat sleeps\t0.6\nit rains now\tit is raining\t5.0\n" * 20


def files(folder: Path, **contents: str) -> list[str]:
    paths = {name.replace("__", "."): text for name, text in contents.items()}
    for name, text in paths.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [str(folder / name) for name in paths]


CASES = {
    "faq": ({"faq__csv": FAQ}, ["csv"], ["build", "mine", "train", "embed", "evaluate"]),
    "shop": (
        *({"catalogue__jsonl": CATALOGUE, "judgments__csv": JUDGMENTS}, ["jsonl", "csv"]),
        ["build", "mine", "train", "embed", "evaluate"],
    ),
    "scores": ({"pairs__tsv": SCORED}, ["csv"], ["build", "train", "evaluate"]),
}


@pytest.mark.parametrize("case", CASES)
def test_the_recipe_passes_its_preflight_and_explains_itself(tmp_path: Path, minilm, capsys, monkeypatch, case: str):
    contents, types, sections = CASES[case]
    monkeypatch.chdir(tmp_path)
    init.main(files(tmp_path, **contents))
    said = capsys.readouterr().out
    assert "wrote recipe.yaml" in said and said.count("rows are used") == len(contents)
    text = (tmp_path / "recipe.yaml").read_text(encoding="utf-8")
    recipe = yaml.safe_load(text)
    assert [source["type"] for source in recipe["build"]["sources"]] == types
    assert [source["path"] for source in recipe["build"]["sources"]] == [name.replace("__", ".") for name in contents]
    assert [name for name in recipe if name != "run"] == sections
    for section in sections:
        start = text.index(f"\n{section}:")
        assert "#" in text[max(0, start - 200) : start + 300], section
    assert sum(recipe["build"]["split"].values()) == pytest.approx(1)
    run.main(["--config", "recipe.yaml", "--dry-run"])
    plan = capsys.readouterr().out.splitlines()
    assert plan[0].startswith(f"{len(sections)} jobs into runs/") and plan[-1].startswith("checked: ")


def test_the_sample_shop_is_recognised_file_by_file(tmp_path: Path, minilm, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    init.main([str(SAMPLE / name) for name in ("products.jsonl", "Posts.xml")] + ["--run", "runs/a: b"])
    recipe = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    assert [source["type"] for source in recipe["build"]["sources"]] == ["jsonl", "stackexchange"]
    assert recipe["mine"]["encoder"] == recipe["train"]["encoder"]
    assert recipe["run"] == "runs/a: b" and recipe["build"]["sources"][0]["path"] == str(SAMPLE / "products.jsonl")


def test_what_is_not_recognised_is_named_with_its_columns(tmp_path: Path, capsys):
    (path,) = files(tmp_path, numbers__csv="a,b\n1,2\n3,4\n")
    for arguments, part in (
        ([path], "numbers.csv: no source recognises it (columns: a, b); name them in a recipe by hand"),
        ([str(tmp_path / "none.csv")], "none.csv: no such file or directory"),
    ):
        with pytest.raises(SystemExit) as caught:
            init.main([*arguments, "--out", str(tmp_path / "recipe.yaml")])
        line = capsys.readouterr().err
        assert caught.value.code == 2 and line.startswith("init: error: ") and part in line
    assert not (tmp_path / "recipe.yaml").exists()


def test_a_recipe_that_is_there_stays(tmp_path: Path, capsys):
    (path,) = files(tmp_path, faq__csv=FAQ)
    out = tmp_path / "recipe.yaml"
    out.write_text("mine")
    with pytest.raises(SystemExit):
        init.main([path, "--out", str(out)])
    assert "is there already; give --out ANOTHER or --overwrite" in capsys.readouterr().err
    assert out.read_text() == "mine"
    init.main([path, "--out", str(out), "--overwrite"])
    assert "rows: auto" in out.read_text()


SHAPES = {
    "rows.jsonl": (
        json.dumps({"question": "How long is it?", "context": "It is long.", "answers": {"text": ["3 km"]}}),
        {"kind": "qa", "fields": {"positive": "answers.text"}},
    ),
    "votes.jsonl": (
        json.dumps({"question": "When?", "answers": [{"body": "Now and then", "votes": 1}]}),
        {"kind": "qa", "fields": {"positive": "answers.body"}},
    ),
    "cells.csv": (
        "question,answers\nHow long?,\"{'text': ['300 km'], 'answer_start': [12]}\"\n",
        {"kind": "qa", "fields": {"positive": "answers.text"}},
    ),
    "qqp.csv": ("id,question1,question2,is_duplicate\n0,How old?,What age?,1\n", {"kind": "labelled"}),
    "wrapped.json": (
        json.dumps({"articles": [{"id": 1, "title": "Reset it", "body": "Open the settings."}], "count": 1}),
        {"records": "articles", "kind": "document"},
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_fields_inside_objects_and_usual_names_are_found(tmp_path: Path, capsys, name: str):
    content, expected = SHAPES[name]
    (tmp_path / name).write_text(content + "\n")
    init.main([str(tmp_path / name), "--out", str(tmp_path / "r.yaml")])
    (source,) = yaml.safe_load((tmp_path / "r.yaml").read_text())["build"]["sources"]
    assert {key: source[key] for key in source.keys() - {"type", "name", "path"}} == expected


UNREADABLE = {
    "nli.jsonl": (
        "".join(json.dumps({"sentence1": "a b", "sentence2": f"c {n}", "label": n}) + "\n" for n in (0, 0, 0, 1, 2)),
        "label 2 is above 1; divide by `scale`",  # which class means alike is for the user to say
    ),
    "cp.csv": (b"question,answer\nWie gro\xdf?,Zwei\n", "name it by `encoding`"),
    "list.csv": ('question,answer\nWhen?,"[""now"", ""then""]"\n', "`decode: [answer]` reads it"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_says_how_it_can(tmp_path: Path, capsys, name: str):
    content, message = UNREADABLE[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SystemExit):
        init.main([str(tmp_path / name), "--out", str(tmp_path / "r.yaml")])
    assert message in capsys.readouterr().err
