"""A language model of transformers in this process: a decoder, or an encoder with a decoder such as doc2query's T5.

Every request is sampled with random numbers of its own, so that an answer does not depend on the batch around it but by
rounding. For many documents a server that batches by itself (`type: openai`) is faster.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from pipeline.core.actor_pool import Pool, limit_threads
from pipeline.core.errors import UserError
from pipeline.encoder.model_directory import content_digest, resolve_model
from pipeline.generation.language_model import Answerer, LanguageModel, Reply, Request

_SEQ2SEQ = "is_encoder_decoder"


class TransformersModel(LanguageModel):
    """A causal or sequence-to-sequence model, from safetensors; its chat template is used where it has one."""

    type: Literal["transformers"] = "transformers"
    no_result: ClassVar[frozenset[str]] = frozenset({"batch_size", "price", "max_failures"})
    batch_size: int = Field(16, ge=1, description="requests that are generated together")
    max_prompt_tokens: int = Field(2048, ge=8, description="longer prompts lose tokens of their end")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: on GPUs as it was saved"
    )

    def check(self) -> None:
        """Raise UserError where there is no such model."""
        resolve_model(self.model)

    def pool(self, num_actors: int | None, items: int) -> Pool:
        """A worker a GPU, else one for each four CPUs."""
        return Pool.plan(num_actors, items)

    def start(self, threads: int) -> Answerer:
        """Load the model."""
        limit_threads(threads)
        return LocalModel(self)

    def identity(self) -> dict[str, str]:
        """A digest of the model's files."""
        return {"content": content_digest(resolve_model(self.model))}


class LocalModel:
    """A loaded model and its tokenizer."""

    def __init__(self, config: TransformersModel) -> None:
        """Load on a GPU where there is one; raises UserError for a directory that holds no such model."""
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

        path = resolve_model(config.model)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if not list(Path(path).glob("*.safetensors")):
            raise UserError(f"model {config.model}: has no *.safetensors; other weight formats can carry code")
        dtype = config.dtype if device == "cuda" or config.dtype != "auto" else "float32"
        try:
            self.seq2seq = bool(getattr(AutoConfig.from_pretrained(path), _SEQ2SEQ, False))
            kind = AutoModelForSeq2SeqLM if self.seq2seq else AutoModelForCausalLM
            self.model = kind.from_pretrained(path, use_safetensors=True, dtype=dtype).to(device).eval()
            self.tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise UserError(f"model {config.model}: cannot be loaded: {' '.join(str(error).split())[:300]}") from error
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.config, self.device = config, device

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer requests [N], a batch of prompts of like length at a time."""
        prompts = [self._tokens(request.prompt) for request in requests]
        order = sorted(range(len(requests)), key=lambda row: (len(prompts[row]), row))
        replies = [Reply()] * len(requests)
        for first in range(0, len(order), self.config.batch_size):
            rows = order[first : first + self.config.batch_size]
            answers = self._generate([prompts[row] for row in rows], [requests[row].seed for row in rows])
            for row, reply in zip(rows, answers, strict=True):
                replies[row] = reply
        return replies

    def _tokens(self, prompt: str) -> list[int]:
        """Token ids of a prompt; the end of a chat template, after which the model speaks, is never cut off."""
        if not getattr(self.tokenizer, "chat_template", None):
            cut = self.tokenizer(prompt, truncation=True, max_length=self.config.max_prompt_tokens)
            return list(cut["input_ids"])
        chat = partial(self.tokenizer.apply_chat_template, add_generation_prompt=True, tokenize=True, return_dict=False)
        tokens: list[int] = list(chat([{"role": "user", "content": prompt}]))
        while (excess := len(tokens) - self.config.max_prompt_tokens) > 0 and prompt:
            prompt = prompt[: len(prompt) - max(excess, 1)]
            tokens = list(chat([{"role": "user", "content": prompt}]))
        return tokens

    def _generate(self, prompts: list[list[int]], seeds: list[int]) -> list[Reply]:
        import torch
        from transformers import LogitsProcessorList

        padded = self.tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(self.device)
        inputs = {name: padded[name] for name in ("input_ids", "attention_mask")}
        sampling = [Sampling(seeds, self.config.temperature, self.config.top_p)] if self.config.temperature else []
        with torch.inference_mode():
            output = self.model.generate(
                **inputs,
                do_sample=False,
                num_beams=1,
                temperature=None,
                top_p=None,
                top_k=None,
                max_new_tokens=self.config.max_tokens,
                logits_processor=LogitsProcessorList(sampling),
                pad_token_id=self.tokenizer.pad_token_id,
            )
        start = 0 if self.seq2seq else inputs["input_ids"].shape[1]
        return [self._reply(row[start:].tolist(), len(prompt)) for row, prompt in zip(output, prompts, strict=True)]

    def _reply(self, tokens: list[int], prompt_tokens: int) -> Reply:
        """The reply of the tokens of an answer; one that did not end within `max_tokens` is cut off."""
        ends = self.model.generation_config.eos_token_id
        stop = {ends} if isinstance(ends, int) else set(ends or ())
        starts = {self.model.config.decoder_start_token_id} if self.seq2seq else set()
        body = tokens[1:] if tokens and tokens[0] in starts else tokens
        length = next((index for index, token in enumerate(body) if token in stop), len(body))
        text = self.tokenizer.decode(body[:length], skip_special_tokens=True)
        notes = {"prompt_tokens": prompt_tokens, "answer_tokens": min(length + 1, len(body))}
        if length == len(body) and len(body) >= self.config.max_tokens:
            return Reply(text=text, error="cut_off", detail="longer than max_tokens", notes=notes)
        return Reply(text=text, notes=notes)


class Sampling:
    """Samples each row with random numbers of its own: the likeliest token after Gumbel noise is a sample.

    A logits processor of transformers for greedy search; its temperature and top_p are the library's own.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, top_p: float) -> None:
        import torch
        from transformers import TemperatureLogitsWarper, TopPLogitsWarper

        self.random = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.warpers = [TemperatureLogitsWarper(float(temperature))]
        self.warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores [B, V] with noise."""
        import torch

        for warper in self.warpers:
            scores = warper(input_ids, scores)
        uniform = torch.stack([torch.rand(scores.shape[1], generator=random) for random in self.random])
        noise = -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))
        return scores.float() + noise.to(scores.device)
