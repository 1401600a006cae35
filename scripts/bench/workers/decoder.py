"""Measurements of a decoder beside Sentence Transformers in one process: texts embedded, and texts tokenised."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.bench.workers import embed

Figures = dict[str, float]
LAYERS, WIDTH = 2, 1024
LONG_TEXT = 216_000  # characters of the text that is far beyond what any model keeps


def make(folder: str, sample: str) -> str:
    """Two layers of Qwen3's 0.6B model, pooled by the last token, with random weights and the sample's tokens."""
    import torch
    from transformers import Qwen3Config, Qwen3Model

    from pipeline.encoder.encoder import Encoder, EncoderConfig

    encoder = Encoder.load(EncoderConfig(model=sample, layers=1), "cpu")
    size = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "intermediate_size": 3 * WIDTH}
    heads = {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128}
    torch.manual_seed(0)
    encoder.transformer = Qwen3Model(Qwen3Config(vocab_size=len(encoder.tokenizer), pad_token_id=0, **size, **heads))
    encoder.pooling = "lasttoken"
    directory = str(Path(folder) / "decoder")
    encoder.save(directory)
    return directory


def encode(job: dict[str, Any]) -> Figures:
    """Texts of mixed length into vectors: documents a second."""
    texts = embed.texts_of(job["data"], job["sets"], job["rows"])
    encode_texts = embed.SIDES[job["side"]](job)
    encode_texts(texts[: max(32, len(texts) // 8)])
    return {"docs_per_s": len(texts) / seconds(lambda: encode_texts(texts))}


def tokenise(job: dict[str, Any]) -> Figures:
    """Documents into token ids, cut to `length`: documents a second, and the milliseconds of one very long text."""
    texts = embed.texts_of(job["data"], ["medquad"], job["rows"])
    long_text = " ".join(texts)[:LONG_TEXT]
    assert len(long_text) == LONG_TEXT, f"medquad has {len(long_text)} characters in {job['rows']} texts"
    run = _tokenizer(job)
    run(texts[:100])
    rate = len(texts) / seconds(lambda: run(texts))
    return {
        "docs_per_s": rate,
        "milliseconds": 1000 * statistics.median(seconds(lambda: run([long_text])) for _ in range(9)),
    }


def _tokenizer(job: dict[str, Any]) -> Callable[[list[str]], Any]:
    if job["side"] == "ours":
        from pipeline.encoder.encoder import Encoder, EncoderConfig

        encoder = Encoder.load(EncoderConfig(model=job["model"], max_length=job["length"], layers=1), "cpu")
        return lambda texts: encoder.tokenize(texts, "document")
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(job["model"], device="cpu")
    return lambda texts: model.tokenizer(texts, truncation=True, max_length=job["length"])["input_ids"]


def seconds(job: Callable[[], object]) -> float:
    """Seconds of a job."""
    started = time.perf_counter()
    job()
    return time.perf_counter() - started
