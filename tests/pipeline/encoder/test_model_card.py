"""The model card: written by training, brought up to date by evaluation, read by the Hub's own parser."""

import json
import shutil
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from pipeline.encoder import model_card
from pipeline.encoder.encoder import Encoder
from pipeline.evaluation.model_card import hub_metric_type, update_card
from tests.support import report_data as support
from training.loop.lora import attach_adapters, merge_adapters
from training.run import model_card as trained
from training.run.config import TrainConfig

VALIDATIONS = [{"step": 0, "ndcg@10": 0.1}, {"step": 20, "ndcg@10": 0.25}]


def write(**settings):
    about = {"name": "Shop search", "license": "apache-2.0", "language": ["en"], "licenses": {"forum": "CC BY-SA 4.0"}}
    config = TrainConfig.model_validate({"encoder": {"model": "owner/base"}, "card": about, **settings})
    return trained.render(config.model_dump(mode="json"), VALIDATIONS, 1234, ["catalogue", "forum"], {"data": "f00d"})


def test_what_training_writes():
    text = write()
    parsed = ModelCard(text)
    assert (parsed.data.license, parsed.data.language, parsed.data.base_model) == ("apache-2.0", ["en"], "owner/base")
    assert parsed.data.library_name == "sentence-transformers" and "tripletail" in parsed.data.tags
    assert "# Shop search" in parsed.text and "1,234 rows from catalogue, forum" in parsed.text
    assert "| forum | CC BY-SA 4.0 |" in parsed.text and "| catalogue | not stated |" in parsed.text
    assert "| data | `f00d` |" in parsed.text and "| 20 | 0.2500 |" in parsed.text
    assert "| learning rate | 5e-05 |" in parsed.text
    assert "Not yet: `tripletail evaluate`" in parsed.text


def test_a_path_is_no_link_on_the_hub_and_what_is_unknown_is_left_out():
    text = write(encoder={"model": "/models/base"}, card={})
    card = model_card.parse(text)
    assert not {"base_model", "license", "language", "model-index"} & set(card.data.to_dict())
    assert "This model: not stated." in card.text and "# Sentence-embedding model" in card.text


def test_the_card_decides_nothing(tmp_path):
    plain = TrainConfig.model_validate({})
    assert TrainConfig.model_validate({"card": {"license": "mit"}}).result_settings() == plain.result_settings()


def test_the_base_states_its_licence(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# Base\n")
    assert f"Its base, `{tmp_path.name}`: mit." in write(encoder={"model": str(tmp_path)})


PLACES = ["/srv/hidden/base", "~/hidden/base", "../hidden/base", "memory://hidden/base"]


@pytest.mark.parametrize("place", PLACES)
def test_a_card_does_not_say_where_things_lie(place, tmp_path):
    config = TrainConfig.model_validate({"encoder": {"model": place}})
    settings = config.model_dump(mode="json")
    text = trained.render(settings, VALIDATIONS, 10, [f"{place}.jsonl", "forum"], {})
    assert place not in text and "`base`" in text and "| base.jsonl |" in text and "| forum |" in text
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "README.md").write_text(text)
    commands = [f"tripletail {job} --config {place}/{job}/config.json --run {place}" for job in ("build", "train")]
    assert update_card(str(folder), replace(support.report_data(), run=place, commands=commands))
    card = (folder / "README.md").read_text()
    assert "tripletail build --config" in card and "build/config.json --run base" in card
    assert "hidden" not in card


def test_names_of_the_hub_and_of_sources_stay(tmp_path, monkeypatch):
    assert [model_card.public_name(name) for name in ("owner/base", "gt:small", "forum")] == [
        "owner/base",
        "gt:small",
        "forum",
    ]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "base").mkdir(parents=True)
    assert model_card.public_name("models/base") == "base", "a folder of this machine that looks like a name of the Hub"


def test_evaluation_fills_in_what_it_measured_and_keeps_the_rest(tmp_path):
    folder = tmp_path / "model"
    assert not update_card(str(folder), support.report_data())
    folder.mkdir()
    (folder / "README.md").write_text(write() + "\nA sentence added by hand.\n")
    report = replace(support.report_data(), run="runs/shop", guards=[support.retention(0.4, 0.3, 0.5)])
    assert update_card(str(folder), report)
    once = (folder / "README.md").read_text()
    parsed = ModelCard(once)
    (index,) = parsed.data.to_dict()["model-index"]
    assert index["name"] == "Shop search"
    metrics = {metric["type"]: metric["value"] for metric in index["results"][0]["metrics"]}
    assert metrics["ndcg_at_10"] == 0.512 and metrics["accuracy_at_1"] == 0.61
    assert parsed.data.license == "apache-2.0" and "A sentence added by hand." in parsed.text
    for sentence in (
        "| nDCG@10 | .401 (.381 to .421) | .512 (.492 to .532) |",
        "| nDCG@10 | +.111 | 0.0002 | 0.0002 |",
        "| 384 int8 | 384 | .509",
        "nobody looked whether training rows repeat",
        "tripletail train --config runs/a/training/config.json",
    ):
        assert sentence.lower() in parsed.text.lower(), sentence
    assert "Not yet" not in parsed.text and parsed.text.count("## Measured") == 1
    assert update_card(str(folder), report) and (folder / "README.md").read_text() == once
    update_card(str(folder), replace(report, scores={**report.scores, "tuned": support.scores(0.6, 0.7)}))
    assert ".512 (" not in (folder / "README.md").read_text()


@pytest.mark.parametrize("text", ["# No front matter\n", "---\nnot: [closed\n---\n# Broken\n", ""])
def test_cards_of_other_makers(text, tmp_path):
    (tmp_path / "README.md").write_text(text)
    assert update_card(str(tmp_path), support.report_data())
    card = (tmp_path / "README.md").read_text()
    assert model_card.parse(card).data.to_dict()["model-index"] and text.strip() in card
    assert model_card.replace_section("a", "x", r"\1 \g<0>").endswith("<!-- end of x -->\n")
    assert r"\1 \g<0>" in model_card.replace_section(model_card.section("x", "old"), "x", r"\1 \g<0>")


def test_front_matter_that_we_do_not_know_stays():
    text = "---\nlicense: mit\nwidget:\n- text: hello\nauthor: them\n---\n# Theirs\n"
    card = model_card.parse(text)
    card.text = model_card.replace_section(card.text, "measured", "new")
    assert str(card).startswith("---\nlicense: mit\nwidget:\n- text: hello\nauthor: them\n---\n# Theirs\n")


def test_names_as_the_hub_has_them():
    assert [
        hub_metric_type(n) for n in ("ndcg@10", "map", "map@5", "hit@1", "recall@100", "ndcg@10:judged", "v_measure")
    ] == [
        "ndcg_at_10",
        "map",
        "map_at_5",
        "accuracy_at_1",
        "recall_at_100",
        "ndcg_at_10_judged",
        "v_measure",
    ]


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_no_file_of_a_saved_model_says_where_its_base_lay(lora, minilm, tmp_path):
    base = tmp_path / "hidden" / "base"
    shutil.copytree(minilm, base)
    settings = {"encoder": {"model": str(base), "layers": 1}, "run": str(tmp_path / "run"), "lora": lora}
    config = TrainConfig.model_validate(settings)
    model = Encoder.load(config.encoder, "cpu")
    extra = {}
    if config.lora:
        extra = merge_adapters(model, attach_adapters(model, config.lora, 0), model_card.public_name(str(base)))
    card = trained.render(config.model_dump(mode="json"), VALIDATIONS, 10, ["forum"], {"data": "f00d"})
    model.save(tmp_path / "model", card, extra)
    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    assert len(files) > 6
    assert not [path for path in files if str(tmp_path).encode() in path.read_bytes()]
    if lora:
        adapter = json.loads((tmp_path / "model" / "adapter" / "adapter_config.json").read_text())
        assert adapter["base_model_name_or_path"] == "base"
