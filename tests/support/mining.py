"""A small artifact of build to mine from, and a tiny reranker."""

import itertools
from pathlib import Path

import pyarrow as pa
import torch

from pipeline.core import schema
from pipeline.storage.artifact import Draft

COLOURS, SIZES = ("red", "green", "blue", "black"), ("small", "large")
THINGS = ("kettle", "lamp", "mug", "running shoes", "wool scarf", "wireless headphones", "bicycle", "garden hose")
TEXTS = [f"{size} {colour} {thing}" for thing, colour, size in itertools.product(THINGS, COLOURS, SIZES)]
DOCS = [{"doc_id": f"d{number:02d}", "text": text} for number, text in enumerate(TEXTS)] + [
    {"doc_id": "copy", "text": "SMALL  red kettle"},  # reads like d00
    {"doc_id": "near", "text": "a small red kettle!"},  # in the cluster of d00
    {"doc_id": "blank", "text": " "},
    *({"doc_id": f"twin{number}", "text": "a tripod for cameras"} for number in range(6)),
]
CLUSTERS = {"d00": "c1", "near": "c1"}


def pair(anchor: int, positive: str, group: str, split: str = "train") -> dict[str, object]:
    text = {row["doc_id"]: row["text"] for row in DOCS}
    return {
        "anchor_id": f"q{anchor}",
        "anchor": f"I want a {THINGS[anchor % len(THINGS)]} number {anchor}",
        "positive_id": positive,
        "positive": text.get(positive, "not there"),
        "source": "test",
        "split": split,
        "group_id": group,
        "relevance": 1.0,
        "reason": "given",
    }


PAIRS = [pair(number, f"d{8 * (number % 8):02d}", f"g{number // 3}") for number in range(20)] + [
    pair(0, "d03", "g0"),  # a second positive of q0, far from its first row
    pair(20, "gone", "g9"),  # its positive is not in the corpus
    pair(21, "d01", "g9", split="dev"),
    pair(22, "d02", "g9") | {"anchor": "  "},
]
QRELS = [
    {"query_id": "q1", "doc_id": "d09", "relevance": 2, "split": "dev"},
    {"query_id": "q1", "doc_id": "d10", "relevance": 0, "split": "train"},
]


def write_mining_data(path: str) -> str:
    """Write corpus, pairs and judgments as a finished artifact of build; returns its path."""
    draft = Draft(path, "build", {}, {})
    rows = [{"title": "", "tags": [], "source": "t", "cluster_id": CLUSTERS.get(doc["doc_id"]), **doc} for doc in DOCS]
    for part, some in enumerate((rows[:50], rows[50:])):
        draft.write("corpus", pa.Table.from_pylist(some, schema=schema.TABLES["corpus"]), part)
    draft.write("pairs", pa.Table.from_pylist(PAIRS, schema=schema.TABLES["pairs"]))
    draft.write("qrels", pa.Table.from_pylist(QRELS, schema=schema.TABLES["qrels"]))
    return draft.finish(["corpus", "pairs", "qrels"]).path


def reranker_directory(folder: Path, minilm: str, labels: int = 1) -> str:
    """A tiny BertForSequenceClassification beside the sample model's tokenizer."""
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    torch.manual_seed(5)
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64, num_labels=labels, initializer_range=0.5,
    )  # fmt: skip
    BertForSequenceClassification(config).eval().save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return str(folder)
