"""Train the sample model by Sentence Transformers' own trainer for so many seconds, on the pairs of an artifact."""

import json
import os
import sys
import tempfile
import time
from typing import Any

WARM_STEPS = 4
ROWS, RATE = 64, 5e-5


def pairs_of(path: str) -> dict[str, list[str]]:
    """Training pairs of an artifact of build: columns anchor and positive."""
    import pyarrow.compute as pc

    from pipeline.storage.artifact import Artifact

    table = Artifact.open(path, "build").read("pairs", ["anchor", "positive", "split"])
    table = table.filter(pc.equal(table["split"], "train"))
    return {name: table[name].to_pylist() for name in ("anchor", "positive")}


def train(job: dict[str, Any], pairs: dict[str, list[str]], steps: int) -> tuple[Any, float]:
    """Train a new copy of the model for so many steps; returns it and the seconds of training."""
    import torch
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, losses
    from sentence_transformers import SentenceTransformerTrainingArguments as Arguments
    from sentence_transformers.training_args import BatchSamplers

    from pipeline.encoder.model_directory import SAMPLE_MODEL, resolve_model

    model = SentenceTransformer(resolve_model(SAMPLE_MODEL), device="cpu")
    model.max_seq_length = job["max_length"]
    with tempfile.TemporaryDirectory() as folder:
        arguments = Arguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=ROWS,
            learning_rate=RATE,
            warmup_steps=0.1,
            batch_sampler=BatchSamplers.NO_DUPLICATES,
            bf16=torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported(),
            use_cpu=True,
            seed=job["seed"],
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        loss = losses.MultipleNegativesRankingLoss(model)
        trainer = SentenceTransformerTrainer(model, arguments, train_dataset=Dataset.from_dict(pairs), loss=loss)
        started = time.monotonic()
        trainer.train()
    return model, time.monotonic() - started


def main() -> None:
    """Time a few steps, which do not count, then train as many as fit into the seconds."""
    job = json.loads(sys.argv[1])
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    torch.set_num_threads(job["threads"])
    pairs = pairs_of(job["data"])
    _, short = train(job, pairs, WARM_STEPS)
    _, longer = train(job, pairs, 3 * WARM_STEPS)
    a_step = (longer - short) / (2 * WARM_STEPS)
    steps = max(1, int(job["seconds"] / a_step))
    model, seconds = train(job, pairs, steps)
    model.save(job["out"])
    print(json.dumps({"steps": steps, "seconds": seconds, "a_step": a_step}))


if __name__ == "__main__":
    main()
