"""Every key, type and file of a model directory is used, kept, or refused by its full name."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.core.errors import UserError
from pipeline.core.progress import say_once
from pipeline.encoder.config import EncoderConfig
from pipeline.encoder.layout import custom_types, default_layout, read_layout
from pipeline.encoder.load import override
from pipeline.encoder.model_settings import ModelSettings
from pipeline.encoder.modules.dense import Dense
from pipeline.encoder.modules.registry import KINDS, kind_of
from pipeline.encoder.modules.vector_module import read_weights
from pipeline.encoder.transformer_settings import TransformerSettings

ST = "sentence_transformers.models"


def directory(place: Path, *types: str, **files: dict) -> str:
    """A model directory of JSON files alone; a file's name is given with `__` for `/`."""
    listed = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind.rsplit('.')[-1]}" if i else "", "type": kind}
        for i, kind in enumerate(types)
    ]
    place.mkdir(exist_ok=True)
    (place / "modules.json").write_text(json.dumps(listed))
    for name, content in files.items():
        file = place / f"{name.replace('__', '/')}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))
    return str(place)


CHAIN = (f"{ST}.Transformer", f"{ST}.Pooling")


@pytest.mark.parametrize(
    ("types", "files", "words"),
    [
        (("custom_st.Transformer", CHAIN[1]), {}, "module 'custom_st.Transformer' is not supported"),
        ((*CHAIN, "other.models.Normalize"), {}, "module 'other.models.Normalize' is not supported"),
        ((*CHAIN, f"{ST}.CNN"), {}, f"module '{ST}.CNN' is not supported"),
        ((CHAIN[0], f"{ST}.Dense"), {}, "has no Pooling module after its Transformer"),
        ((CHAIN[1],), {}, f"module '{CHAIN[1]}' cannot come first"),
        ((*CHAIN, CHAIN[1]), {}, "at this place of the chain is not supported"),
        (CHAIN, {"1_Pooling__config": {"pooling_mode": "median"}}, "pooling 'median' is not supported"),
        (CHAIN, {"1_Pooling__config": {"pooled": 1}}, "pooling: pooled has no meaning here"),
        (CHAIN, {"sentence_bert_config": {"max_len": 3}}, "sentence_bert_config.json: max_len has no meaning here"),
        (CHAIN, {"sentence_bert_config": {"max_seq_length": -1}}, "max_seq_length -1 is no number of tokens"),
        (CHAIN, {"sentence_bert_config": {"max_seq_length": "12"}}, "max_seq_length '12' is no number of tokens"),
        (CHAIN, {"sentence_bert_config": {"query_length": 32}}, "query_length 32 is not supported"),
        (CHAIN, {"sentence_bert_config": {"transformer_task": "fill-mask"}}, "transformer_task 'fill-mask'"),
        (CHAIN, {"sentence_bert_config": {"model_args": {"file_name": "x"}}}, "model_kwargs file_name is not"),
        (CHAIN, {"sentence_roberta_config": {"modality_config": {"message": {}}}}, "modality_config message is not"),
        (CHAIN, {"config_sentence_transformers": {"model_type": "SparseEncoder"}}, "model_type 'SparseEncoder'"),
        (CHAIN, {"config_sentence_transformers": {"truncate_dim": "8"}}, "truncate_dim '8' is no number"),
        (CHAIN, {"config_sentence_transformers": {"prompts": ["q: "]}}, "its prompts are no texts by name"),
    ],
)
def test_what_is_not_known_is_refused_by_its_full_name(tmp_path, types, files, words):
    path = directory(tmp_path / "model", *types, **files)
    with pytest.raises(UserError, match=f"model {path}: ") as error:
        read_layout(path)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_path_out_of_the_directory_is_refused(tmp_path):
    path = directory(tmp_path / "model", *CHAIN)
    listed = json.loads((tmp_path / "model/modules.json").read_text())
    (tmp_path / "model/modules.json").write_text(json.dumps([listed[0], {**listed[1], "path": "../other"}]))
    with pytest.raises(UserError, match=r"'\.\./other' leads out of the directory"):
        read_layout(path)
    (tmp_path / "model/modules.json").write_text(json.dumps([{**listed[0], "kwargs": ["task"]}, listed[1]]))
    with pytest.raises(UserError, match="kwargs of module"):
        read_layout(path)


def test_types_are_known_by_all_names_that_versions_write():
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    for kind in KINDS:
        assert kind_of(f"{ST}.{kind}") == kind
        assert kind_of(f"models.{kind}") is None and kind_of(kind) is None
        if kind != "Asym":
            written = getattr(modules, kind)
            assert kind_of(f"{written.__module__}.{written.__name__}") == kind


def test_modules_with_code_of_their_own_are_listed(tmp_path):
    assert custom_types(directory(tmp_path / "a", "custom_st.Transformer", CHAIN[1])) == ["custom_st.Transformer"]
    assert custom_types(directory(tmp_path / "b", *CHAIN)) == []


def test_settings_of_the_whole_are_kept_but_for_what_changed():
    stated = {
        "prompts": {"query": "q: ", "passage": "p: ", "STS": "s: "},
        "truncate_dim": 8,
        "similarity_fn_name": "dot",
    }
    settings = ModelSettings.read({**stated, "default_prompt_name": "STS", "future_key": [1]})
    assert settings.role_prompts() == {"query": "q: ", "document": "p: "}
    by_role = {**stated, "prompts": {**stated["prompts"], "document": "p: "}}
    assert settings.to_save(settings.role_prompts()) == {**by_role, "default_prompt_name": "STS", "future_key": [1]}
    assert settings.role_prompts({"query": "STS"}) == {"query": "s: ", "document": "p: "}
    chosen = settings.to_save(settings.role_prompts({"query": "STS"}))
    assert chosen["prompts"] == {"query": "s: ", "passage": "p: ", "STS": "s: ", "document": "p: "}
    given = settings.with_prompts({"document": "", "code": "c: "})
    assert given.role_prompts() == {"query": "q: ", "document": ""}
    assert given.to_save(given.role_prompts())["prompts"] == {**stated["prompts"], "document": "", "code": "c: "}
    with pytest.raises(UserError, match="the model has no prompt 'tsS'; it has query, passage, STS"):
        settings.role_prompts({"query": "tsS"})
    assert ModelSettings.read({}).to_save({"query": "", "document": ""})["prompts"] == {"query": "", "document": ""}


def test_a_prompt_that_stands_for_another_is_said_and_other_similarities_are_refused(capsys):
    say_once.cache_clear()
    layout = default_layout("Transformer")
    passage = type(layout)(layout.modules, ModelSettings({"prompts": {"passage": "p: "}}))
    override(passage, EncoderConfig(model="m"))
    assert "a document takes the model's prompt 'passage'" in capsys.readouterr().err
    override(passage, EncoderConfig(model="n", prompt_names={"document": "passage"}))
    assert not capsys.readouterr().err
    far = type(layout)(layout.modules, ModelSettings({"similarity_fn_name": "manhattan"}))
    with pytest.raises(
        UserError, match=r"similarity 'manhattan', which is not supported; choose encoder\.similarity cosine"
    ):
        override(far, EncoderConfig(model="m"))
    assert override(far, EncoderConfig(model="m", similarity="dot", truncate_dim=4)).settings.truncate_dim == 4


def test_settings_of_a_transformer_are_written_as_they_were_read():
    raw = {"max_seq_length": 64, "do_lower_case": True, "unpad_inputs": False, "tokenizer_args": {"use_fast": True}}
    settings = TransformerSettings.read(raw, "sentence_xlnet_config.json")
    assert (settings.max_length, settings.lower_case, settings.tokenizer_options) == (64, True, {"use_fast": True})
    assert TransformerSettings.from_layout(settings.as_read()) == settings
    assert settings.to_save(64) == raw
    assert settings.to_save(32) == {**raw, "max_seq_length": 32}
    allowed = TransformerSettings.read(
        {"model_args": {"trust_remote_code": True}, "config_args": {"trust_remote_code": 1}}
    )
    assert not allowed.config_options, "a directory may not allow itself to run code"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"activation_function": "os.system"}, "activation_function 'os.system' is not supported"),
        ({"activation_function": "torch.nn.functional.relu"}, "'torch.nn.functional.relu' is not supported"),
        ({"activation_function": "torch.hub.load"}, "'torch.hub.load' is not supported"),
        ({"module_input_name": "token_embeddings"}, "module_input_name 'token_embeddings' is not supported"),
        ({"frozen": True}, "Dense: frozen has no meaning here"),
        ({"out_features": 5}, "its weights do not fit"),
    ],
)
def test_a_dense_layer_runs_no_code_and_ignores_nothing(tmp_path, config, words):
    made = Dense(4, 3)
    made.write(tmp_path)
    assert Dense.read(made.settings(), tmp_path).settings() == made.settings()
    with pytest.raises(UserError) as error:
        Dense.read({**made.settings(), **config}, tmp_path)
    assert words in str(error.value)
    with pytest.raises(UserError, match="takes 4 dimensions, what comes before it has 8"):
        made.width(8)


def test_binary_weights_hold_tensors_alone(tmp_path):
    torch.save({"linear.weight": torch.ones(2, 2)}, tmp_path / "pytorch_model.bin")
    assert list(read_weights(tmp_path)) == ["linear.weight"]
    torch.save({"linear.weight": Path}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="its weights cannot be read"):
        read_weights(tmp_path)
    save_file({"linear.bias": torch.ones(2)}, tmp_path / "model.safetensors")
    assert list(read_weights(tmp_path)) == ["linear.bias"]
