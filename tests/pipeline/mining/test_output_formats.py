"""Our triplets in the shape that Sentence Transformers' trainer takes."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core import schema
from pipeline.encoder.encoder import EncoderConfig
from pipeline.encoder.model_directory import resolve_model
from pipeline.mining.output_formats import labeled_lists, labeled_pairs, n_tuples
from pipeline.mining.output_formats import triplets as as_triplets
from pipeline.storage.artifact import Draft
from scripts.tripletail.commands.export_negatives import main


def triplets(count=6):
    rows = [
        {
            "anchor_id": f"q{i}",
            "anchor": f"question {i}",
            "positive_id": f"d{i}",
            "positive": f"answer {i}",
            "source": "test",
            "split": "train",
            "group_id": f"q{i}",
            "relevance": 1.0,
            "reason": "judged",
            "negatives": [
                {"doc_id": f"n{i}{j}", "text": f"wrong {i} {j}", "score": 0.5, "rank": j, "reason": "mined"}
                for j in range(i % 3)
            ],
        }
        for i in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=schema.TABLES["triplets"])


@pytest.mark.parametrize("cut", [0, 2])
def test_one_row_for_each_negative_in_order(cut):
    table = triplets().slice(cut)
    expected = [
        {"anchor": row["anchor"], "positive": row["positive"], "negative": negative["text"]}
        for row in table.to_pylist()
        for negative in row["negatives"]
    ]
    assert as_triplets(table).to_pylist() == expected
    assert as_triplets(pa.concat_tables([table, table])).to_pylist() == expected * 2


def test_no_negatives_give_an_empty_table():
    assert as_triplets(triplets(1)).column_names == ["anchor", "positive", "negative"]
    assert as_triplets(triplets(1)).num_rows == 0


def scored() -> pa.Table:
    table = triplets()
    return table.append_column("positive_score", pa.array([0.9 - 0.1 * row for row in range(6)], pa.float32()))


def test_n_tuples_hold_whole_rows_alone():
    table = n_tuples(scored(), 2, scores=True)
    assert table.to_pylist() == [
        {
            "anchor": f"question {i}",
            "positive": f"answer {i}",
            "negative_1": f"wrong {i} 0",
            "negative_2": f"wrong {i} 1",
            "scores": pytest.approx([0.9 - 0.1 * i, 0.5, 0.5]),
        }
        for i in (2, 5)
    ]
    assert n_tuples(scored(), 1).num_rows == 4 and n_tuples(scored(), 3).num_rows == 0


def test_labelled_rows():
    lists = labeled_lists(scored().slice(1)).to_pylist()
    assert [row["labels"] for row in lists] == [[1, 0], [1, 0, 0], [1, 0], [1, 0, 0]]
    assert lists[1] == {"anchor": "question 2", "positive": ["answer 2", "wrong 2 0", "wrong 2 1"], "labels": [1, 0, 0]}
    pairs = labeled_pairs(scored()).to_pylist()
    assert [row["label"] for row in pairs] == [1, 1, 0, 1, 0, 0] * 2
    assert labeled_pairs(scored().slice(0, 0)).num_rows == 0


@pytest.mark.parametrize("form", ["n-tuple", "flag"])
def test_an_artifact_is_exported(tmp_path, capsys, form):
    draft = Draft(str(tmp_path / "negatives"), "mine", {}, {})
    draft.write("triplets", triplets())
    names = [{"anchor_id": f"q{i}", "positive_id": f"d{i}", "positive_score": 0.5} for i in range(6)]
    draft.write("candidates", pa.Table.from_pylist(names, schema=schema.TABLES["candidates"]))
    draft.finish(["triplets", "candidates"])
    out = tmp_path / "out"
    export = [str(tmp_path / "negatives"), str(out), "--format", form, "--num-negatives", "2"]
    main(export)
    assert f"{2 if form == 'n-tuple' else 4} rows of 6 mined ones" in capsys.readouterr().err
    if form == "flag":
        lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        expected = {"query": "question 2", "pos": ["answer 2"], "neg": ["wrong 2 0", "wrong 2 1"]}
        assert lines[1] == expected | {"pos_scores": [0.5], "neg_scores": [0.5, 0.5]}
    with pytest.raises(SystemExit):
        main(export)
    assert "exists already" in capsys.readouterr().err


def test_sentence_transformers_trains_on_the_file(tmp_path):
    peer = pytest.importorskip("sentence_transformers")
    from datasets import load_dataset
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    pq.write_table(as_triplets(triplets()), tmp_path / "part.parquet")
    data = load_dataset("parquet", data_files=str(tmp_path / "part.parquet"), split="train", cache_dir=str(tmp_path))
    model = peer.SentenceTransformer(resolve_model(EncoderConfig().model), device="cpu")
    arguments = peer.SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "out"),
        max_steps=1,
        per_device_train_batch_size=4,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
    )
    trainer = peer.SentenceTransformerTrainer(model, arguments, data, loss=MultipleNegativesRankingLoss(model))
    assert trainer.train().global_step == 1
