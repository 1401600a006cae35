"""What other servers would make of a model directory, by the rules of their code."""

import json
from pathlib import Path

import pytest

from pipeline.core.config import validate
from pipeline.core.errors import UserError
from pipeline.encoder.export import ExportConfig, run
from pipeline.encoder.modules.registry import kind_of, type_of
from pipeline.encoder.pooling import pooling_config, read_pooling
from pipeline.encoder.servers import SERVERS, check_server
from tests.support.zoo import make

AGAINST = {
    "bert, mean": ([], []),
    "bge: roberta, cls": ([], []),
    "Qwen3-Embedding": ([], []),
    "all-mpnet": ([], ["architecture MPNetModel is not among"]),
    "electra, max": (["pooling max", "model type electra"], ["pooling max", "architecture ElectraModel"]),
    "modernbert, last and first": (["+"], ["+"]),
    "nomic_bert, truncated, dot": (["truncate_dim 24"], ["truncate_dim 24"]),
    "gte-Qwen2": (["NVIDIA GPU"], []),
}


def as_older_versions_write(path: Path) -> None:
    """Name modules and pooling of a directory as Sentence Transformers before 6 did, where they can."""
    modules = json.loads((path / "modules.json").read_text())
    for module in modules:
        module["type"] = type_of(kind_of(module["type"]) or "")
        if module["type"] == type_of("Pooling"):
            file = path / module["path"] / "config.json"
            config = json.loads(file.read_text())
            older = pooling_config(read_pooling(config), 32, include_prompt=config.get("include_prompt", True))
            file.write_text(json.dumps(older))
    (path / "modules.json").write_text(json.dumps(modules))


@pytest.mark.parametrize("layout", AGAINST)
def test_what_a_server_leaves_out_is_said(tmp_path: Path, layout: str):
    path = make(layout, tmp_path)
    as_older_versions_write(Path(path))
    for server, parts in zip(SERVERS, AGAINST[layout], strict=True):
        reasons = " ".join(check_server(server, path))
        assert all(part in reasons for part in parts) and bool(reasons) == bool(parts), (server, reasons)


def test_a_directory_that_names_modules_as_newer_versions_do_is_not_read_by_them(tmp_path: Path):
    path = Path(make("bert, mean", tmp_path))
    as_older_versions_write(path)
    modules = json.loads((path / "modules.json").read_text())
    modules[1]["type"] = "sentence_transformers.sentence_transformer.modules.Pooling"
    (path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UserError, match=r"vLLM: .*must be called sentence_transformers\.models\.Pooling"):
        run(validate(ExportConfig, {"model": str(path), "to": [], "servers": ["vllm"]}))


def test_what_a_training_saves_is_read_by_both(tmp_path: Path, minilm: str):
    from pipeline.encoder.encoder import Encoder, EncoderConfig

    Encoder.load(EncoderConfig(layers=1, model=minilm), "cpu").save(tmp_path / "saved")
    assert run(validate(ExportConfig, {"model": str(tmp_path / "saved"), "to": [], "servers": ["tei", "vllm"]}))
