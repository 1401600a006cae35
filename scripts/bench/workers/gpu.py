"""Measurements of `scripts.bench.gpu`: clocks and counts of a GPU, and texts embedded by us and by the peer."""

import gc
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipeline.embedding.worker import EmbedShard, EmbedTask
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.storage.shards import plan
from pipeline.storage.vectors import VectorFormat
from scripts.bench.workers import train_step

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Figures = dict[str, float]


def product_rate(size: int) -> float:
    """Floating-point operations a second of a product of two bfloat16 matrices of random numbers."""
    left, right = (torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    times = [timed(lambda: left @ right) for _ in range(20)]
    return 2 * size**3 / statistics.median(times[5:])


def timed(job: Callable[[], Any]) -> float:
    """Seconds of a job, the GPU's queued work included."""
    synchronize()
    start = time.perf_counter()
    job()
    synchronize()
    return time.perf_counter() - start


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def fresh(job: Callable[[], Figures]) -> Figures:
    """Run a job after freeing the GPU's memory and resetting torch's settings, so that no earlier job affects it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.backends.cuda.enable_cudnn_sdp(True)  # as torch has it; our encoder turns it off
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return job()


def flops(model: str, lengths: list[int]) -> float:
    """Operations of a forward pass over texts of these lengths: matrix products of the layers, and of attention."""
    config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    width, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    of_token = 8 * width**2 + 4 * width * inner
    return float(layers * sum(of_token * length + 4 * width * length**2 for length in lengths))


def base(folder: str, sample: str, layers: int) -> str:
    """BERT-base with random weights, as a model directory with the sample's tokens."""
    from transformers import BertConfig, BertModel

    encoder = Encoder.load(EncoderConfig(model=sample, layers=1), "cpu")
    torch.manual_seed(0)
    encoder.transformer = BertModel(BertConfig(num_hidden_layers=layers))
    directory = str(Path(folder) / "bert-base")
    encoder.save(directory)
    return directory


def embedded(config: EncoderConfig, texts: list[str], calls: int, rows: int, rate: float) -> Figures:
    """Texts in shards of some rows through the worker of the job, `calls` at a time."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "in.parquet")
        pq.write_table(pa.table({"id": [f"d{row}" for row in range(len(texts))], "text": texts}), path)
        items = [asdict(shard) for shard in plan([path], rows, "", None)]
        task = EmbedTask(config, "document", "id", "text", (), folder, (VectorFormat(),), False, False)
        worker = EmbedShard(task, {}, [None], os.cpu_count() or 1)

        def work(name: str) -> list[dict[str, int]]:
            target = Path(folder) / name
            target.mkdir()
            worker.task = replace(task, folder=str(target))
            with ThreadPoolExecutor(calls) as pool:
                return list(pool.map(worker.work, items))

        work("warm")
        done: list[dict[str, int]] = []
        seconds = timed(lambda: done.extend(work("timed")))
        busy = kernel_seconds(lambda: work("profiled")) if torch.cuda.is_available() else seconds
        lengths = [len(row) for row in worker.encoder.tokenize(texts, "document")]
    tokens, padded = (sum(counts[key] for counts in done) for key in ("tokens", "padded"))
    return _rates(config.model, lengths, seconds, busy, rate) | {"padding": 1 - tokens / padded}


def peer_encoded(config: EncoderConfig, texts: list[str], rows: int, rate: float) -> Figures:
    """Texts in batches of some rows by `SentenceTransformer.encode`."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(config.model, device=DEVICE, model_kwargs={"torch_dtype": torch.bfloat16})
    work = partial(model.encode, batch_size=rows, show_progress_bar=False, convert_to_tensor=True)
    work(texts)  # all shapes of its batches have been seen then
    seconds = timed(lambda: work(texts))
    busy = kernel_seconds(lambda: work(texts)) if torch.cuda.is_available() else seconds
    lengths = [len(row) for row in model.tokenizer(texts, truncation=True)["input_ids"]]
    return _rates(config.model, lengths, seconds, busy, rate)


def _rates(model: str, lengths: list[int], seconds: float, busy: float, rate: float) -> Figures:
    arithmetic = flops(model, lengths)
    return {
        "docs_per_s": len(lengths) / seconds,
        "tokens_per_s": sum(lengths) / seconds,
        "mfu": arithmetic / seconds / rate,
        "gpu_waits": max(0.0, 1 - busy / seconds),
        "peak": train_step.peak(DEVICE),
    }


def kernel_seconds(job: Callable[[], Any]) -> float:
    """Seconds that the GPU computed or copied during a job."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        job()
        synchronize()
    return sum(event.self_device_time_total for event in profiler.key_averages()) / 1e6
