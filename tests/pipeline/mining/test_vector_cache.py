"""Keys of vectors and candidates: change one thing, and the key changes."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.config import validate
from pipeline.mining.actors import DOCUMENT
from pipeline.mining.config import MineConfig
from pipeline.mining.vector_cache import content_keys, search_key, texts_key, vector_key, weights_key
from pipeline.storage import shards

IDENTITY = {
    "weights": "w", "layers": "all", "pooling": "mean", "normalize": "true",
    "prompts": "p", "max_length": "128", "dtype": "float32",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(IDENTITY) - {"prompts"}))
def test_a_vectors_key_knows_the_model(name):
    assert vector_key(IDENTITY, "", "query", "c") != vector_key(IDENTITY | {name: "other"}, "", "query", "c")


def test_a_vectors_key_knows_its_own_prompt_role_and_content_and_not_the_other_roles_prompt():
    key = vector_key(IDENTITY, "query: ", "query", "c")
    others = [("query:", "query", "c"), ("query: ", "document", "c"), ("query: ", "query", "d")]
    assert key not in {vector_key(IDENTITY, *other) for other in others}
    assert key == vector_key(IDENTITY | {"prompts": "other"}, "query: ", "query", "c")


ROW = {"doc_id": "a", "text": "one", "cluster_id": None, "category": "k", "tags": ["x"]}


@pytest.mark.parametrize(
    "change",
    [{"doc_id": "b"}, {"text": "one "}, {"text": None}, {"cluster_id": "c"}, {"category": None}, {"tags": ["x", "y"]}],
)
def test_content_is_every_column_that_is_looked_at(tmp_path, change):
    kind = pa.schema([(n, pa.string()) for n in DOCUMENT[:-1]] + [("tags", pa.list_(pa.string()))])
    keys = []
    for name, row in (("one", ROW), ("two", ROW | change), ("three", ROW)):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist([ROW, row, ROW], schema=kind), path)
        keys.append(content_keys(shards.plan([str(path)], 2, "s"), DOCUMENT))
    assert keys[0] == keys[2] and keys[0][0] != keys[1][0] and keys[0][1] == keys[1][1]


@pytest.mark.parametrize(
    "change",
    [
        {"top_k": 40}, {"split": "dev"}, {"exclude": {"same_text": False}}, {"lexical": {}},
        {"index": {"type": "hnsw"}}, {"rows_per_shard": 7},
    ],
)  # fmt: skip
def test_a_candidates_key_knows_the_search(change):
    first, two = (validate(MineConfig, settings).search_settings() for settings in ({}, change))
    assert search_key(["v"], first, "j") != search_key(["v"], two, "j")


def test_a_candidates_key_knows_vectors_and_judgments_and_not_the_rule():
    settings = validate(MineConfig, {}).search_settings()
    keys = {search_key(*inputs) for inputs in ((["v"], settings, "j"), (["w"], settings, "j"), (["v"], settings, "k"))}
    assert len(keys) == 3
    assert (
        settings
        == validate(MineConfig, {"rule": {"num_negatives": 1}, "block_rows": 5, "cache": "x"}).search_settings()
    )


def test_a_loaded_models_key_knows_every_weight():
    from torch import nn

    first, two = nn.Linear(2, 2), nn.Linear(2, 2)
    two.load_state_dict(first.state_dict())
    assert weights_key(first, None, []) == weights_key(two, None, []) != weights_key(two, None, ["cls"])
    two.bias.data[1] += 1e-6
    assert weights_key(first, None, []) != weights_key(two, None, [])
    assert texts_key(["p"], ["ab", "c"]) not in {texts_key(["p"], ["a", "bc"]), texts_key(["q"], ["ab", "c"])}
