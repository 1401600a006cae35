"""A model's identity follows every file that may decide a vector, and no other."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline.encoder.backends.backend import exported_graph
from pipeline.encoder.layout import read_layout
from pipeline.encoder.model_directory import content_digest, decides_vectors, identity

ADDED = [
    "sentencepiece.bpe.model",
    "spiece.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "modeling_custom.py",
    "2_Dense/config.json",
    "2_Dense/model.safetensors",
    "model-00001-of-00002.safetensors",
    "pytorch_model.bin",
]
IRRELEVANT = ["README.md", ".gitattributes", "onnx/model.onnx", "openvino/openvino_model.xml", "manifest.json", "a.png"]


@pytest.fixture
def model(tmp_path: Path, minilm: str) -> Path:
    target = tmp_path / "model"
    shutil.copytree(minilm, target, ignore=shutil.ignore_patterns("*.safetensors", "*.bin", "onnx", "openvino"))
    (target / "model.safetensors").write_bytes(bytes(range(256)) * 64)
    return target


def identity_of(path: Path) -> dict[str, str]:
    return identity(str(path), read_layout(str(path)), {}, layers=None, max_lengths={"query": 128, "document": 128})


def test_a_change_in_any_file_that_decides_a_vector_is_another_identity(model: Path):
    before = identity_of(model)
    files = [path for path in sorted(model.rglob("*")) if path.is_file()]
    assert len([path for path in files if decides_vectors(path.relative_to(model).as_posix())]) >= 6
    for path in files:
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        changed = content_digest(str(model)) != before["weights"]
        assert changed == decides_vectors(path.relative_to(model).as_posix()), path
        path.write_bytes(content)
    assert identity_of(model) == before


@pytest.mark.parametrize(
    "change", [{"hidden_act": "relu"}, {"num_attention_heads": 6}, {"layer_norm_eps": 0.5}, {"num_hidden_layers": 3}]
)
def test_another_configuration_of_the_same_weights_is_another_identity(model: Path, change: dict):
    before = identity_of(model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | change))
    assert identity_of(model) != before


@pytest.mark.parametrize("name", ADDED)
def test_a_new_file_of_weights_tokenizer_modules_or_code_is_another_identity(model: Path, name: str):
    before = content_digest(str(model))
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_bytes(b"one")
    first = content_digest(str(model))
    (model / name).write_bytes(b"two")
    assert len({before, first, content_digest(str(model))}) == 3


@pytest.mark.parametrize("name", IRRELEVANT)
def test_documentation_exports_and_records_of_a_run_change_nothing(model: Path, name: str):
    before = content_digest(str(model))
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_bytes(b"one")
    assert content_digest(str(model)) == before


def test_a_file_in_a_linked_folder_is_as_any_other(model: Path, tmp_path: Path):
    (tmp_path / "dense").mkdir()
    (tmp_path / "dense" / "model.safetensors").write_bytes(b"one")
    (model / "2_Dense").symlink_to(tmp_path / "dense")
    (tmp_path / "dense" / "around").symlink_to(model)
    before = content_digest(str(model))
    (tmp_path / "dense" / "model.safetensors").write_bytes(b"two")
    assert content_digest(str(model)) != before


def test_the_base_of_an_adapter_in_a_way_of_a_router_is_part_of_the_identity(model: Path, tmp_path: Path):
    shutil.copytree(model, tmp_path / "base")
    (model / "query_0_Transformer").mkdir()
    adapter = json.dumps({"base_model_name_or_path": str(tmp_path / "base")})
    (model / "query_0_Transformer" / "adapter_config.json").write_text(adapter)
    before = content_digest(str(model))
    (tmp_path / "base" / "model.safetensors").write_bytes(b"two")
    assert content_digest(str(model)) != before


@pytest.mark.parametrize(
    ("settings", "file"),
    [
        (("onnx", "float32"), "onnx/model.onnx"),
        (("onnx", "float32"), "onnx/model.onnx_data"),
        (("auto", "int8"), "openvino/openvino_model_int8.bin"),
    ],
)
def test_an_exported_graph_that_computes_the_vectors_is_part_of_the_identity(model: Path, settings, file: str):
    def write(name: str, content: bytes) -> None:
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_bytes(content)

    backend, dtype = settings
    for name in ("onnx/model.onnx", "openvino/openvino_model_int8.xml", file):
        write(name, b"one")
    before = exported_graph(backend, str(model), dtype)
    assert before.keys() == {"graph"} and exported_graph("torch", str(model), "float32") == {}
    write(file, b"two")
    assert exported_graph(backend, str(model), dtype) != before


def test_bytes_moved_from_one_file_to_another_are_another_identity(model: Path):
    (model / "vocab.json").write_bytes(b"ab")
    (model / "merges.txt").write_bytes(b"c")
    before = content_digest(str(model))
    (model / "vocab.json").write_bytes(b"a")
    (model / "merges.txt").write_bytes(b"bc")
    assert content_digest(str(model)) != before


def test_a_renamed_file_is_another_identity(model: Path):
    (model / "merges.txt").write_bytes(b"a b")
    before = content_digest(str(model))
    (model / "merges.txt").rename(model / "added_tokens.json")
    assert content_digest(str(model)) != before
