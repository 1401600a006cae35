"""A look at an artifact: counts that are right, repetitions found, a page that is whole."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from lxml import html as markup
from rich.console import Console

from pipeline.core import schema
from pipeline.core.errors import UserError
from pipeline.inspection.page import render
from pipeline.inspection.repetition import Repetition
from pipeline.inspection.survey import open_any, survey
from pipeline.inspection.tables import dropped, input_rows, lengths, overlaps, repeats, values, vectors
from pipeline.inspection.terminal import show
from pipeline.storage.artifact import Draft, begin
from scripts.tripletail.commands import inspect
from tests.support.corpora import build, inline, sample_recipe  # noqa: F401  a fixture


def draft(path: Path, kind: str) -> Draft:
    made = begin(str(path), kind, {}, {"in": "x"}, overwrite=False)
    assert isinstance(made, Draft)
    return made


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    texts = ["How?", "how? ", "Why?", "<b>When</b>?"] * 50
    split = ["train", "dev", "train", "test"] * 50
    rows = {name: [f"{name} {n}" for n in range(200)] for name in ("anchor_id", "positive_id", "group_id")}
    rows |= {"anchor": texts, "positive": ["x" * n for n in range(200)], "source": ["s"] * 200, "split": split}
    negatives = [
        [{"doc_id": "d", "text": "t", "score": 0.5, "rank": 1, "reason": "mined"}] * (n % 3) for n in range(200)
    ]
    rows |= {"relevance": [1.0] * 200, "weight": [1.0] * 200, "reason": ["<script>"] * 200, "negatives": negatives}
    rows |= {"teacher_score": [0.5] * 200}
    one = draft(tmp_path / "data", "mine")
    one.write("triplets", pa.table(rows, schema=schema.TABLES["triplets"]))
    one.drop({"too_short": 3})
    one.finish(["triplets"], examples={"too_short": ["f:1 & more"]}, splits={"triplets": {"train": 100}})
    return str(tmp_path / "data")


def test_figures_of_a_table(pairs: str):
    found = survey(pairs, rows=2)
    assert found.tables[0].rows == 200 and len(found.tables[0].sample) == 2
    assert dropped(found)[1] == [["too_short", "3", "f:1 & more"]]
    column = {row[0]: row[1:] for row in lengths(found)[1]}
    assert column["triplets.positive"] == ["characters", "0", "99", "189", "199"]
    assert column["triplets.negatives"] == ["items", "0", "1", "2", "2"]
    assert {row[0]: row[1:] for row in repeats(found)[1]} == {"triplets.anchor": ["98.50 %", "all"]}
    assert overlaps(found)[1] == [["triplets.anchor", "dev, train", "1"]]
    counted = {row[0]: row[1] for row in values(found)[1]}
    assert counted["triplets.split"] == "train 100, dev 50, test 50"
    assert counted["triplets.negatives.reason"] == "mined 199"
    assert survey(pairs, rows=2).tables[0].sample == found.tables[0].sample
    assert survey(pairs, rows=2, seed=1).tables[0].sample != found.tables[0].sample


def test_the_page_is_whole_and_escaped(pairs: str):
    page = render(survey(pairs))
    assert "<script>" not in page and "&lt;script&gt;" in page and "http" not in page.replace("http-equiv", "")
    tree = markup.fromstring(page)
    heads = [element.text for element in tree.iter("h2")]
    assert heads[:3] == ["Tables", "Left out", "Repetitions"] and heads[-1] == "Random rows"
    assert len(tree.findall(".//figure")) == 3 and len(tree.findall(".//svg")) == 3


def test_hostile_texts_stay_texts(tmp_path: Path):
    payload = "\x1b[2J[bold]<img src=x onerror=alert(1)>{{ 7 * 7 }}[/]</style>\u202e"
    draft_ = draft(tmp_path / "data", "mine")
    row = {"query_id": payload, "text": payload, "source": payload, "split": payload}
    draft_.write("queries", pa.Table.from_pylist([row] * 3, schema=schema.TABLES["queries"]))
    draft_.drop({payload: 2})
    draft_.finish(["queries"], examples={payload: [payload]})
    found = survey(str(tmp_path / "data"))
    tree = markup.fromstring(render(found))
    assert not list(tree.iter("img", "script")) and "{{ 7 * 7 }}" in tree.text_content()
    assert not [name for name in tree.xpath("//@*") if name.attrname.startswith("on")]
    printed = io.StringIO()
    show(found, Console(file=printed, width=200))
    assert "[bold]<img" in printed.getvalue(), "no markup of rich's either"
    assert "\x1b" not in printed.getvalue() and "\u202e" not in printed.getvalue()


def test_norms_of_vectors(tmp_path: Path):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(30, 4)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[3], rows[4, 0] = 0, np.nan
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 4)
    one = draft(tmp_path / "v", "embed")
    one.write("vectors", pa.table({"id": [str(n) for n in range(30)], "vector": column}))
    one.finish(["vectors"])
    kind, *norms, unusable = vectors(survey(str(tmp_path / "v")))[1][0][1:]
    assert kind.startswith("fixed_size_list") and norms == ["1.0000"] * 3 and unusable == "2"
    assert "Unusable" in render(survey(str(tmp_path / "v")))


def test_samples_by_hash_are_fair():
    small = Repetition(max_texts=500)
    texts = [f"text {n % 3000}" for n in range(6000)]
    for start in range(0, 6000, 100):
        part = texts[start : start + 100]
        small.add(part, ["train" if start < 3000 else "dev"] * 100)
    assert small.step > 1 and len(small.hashes) <= 500 and small.seen == 6000
    assert small.share() == pytest.approx(0.5)
    assert small.overlap()["dev", "train"] == pytest.approx(3000, rel=0.25)


def test_every_artifact_of_the_sample(  # one command, whatever the job
    inline: None,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    artifact = build(sample_recipe(), tmp_path)
    inspect.main([artifact.path, "--html", str(tmp_path / "look.html")])
    said = capsys.readouterr().out
    for name in ("corpus", "queries", "qrels", "pairs", "triplets", *artifact.manifest.dropped):
        assert name in said
    assert f"{artifact.rows('corpus'):,}" in said
    look = survey(artifact.path)
    posts = next(row for row in input_rows(look)[1] if row[1] == "Posts.xml")
    assert int(posts[2]) > int(posts[3]) > 0 and posts[4] and dropped(look)[0] == ["Reason", "Rows", "Records", "First"]
    both = {reason: int(rows) + int(records) for reason, rows, records, _ in dropped(look)[1]}
    assert both == artifact.manifest.dropped and any(row[2] != "0" for row in dropped(look)[1])
    assert "Random rows" in (tmp_path / "look.html").read_text()


def test_what_is_no_artifact(pairs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(UserError, match=r"is no artifact but holds some; give .*/\{data\}"):
        open_any(str(tmp_path))
    for path, message in ((tmp_path / "none", "no such directory"), (tmp_path / "data/triplets", "has no manifest")):
        with pytest.raises(UserError, match=message):
            open_any(str(path))
