"""One measurement of the training engine in one process: `python -m scripts.bench.workers.train_step '{"kind": ...}'`.

Prints one line of JSON. `scripts.bench.train_step` starts these, one a rank, ours and the peer's in turns.
"""

import faulthandler
import itertools
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from scripts.bench.harness import read_text_pairs
from scripts.bench.workers import decoder

LETTERS = "abcdefghijklmnopqrstuvwxyz"
RATE, WARM_STEPS = 5e-5, 2


def peak(device: str, *, reset: bool = False) -> float:
    """Peak memory in MiB since the last reset: resident memory of this process, or the GPU's allocations."""
    import torch

    if device == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return float(torch.cuda.max_memory_allocated()) / 2**20
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return int(Path("/proc/self/status").read_text(encoding="ascii").split("VmHWM:")[1].split()[0]) / 1024


def loss(job: dict[str, Any]) -> dict[str, float]:
    """Forward and backward of InfoNCE over given embeddings: seconds, and MiB beyond the embeddings."""
    import torch

    from training.losses.infonce import InfoNCE
    from training.losses.loss import Batch, local_batch

    objective = InfoNCE(tile=job["tile"])

    def batch(rows: int) -> Batch:
        columns = [torch.randn(rows, 384, device=job["device"], requires_grad=True) for _ in range(2)]
        ids = torch.arange(rows, device=job["device"])
        return local_batch(*columns, positive_id=ids + rows, query_id=ids, relevant_id=ids[:, None] + rows)

    def spend(inputs: Batch) -> float:
        start = time.perf_counter()
        objective(inputs, {}).loss.backward()
        float(inputs.query.grad[0, 0])
        return time.perf_counter() - start

    spend(batch(256))
    large = batch(job["rows"])
    before = peak(job["device"], reset=True)
    seconds = []
    for _ in range(job["repeats"]):
        large.query.grad = large.positive.grad = None
        seconds.append(spend(large))
    return {"seconds": statistics.median(seconds), "peak": peak(job["device"]) - before}


def pairs(data: str, name: str, count: int) -> list[tuple[str, str]]:
    """Training pairs of a set, at most `count`, in a shuffled order that is always the same."""
    from xxhash import xxh3_64_intdigest

    text_pairs = read_text_pairs(data, name)
    text_pairs.sort(key=lambda pair: xxh3_64_intdigest("\t".join(pair).encode()))
    return text_pairs[:count]


def invented(count: int, length: int) -> list[tuple[str, str]]:
    """Pairs of texts of single letters, all different, that fill the length of any model."""
    rng = random.Random(13)
    return [(" ".join(rng.choices(LETTERS, k=length)), " ".join(rng.choices(LETTERS, k=length))) for _ in range(count)]


def rows_of(job: dict[str, Any]) -> list[tuple[str, str]]:
    """Pairs for a job; with `fill`, both texts are long enough to fill the length of the model."""
    if job["set"] == "words":
        return invented(job["batch"], job["length"])
    text_pairs = pairs(job["data"], job["set"], 20 * job["batch"])
    if job["fill"]:
        text_pairs = [(positive + " " + anchor, positive) for anchor, positive in text_pairs]
        text_pairs = [tuple(text * (1 + 10 * job["length"] // len(text)) for text in pair) for pair in text_pairs]
    return text_pairs


def ours(job: dict[str, Any]) -> list[float]:
    """Times at which steps of Tripletail's loop ended."""
    import pyarrow as pa
    import torch.distributed as dist

    from pipeline.encoder.encoder import Encoder, EncoderConfig
    from training.data.rows import rows_from
    from training.loop.checkpoint import RunStore
    from training.loop.step import LoopConfig, TrainStep
    from training.loop.trainer import Trainer
    from training.losses.infonce import InfoNCE

    if job["ranks"] > 1:
        dist.init_process_group("gloo", init_method="env://")
    ends: list[float] = []

    class Clock(RunStore):
        """A store that keeps only the time of each logged line."""

        def log(self, row: dict[str, Any]) -> None:
            """Note the time."""
            ends.append(time.perf_counter())

    anchors, positives = zip(*rows_of(job), strict=True)
    ids = [f"{i}" for i in range(len(anchors))]
    table = pa.table({"anchor_id": ids, "anchor": anchors, "positive_id": ids, "positive": positives})
    overrides = {key: job[key] for key in ("model", "attention", "token_budget") if job.get(key)}
    config = EncoderConfig(max_length=job["length"], layers=job["layers"], dtype="float32", **overrides)
    settings = {"batch_size": job["batch"], "max_steps": job["steps"], "epochs": job["steps"], "learning_rate": RATE}
    settings |= {"precision": job["precision"], "cache_tokens": job["cache"], "validations": 0, "log_every": 1}
    loop = TrainStep(
        Encoder.load(config, job["device"], to_train=True),
        InfoNCE(tile=job["tile"]),
        rows_from(table, {}),
        LoopConfig(**settings),
    )
    Trainer(loop, Clock(), None).run()
    if job["ranks"] > 1:
        dist.destroy_process_group()
    return ends


def peers(job: dict[str, Any]) -> list[float]:
    """Times at which steps of Sentence Transformers' trainer ended, with its gathered loss, plain or cached."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, losses
    from sentence_transformers import SentenceTransformerTrainingArguments as Arguments
    from transformers import TrainerCallback

    from pipeline.encoder import model_directory as modeldir

    ends: list[float] = []

    class Clock(TrainerCallback):
        """Notes the end of each step."""

        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    model = SentenceTransformer(modeldir.resolve_model(job.get("model") or modeldir.SAMPLE_MODEL), device=job["device"])
    model.max_seq_length = job["length"]
    if job["layers"]:
        encoder = model[0].auto_model.encoder
        encoder.layer = encoder.layer[: job["layers"]]
    gathered = {"gather_across_devices": job["ranks"] > 1}
    objective = losses.MultipleNegativesRankingLoss(model, **gathered)
    if job["cache"]:
        objective = losses.CachedMultipleNegativesRankingLoss(
            model, mini_batch_size=job["cache"] // job["length"], **gathered
        )
    anchors, positives = zip(*rows_of(job), strict=True)
    with tempfile.TemporaryDirectory() as folder:
        arguments = Arguments(
            output_dir=folder,
            max_steps=job["steps"],
            per_device_train_batch_size=job["batch"] // job["ranks"],
            learning_rate=RATE,
            weight_decay=0.01,
            warmup_steps=0.1,
            bf16=job["precision"] == "bfloat16",
            use_cpu=job["device"] == "cpu",
            ddp_backend="gloo" if job["ranks"] > 1 else None,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        data = Dataset.from_dict({"anchor": list(anchors), "positive": list(positives)})
        SentenceTransformerTrainer(model, arguments, train_dataset=data, loss=objective, callbacks=[Clock()]).train()
    return ends


def step(job: dict[str, Any]) -> dict[str, float]:
    """Steps of training: median seconds of one, pairs a second, and the peak of this process in MiB."""
    started = time.perf_counter()
    ends = ours(job) if job["side"] == "ours" else peers(job)
    seconds = [end - start for start, end in itertools.pairwise(ends)][WARM_STEPS - 1 :]
    median = statistics.median(seconds) if seconds else time.perf_counter() - started
    return {"seconds": median, "pairs_per_s": job["batch"] / median, "peak": peak(job["device"])}


def main() -> None:
    """Run the measurement that the argument describes."""
    faulthandler.enable()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    job = json.loads(sys.argv[1])
    import torch

    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    kinds = {"loss": loss, "step": step, "encode": decoder.encode, "tokenise": decoder.tokenise}
    figures = kinds[job["kind"]](job)
    print(json.dumps({"peak": peak(job["device"]), **figures}))


if __name__ == "__main__":
    main()
