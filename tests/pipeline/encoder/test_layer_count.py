"""Layers of a model directory, counted from its files for every architecture of the zoo that has some."""

import json
from pathlib import Path

import pytest

from pipeline.core.config import validate
from pipeline.encoder.config import EncoderConfig
from pipeline.encoder.layer_count import count_layers, is_cut, kept_layers


@pytest.mark.parametrize("name", ["num_hidden_layers", "n_layers", "n_layer", "num_layers"])
@pytest.mark.parametrize("folder", ["", "0_Transformer"])
def test_layers_are_read_by_the_names_of_every_family(tmp_path: Path, name: str, folder: str):
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / "config.json").write_text(json.dumps({"model_type": "x", name: 12}))
    assert count_layers(str(tmp_path)) == 12


def test_what_has_no_count_has_none(tmp_path: Path):
    assert count_layers(str(tmp_path)) is None
    (tmp_path / "config.json").write_text('{"model_type": "model2vec"}')
    assert count_layers(str(tmp_path)) is None
    assert kept_layers(validate(EncoderConfig, {"model": str(tmp_path)})) == {}
    (tmp_path / "config.json").write_text("no JSON")
    assert count_layers(str(tmp_path)) is None


def test_a_model_that_was_cut_and_saved_is_known_by_what_it_was_cut_from(minilm: str, tmp_path: Path):
    begun_with = validate(EncoderConfig, {"model": minilm, "layers": 3})
    assert is_cut(begun_with) and kept_layers(begun_with) == {"layers": 3, "of": 6}
    (tmp_path / "config.json").write_text('{"num_hidden_layers": 3}')
    saved = begun_with.of_saved(str(tmp_path))
    assert kept_layers(saved) == {"layers": 3, "of": 3}
    assert kept_layers(saved, begun_with) == {"layers": 3, "of": 6}
    assert kept_layers(saved, validate(EncoderConfig, {"model": minilm})) == {"layers": 3, "of": 3}
    assert not is_cut(validate(EncoderConfig, {"model": minilm, "layers": 6}))
