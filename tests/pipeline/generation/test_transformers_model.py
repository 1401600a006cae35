"""Local models: small real ones with random weights, whose answers follow from the request alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.core.config import validate
from pipeline.core.errors import UserError
from pipeline.generation.config import GenerateConfig
from pipeline.generation.job import run
from pipeline.generation.language_model import Request
from pipeline.generation.transformers_model import TransformersModel
from tests.support.corpora import inline  # noqa: F401  a fixture

REQUESTS = [Request("a lamp " * (1 + n % 5) + f"number {n}", n) for n in range(9)]


def save_model(folder: Path, minilm: str, kind: str) -> str:
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

    torch.manual_seed(3)
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    ends = {"eos_token_id": tokenizer.sep_token_id, "pad_token_id": tokenizer.pad_token_id}
    if kind == "causal":
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            bos_token_id=tokenizer.cls_token_id, **ends,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(folder)
    else:
        small = T5Config(
            vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
            decoder_start_token_id=tokenizer.pad_token_id, **ends,
        )  # fmt: skip
        T5ForConditionalGeneration(small).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def answers(model: str, requests: list[Request], **more: Any) -> list[str]:
    settings = {"model": model, "max_tokens": 6, **more}
    replies = validate(TransformersModel, settings).start(1).answer(requests)
    assert {reply.error for reply in replies} <= {"cut_off", ""}
    assert all(0 < reply.notes["answer_tokens"] <= 6 <= reply.notes["prompt_tokens"] for reply in replies)
    return [reply.text for reply in replies]


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_an_answer_follows_from_its_prompt_and_seed_alone(tmp_path: Path, minilm: str, kind: str):
    model = save_model(tmp_path / "m", minilm, kind)
    one_by_one = answers(model, REQUESTS, batch_size=1)
    assert answers(model, REQUESTS, batch_size=4) == one_by_one
    assert answers(model, REQUESTS[::-1], batch_size=9)[::-1] == one_by_one
    assert len(set(one_by_one)) == 9
    other = [Request(request.prompt, request.seed + 100) for request in REQUESTS]
    assert all(a != b for a, b in zip(answers(model, other, batch_size=4), one_by_one, strict=True))
    assert answers(model, REQUESTS, temperature=0) == answers(model, other, temperature=0)


def test_samples_are_those_of_the_model(tmp_path: Path, minilm: str):
    from pipeline.generation.transformers_model import Sampling

    scores = torch.log(torch.tensor([[0.6, 0.3, 0.08, 0.02]])).repeat(4000, 1)
    drawn = Sampling(range(4000), 1.0, 1.0)(torch.zeros(4000, 1, dtype=torch.long), scores).argmax(dim=1)
    shares = torch.bincount(drawn, minlength=4) / 4000
    assert torch.allclose(shares, torch.tensor([0.6, 0.3, 0.08, 0.02]), atol=0.03)
    nucleus = Sampling(range(4000), 1.0, 0.8)(torch.zeros(4000, 1, dtype=torch.long), scores).argmax(dim=1)
    assert set(nucleus.tolist()) == {0, 1}


@pytest.mark.usefixtures("inline")
def test_a_job_with_a_local_model_counts_what_it_says(tmp_path: Path, minilm: str):
    model = save_model(tmp_path / "m", minilm, "seq2seq")
    documents = tmp_path / "in.jsonl"
    documents.write_text("\n".join(json.dumps({"id": f"d{n}", "text": f"A lamp number {n}."}) for n in range(6)))
    settings = {"input": str(documents), "round_trip": None, "answers": "text", "queries": 2, "attempts": 1}
    settings |= {"generator": {"type": "transformers", "model": model, "max_tokens": 5}, "out": str(tmp_path / "out")}
    made = run(validate(GenerateConfig, settings))
    notes = made.manifest.notes
    assert notes["answers"]["requests"] == 12 and notes["documents"]["read"] == 6
    assert notes["documents"]["with_queries"] + sum(notes["documents"]["without_queries"].values()) == 6
    assert notes["answers"]["prompt_tokens"] > 12


def test_what_is_no_model_is_named(tmp_path: Path, minilm: str):
    with pytest.raises(UserError, match="no such directory"):
        validate(TransformersModel, {"model": str(tmp_path / "none")}).check()
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"has no \*\.safetensors"):
        validate(TransformersModel, {"model": str(tmp_path / "bare")}).start(1)
