"""MTEB runs a model directory of ours and gives the scores that our own figures give; nothing is downloaded."""

import json
import socket
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.metrics.retrieval import mean, retrieval
from pipeline.search.exact import top_k
from pipeline.storage.vectors import l2_normalize


@pytest.fixture(scope="module")
def shop():
    """Some of the sample shop's own queries, judgments and products: small, and made of real sentences."""
    root = Path(__file__).resolve().parents[3] / "scripts" / "sample"
    texts = {}
    for line in (root / "products.jsonl").read_text().splitlines():
        with suppress(ValueError):  # the sample has broken lines on purpose
            row = json.loads(line)
            texts |= {row["id"]: row["title"]} if row.get("title") else {}
    lines = (root / "search" / "qrels" / "judgments.tsv").read_text().splitlines()[1:]
    judgments: dict[str, dict[str, int]] = {}
    for query, doc, grade in (line.split("\t") for line in lines):
        if doc in texts:
            judgments.setdefault(query, {})[doc] = int(grade)
    rows = [json.loads(line) for line in (root / "search" / "queries.jsonl").read_text().splitlines()]
    queries = {row["_id"]: row["text"] for row in rows if any(g > 0 for g in judgments.get(row["_id"], {}).values())}
    chosen = dict(list(queries.items())[:25])
    return texts, chosen, {query: judgments[query] for query in chosen}


def task_of(texts, queries, judgments):
    """A retrieval task of MTEB whose data are here."""
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
    from mteb.abstasks.task_metadata import TaskMetadata

    class SampleShop(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="SampleShop",
            description="Shopper queries against products of the sample shop.",
            reference=None,
            dataset={"path": "here", "revision": "1"},
            type="Retrieval",
            category="t2t",
            modalities=["text"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
            date=None,
            domains=None,
            task_subtypes=None,
            license=None,
            annotations_creators=None,
            dialect=None,
            sample_creation=None,
            bibtex_citation=None,
        )

        def load_data(self, **ignored):
            columns = [{"id": name, "text": text} for name, text in texts.items()]
            rows = [{"id": name, "text": text} for name, text in queries.items()]
            split = RetrievalSplitData(
                corpus=Dataset.from_list(columns),
                queries=Dataset.from_list(rows),
                relevant_docs=judgments,
                top_ranked=None,
            )
            self.dataset, self.data_loaded = {"default": {"test": split}}, True

    return SampleShop()


def test_equal_scores(shop, minilm, tmp_path, monkeypatch):
    monkeypatch.setenv("MTEB_CACHE", str(tmp_path / "cache"))
    mteb = pytest.importorskip("mteb", reason="mteb is not installed; it is in [dev]")
    from sentence_transformers import SentenceTransformer

    def refuse(self, address):
        raise AssertionError(f"wants to talk to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    encoder = Encoder.load(EncoderConfig(model=minilm, layers=1, dtype="float32", max_length=64), "cpu")
    encoder.save(tmp_path / "model")
    texts, queries, judgments = shop
    task = task_of(texts, queries, judgments)
    model = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    results = mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False)
    theirs = results.task_results[0].scores["test"][0]

    documents = l2_normalize(encoder.encode(list(texts.values()), "document"))
    _, rows = top_k(l2_normalize(encoder.encode(list(queries.values()), "query")), [documents], 100)
    ids = np.array(list(texts))
    ranked = {query: ids[row].tolist() for query, row in zip(queries, rows, strict=True)}
    ours = retrieval(ranked, judgments, ["ndcg@10:linear", "recall@100", "hit@1", "mrr@10"])
    assert max(grade for grades in judgments.values() for grade in grades.values()) > 1, "graded, so gains matter"
    assert theirs["ndcg_at_10"] == pytest.approx(mean(ours["ndcg@10:linear"]), abs=1e-5), "MTEB rounds to five places"
    assert theirs["recall_at_100"] == pytest.approx(mean(ours["recall@100"]), abs=1e-5)
    assert theirs["hit_rate_at_1"] == pytest.approx(mean(ours["hit@1"]), abs=1e-5)
    assert theirs["mrr_at_10"] == pytest.approx(mean(ours["mrr@10"]), abs=1e-5)
    assert 0.05 < theirs["ndcg_at_10"] < 0.95
