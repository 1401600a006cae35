"""Runtimes beside torch: the same vectors from OpenVINO and ONNX, int8 that stays near, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.config import validate
from pipeline.core.errors import UserError
from pipeline.encoder.backends.backend import resolve_backend
from pipeline.encoder.backends.openvino_int8 import (
    ActivationStatistics,
    QuantizationScales,
    QuantizationSite,
    clipping_range,
    fit_scales,
    quantize_rows,
    smoothing_factors,
)
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.encoder.export import ExportConfig, run

TEXTS = ["wireless headphones", "", "x", "Bluetooth earbuds with a charging case. " * 9, "running shoes"] * 5
PROMPTS = {"query": "search: ", "document": ""}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "saved"
    Encoder.load(EncoderConfig(layers=2, max_length=48, prompts=PROMPTS, dtype="float32"), "cpu").save(path)
    config = json.loads((path / "1_Pooling" / "config.json").read_text())
    (path / "1_Pooling" / "config.json").write_text(json.dumps(config | {"include_prompt": False}))
    return path


def load(path: Path, **settings) -> Encoder:
    return Encoder.load(EncoderConfig(model=str(path), **settings), "cpu").use_runtime(1)


@pytest.fixture(scope="module")
def plain(model) -> dict[str, np.ndarray]:
    encoder = load(model, dtype="float32", backend="torch")
    return {role: encoder.encode(TEXTS, role) for role in ("query", "document")}


@pytest.mark.parametrize(("dtype", "near"), [("float32", 0.999999), ("bfloat16", 0.999)])
def test_openvino_gives_the_same_vectors_prompts_left_out(model, plain, dtype, near):
    pytest.importorskip("openvino")
    encoder = load(model, dtype=dtype, backend="openvino")
    assert encoder.runtime and encoder.runtime.label == "openvino" and encoder.identity["dtype"] == dtype
    for role in ("query", "document"):
        assert (encoder.encode(TEXTS, role) * plain[role]).sum(1).min() >= near


def test_onnx_is_exported_where_others_look_for_it(model, plain, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    out = tmp_path / "out"
    run(validate(ExportConfig, {"model": str(model), "to": ["onnx"], "out": str(out)}))
    session = onnxruntime.InferenceSession(str(out / "onnx" / "model.onnx"))
    assert [node.name for node in session.get_inputs()] == ["input_ids", "attention_mask", "token_type_ids"]
    assert [node.name for node in session.get_outputs()] == ["last_hidden_state"]
    vectors = load(out, dtype="float32", backend="onnx").encode(TEXTS, "query")
    assert np.abs(vectors - plain["query"]).max() < 1e-5
    assert load(out, dtype="float32", backend="torch").identity == load(model, dtype="float32").identity


def test_int8_is_calibrated_and_stays_near(model, plain, tmp_path):
    pytest.importorskip("openvino")
    with pytest.raises(UserError, match=r"holds no openvino/openvino_model_int8\.xml; make it with"):
        Encoder.load(EncoderConfig(model=str(model), dtype="int8"), "cpu")
    texts = tmp_path / "texts.parquet"
    pq.write_table(pa.table({"text": [*TEXTS, None, " "]}), texts)
    with pytest.raises(UserError, match="needs texts to calibrate on"):
        run(validate(ExportConfig, {"model": str(model), "to": ["int8"]}))
    run(validate(ExportConfig, {"model": str(model), "to": ["int8"], "input": str(texts), "out": str(tmp_path / "o")}))
    encoder = load(tmp_path / "o", dtype="int8")
    assert encoder.identity["dtype"] == "int8"
    cosine = (encoder.encode(TEXTS, "document") * plain["document"]).sum(1)
    assert cosine.mean() > 0.99 and cosine.min() < 0.999999


def test_linear_layers_in_int8():
    rng = np.random.default_rng(3)
    weights = rng.normal(size=(6, 4)).astype(np.float32)
    codes, scale = quantize_rows(weights)
    assert np.abs(codes * scale - weights).max() <= scale.max() / 2 + 1e-6 and np.abs(codes).max() == 127
    states = np.array([1, 1, 100, 1], np.float32)
    moved = smoothing_factors(states, [weights], 0.5)
    assert states.max() / states.min() > (states / moved).max() / (states / moved).min()
    assert clipping_range(np.float32([-0.2]), np.float32([6])) == pytest.approx((-0.2, 6))
    assert clipping_range(np.float32([-8]), np.float32([6])) == (-8, 8)


def test_scales_are_those_that_change_outputs_least():
    rng = np.random.default_rng(4)
    states, weights = rng.normal(size=(512, 16)), rng.normal(size=(8, 16)).astype(np.float32)
    states[7, 3], states[:, 5] = 60, states[:, 5] * 9  # one token far out, and a channel that is large in all
    states = states.astype(np.float32)
    seen = ActivationStatistics(states.min(axis=0), states.max(axis=0), [states])

    def error(scales: QuantizationScales) -> float:
        codes, scale = quantize_rows(weights * scales.smoothing)
        return float(np.square(scales.rounded(states) @ (codes * scale).T - states @ weights.T).sum())

    fitted = fit_scales(QuantizationSite(None, [(None, weights)]), seen)
    moved = smoothing_factors(np.maximum(-seen.low, seen.high), [weights], 0.5)
    unclipped = QuantizationScales(moved, *clipping_range(seen.low / moved, seen.high / moved))
    assert error(fitted) < 0.9 * error(unclipped), "better than outliers moved half and the whole range kept"
    assert np.unique(fitted.rounded(states)).size <= 256
    assert fitted.rounded(states).min() >= fitted.low - 1e-5 and fitted.rounded(states).max() <= fitted.high + 1e-5


@pytest.mark.parametrize(
    ("backend", "device", "model_type", "dtype", "message"),
    [
        ("openvino", "cuda", "bert", "float32", "the model is on cuda"),
        ("onnx", "cpu", "static", "float32", "a static encoder has no graph"),
        ("torch", "cpu", "bert", "int8", "is computed by backend openvino, not torch"),
        ("onnx", "cpu", "bert", "bfloat16", "computes float32, not bfloat16"),
    ],
)
def test_what_does_not_go_together_is_refused(backend, device, model_type, dtype, message):
    with pytest.raises(UserError, match=message):
        resolve_backend(backend, device, model_type, dtype)


def test_a_missing_package_is_named(model, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(UserError, match=r"pip install 'tripletail\[openvino\]'"):
        load(model, backend="openvino")
