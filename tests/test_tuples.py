"""Our triplets in the shape that Sentence Transformers' trainer takes."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import schema
from pipeline.encoder import EncoderConfig
from pipeline.modeldir import find
from pipeline.tuples import tuples


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
    assert tuples(table).to_pylist() == expected
    assert tuples(pa.concat_tables([table, table])).to_pylist() == expected * 2


def test_no_negatives_give_an_empty_table():
    assert tuples(triplets(1)).column_names == ["anchor", "positive", "negative"]
    assert tuples(triplets(1)).num_rows == 0


def test_sentence_transformers_trains_on_the_file(tmp_path):
    peer = pytest.importorskip("sentence_transformers")
    from datasets import load_dataset
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    pq.write_table(tuples(triplets()), tmp_path / "part.parquet")
    data = load_dataset("parquet", data_files=str(tmp_path / "part.parquet"), split="train", cache_dir=str(tmp_path))
    model = peer.SentenceTransformer(find(EncoderConfig().model), device="cpu")
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
