"""Training on passages: the nearest to the query, by the model that is named, in memory and in tasks alike."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.config import validate
from pipeline.core.errors import UserError
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.encoder.passage_vectors import groups
from pipeline.encoder.passages import PassageCutter, passages
from pipeline.storage.artifact import Artifact
from pipeline.storage.shuffle import Shuffle
from tests.support.rows import made, pair
from tests.support.runs import SETTINGS
from training.data import bulk_rows, passage_choice
from training.data.epoch import run_in_process
from training.data.passage_choice import PassageChoice, TrainPassages
from training.data.read_rows import load_rows
from training.data.rows_artifact import tokenise_in_pieces, write_rows
from training.run.config import TrainConfig
from training.run.epochs import passage_choice as of_run

ENCODER = EncoderConfig(layers=2, max_length=32, dtype="float32", backend="torch")
CUT = TrainPassages(tokens=20, overlap=4)
FILLING = "It is sold with a warranty of two years. Anyone can repair it at home with a screwdriver. "
THINGS = ["kettle", "lamp", "bicycle", "sofa", "tripod"]


def document(row: int) -> str:
    """A text of one to five passages, which says in its middle what it is about."""
    about = f"The {THINGS[row % 5]} number {row} is repaired with part {row}. "
    return FILLING * (row % 3) + about + FILLING * (row % 2)


def negative(row: int) -> dict[str, object]:
    return {"doc_id": f"d{row}", "text": document(row), "score": 0.5}


def artifact(folder: Path) -> Artifact:
    rows = range(24)
    triplets = [
        pair(f"q{row}", f"d{row}", anchor=f"how is {THINGS[row % 5]} {row} repaired", positive=document(row))
        | {
            "negatives": [
                {"doc_id": f"d{n}", "text": document(n), "score": 0.5} for n in (row + 24, row + 7)[: row % 3]
            ]
        }
        for row in rows
    ]
    triplets[3] |= {"anchor": document(5)}  # a query that reads like a long document, which is a negative of its row
    triplets[3]["negatives"] = [negative(5)]
    return made(folder, "build", triplets=triplets)


@pytest.fixture(scope="module")
def encoder(minilm: str) -> Encoder:
    return Encoder.load(ENCODER, "cpu")


def nearest(encoder: Encoder, query: str, text: str) -> str:
    """The passage of a text that is nearest to a query."""
    cut = passages(text, PassageCutter(encoder, CUT).cut([text])[0])
    return cut[int(np.argmax(encoder.encode(cut, "document") @ encoder.encode([query], "query")[0]))]


def test_rows_have_the_passage_nearest_to_their_query(
    tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
):
    rows = load_rows(["triplets"], artifact(tmp_path), None, None, None)
    choice = PassageChoice(PassageCutter(encoder, CUT), encoder)
    chosen = choice(rows)
    assert chosen.anchors == rows.anchors
    wanted = [nearest(encoder, *texts) for texts in zip(rows.anchors, rows.positives, strict=True)]
    assert chosen.positives == wanted
    assert sum(passage != text for passage, text in zip(wanted, rows.positives, strict=True)) > 10
    assert all(f"part {row}." in text for row, text in enumerate(chosen.positives) if row != 3)
    of_row = zip(rows.anchors, rows.negatives, strict=True)
    assert chosen.negatives == [[nearest(encoder, anchor, text) for text in texts] for anchor, texts in of_row]
    assert [ids.tolist() for ids in chosen.relevant_id] == [ids.tolist() for ids in rows.relevant_id]
    assert int(rows.negative_id[3][0]) in chosen.relevant_id[3].tolist(), "its own text is no negative of a query"
    monkeypatch.setattr(passage_choice, "groups", lambda texts: groups(texts, 300))
    assert (again := choice(rows)).positives == chosen.positives and again.negatives == chosen.negatives


def test_another_model_may_choose(tmp_path: Path, encoder: Encoder):
    rows = load_rows(["triplets"], artifact(tmp_path), None, None, None)
    other = ENCODER.model_copy(update={"layers": 1})
    settings = {**SETTINGS, "run": str(tmp_path), "passages": {**CUT.model_dump(), "encoder": other.model_dump()}}
    choice = of_run(validate(TrainConfig, settings), encoder)
    assert choice is not None and choice.cutter.encoder is encoder
    assert choice.chooser.identity["layers"] == "1" and choice.chooser.identity["dtype"] == "float32"
    cut = [passages(text, spans) for text, spans in zip(rows.positives, choice.cutter.cut(rows.positives), strict=True)]
    queries = choice.chooser.encode(rows.anchors, "query")
    best = [
        texts[int(np.argmax(choice.chooser.encode(texts, "document") @ query))]
        for query, texts in zip(queries, cut, strict=True)
    ]
    assert choice(rows).positives == best
    assert of_run(validate(TrainConfig, {**SETTINGS, "run": str(tmp_path)}), encoder) is None


def test_rows_of_tasks_are_those_in_memory(tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bulk_rows, "BLOCK_ROWS", 9)
    data = artifact(tmp_path)
    rows = PassageChoice(PassageCutter(encoder, CUT), encoder)(load_rows(["triplets"], data, None, None, None))
    inside = write_rows(str(tmp_path / "inside"), {}, {}, tokenise_in_pieces(rows, encoder.tokenize))
    steps = bulk_rows.BulkRows(
        ["triplets"], data, None, ENCODER, Shuffle(str(tmp_path / "bulk" / "staging"), 3), str(tmp_path / "bulk"),
        passages=CUT, chooser=ENCODER,
    )  # fmt: skip
    staged = bulk_rows.write_bulk_rows({}, {}, steps, run_in_process)
    names = ["row", "anchor", "positive", "negatives"]
    assert (
        staged.read("rows", names).sort_by("row").to_pylist() == inside.read("rows", names).sort_by("row").to_pylist()
    )


def test_passages_that_training_cannot_read_are_refused(tmp_path: Path, encoder: Encoder):
    with pytest.raises(UserError, match=r"passages\.tokens 64: the encoder cuts documents at 32 tokens"):
        of_run(validate(TrainConfig, {**SETTINGS, "run": str(tmp_path), "passages": {"tokens": 64}}), encoder)
