"""Vectors and an index with BM25 of 60 products, as the jobs leave them."""

from pathlib import Path

import pytest

from pipeline.core.config import validate
from pipeline.embedding.job import EmbedConfig
from pipeline.embedding.job import run as embed
from pipeline.search.job import IndexConfig
from pipeline.search.job import run as index
from tests.support.corpora import write_jsonl

ENCODER = {"model": "gt:all-minilm-l6-v2", "layers": 2, "dtype": "float32", "prompts": {"query": "find: "}}
COLORS = ("red", "green", "wooden", "large", "cheap", "old")
THINGS = ("kettle", "lamp", "mug", "shoes", "scarf", "headphones", "bicycle", "hose", "tripod", "sofa")


@pytest.fixture(scope="session")
def served_run(tmp_path_factory, minilm) -> Path:
    """A run with `vectors` and `index`."""
    run = tmp_path_factory.mktemp("served")
    names = [f"{color} {thing}" for color in COLORS for thing in THINGS]
    rows = [{"id": f"p{row}", "title": name, "text": f"{name}, {row} cm"} for row, name in enumerate(names)]
    write_jsonl(run / "products.jsonl", rows)
    products = str(run / "products.jsonl")
    embed(validate(EmbedConfig, {"run": str(run), "input": products, "encoder": ENCODER, "columns": ["title", "text"]}))
    index(validate(IndexConfig, {"run": str(run), "index": {"type": "exact"}, "bm25": True, "threads": 1}))
    return run
