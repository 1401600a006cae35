"""A runtime that differs from torch is not trusted: torch computes, and a line says why."""

from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.core.errors import UserError
from pipeline.encoder.backends.probe import difference, probe_length, trusted
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.encoder.export import ExportConfig, run
from tests.support import zoo

RIGHT = np.eye(2, 4, dtype=np.float32)
NOTHING = np.full((2, 4), np.nan, np.float32)


def asked(found, dtype="float32", build=lambda: "runtime"):
    return trusted("openvino", dtype, build, lambda: RIGHT, lambda runtime: found)


def test_what_agrees_is_trusted(capsys):
    assert asked(RIGHT * 3) == "runtime"
    assert difference(RIGHT, RIGHT + 0.02, "bfloat16") is None
    assert "cosine" in str(difference(RIGHT, RIGHT + 0.02, "float32"))
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("found", "words"), [(NOTHING, "not finite"), (-RIGHT, r"other vectors than torch \(cosine -1")]
)
def test_what_differs_is_not_and_the_reason_is_said(found, words, capsys):
    assert asked(found) is None
    assert "encoder: torch computes this model: openvino gives" in (line := capsys.readouterr().err)
    assert words.replace("\\", "") in line
    with pytest.raises(UserError, match=f"int8: openvino gives .*{words}.*; choose encoder.dtype bfloat16"):
        asked(found, "int8")


def test_errors_of_a_converter_are_said_and_users_errors_are_raised(capsys):
    def fails():
        raise RuntimeError("no such operation\nat line 3")

    def is_missing():
        raise UserError("install it")

    assert asked(RIGHT, build=fails) is None
    assert "openvino does not take it: no such operation at line 3" in capsys.readouterr().err
    with pytest.raises(UserError, match="install it"):
        asked(RIGHT, build=is_missing)


def test_a_probe_is_longer_than_the_windows_of_a_model():
    assert probe_length(SimpleNamespace(), 512) == 256
    assert probe_length(SimpleNamespace(sliding_window=300), 8192) == 600
    assert probe_length(SimpleNamespace(sliding_window=None, local_attention=4096), 512) == 512


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_every_family_by_openvino_agrees_with_torch_or_torch_computes(family, tmp_path, capsys):
    pytest.importorskip("openvino")
    path = zoo.base(family, tmp_path)
    expected = Encoder.load(EncoderConfig(model=path, dtype="float32", backend="torch"), "cpu").encode(
        zoo.TEXTS, "query"
    )
    encoder = Encoder.load(EncoderConfig(model=path, dtype="float32", backend="openvino"), "cpu")
    found = encoder.encode(zoo.TEXTS, "query")
    assert (expected * found).sum(axis=1).min() >= 0.9999
    assert (encoder.runtime is None) == ("torch computes this model: openvino" in capsys.readouterr().err)
    if family in ("bert", "roberta", "xlm-roberta", "mpnet", "distilbert", "electra", "albert"):
        assert encoder.runtime is not None


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_every_family_is_exported_to_onnx_and_agrees_or_is_refused_by_name(family, tmp_path):
    pytest.importorskip("onnxruntime")
    path, out = zoo.base(family, tmp_path / "base"), tmp_path / "out"
    if family == "gemma3":
        with pytest.raises(UserError, match="export to onnx: does not take models of type gemma3_text: "):
            run(ExportConfig(model=path, to=["onnx"], out=str(out)))
        return
    run(ExportConfig(model=path, to=["onnx"], out=str(out)))
    expected = Encoder.load(EncoderConfig(model=path, dtype="float32", backend="torch"), "cpu")
    found = Encoder.load(EncoderConfig(model=str(out), dtype="float32", backend="onnx"), "cpu")
    vectors = expected.encode(zoo.TEXTS, "query"), found.encode(zoo.TEXTS, "query")
    assert found.runtime is not None and (vectors[0] * vectors[1]).sum(axis=1).min() >= 0.9999
