"""One measurement of embedding in one process: `python -m scripts.bench.workers.embed '{"side": ...}'`.

Prints one line of JSON: documents a second and the peak memory in MiB of this process and those below it.
"""

import json
import math
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

SETS = {
    "debian_packages": "product/debian_packages",
    "movies_msrd": "product/movies_msrd",
    "medquad": "qa/medquad",
}
Embed = Callable[[list[str]], Any]


def texts_of(data: str, names: list[str], count: int, seed: int = 13) -> list[str]:
    """Title and text of documents of several sets in equal parts, in random order."""
    rng, texts = random.Random(seed), []
    for name in names:
        rows = pq.read_table(Path(data) / SETS[name] / "corpus.parquet", columns=["title", "text"]).to_pylist()
        chosen = rng.sample(rows, min(len(rows), -(-count // len(names))))
        texts += [f"{row['title']} {row['text']}".strip() for row in chosen]
    rng.shuffle(texts)
    return texts[:count]


class Peak(threading.Thread):
    """Peak memory of this process and its children, as proportional set size, so that shared pages count once."""

    def __init__(self, pause: float) -> None:
        super().__init__(daemon=True)
        self.pause, self.peak, self.over = pause, 0.0, threading.Event()

    def run(self) -> None:
        """Measure again and again; each measurement costs milliseconds a process."""
        while not self.over.wait(self.pause):
            self.peak = max(self.peak, sum(map(_pss, family())))

    def stop(self) -> float:
        """Return the peak in MiB."""
        self.over.set()
        return max(self.peak, sum(map(_pss, family()))) / 1024


def family() -> list[int]:
    """Return this process and all below it."""
    process = psutil.Process()
    below: list[int] = [child.pid for child in process.children(recursive=True)]
    return [process.pid, *below]


def _pss(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return float(next((line.split()[1] for line in lines if line.startswith("Pss:")), 0))


def ours(job: dict[str, Any]) -> Embed:
    """Our encoder in this process."""
    from pipeline.encoder.encoder import Encoder, EncoderConfig

    settings = {key: job[key] for key in ("model", "dtype", "backend", "max_length") if job.get(key)}
    encoder = Encoder.load(EncoderConfig.model_validate(settings), "cpu").use_runtime(job["threads"])
    return lambda texts: encoder.encode(texts, "document")


def peer(job: dict[str, Any]) -> Embed:
    """`SentenceTransformer.encode` in this process."""
    import torch
    from sentence_transformers import SentenceTransformer

    kind = {"torch_dtype": getattr(torch, job["dtype"])} if job["dtype"] != "float32" else {}
    model = SentenceTransformer(_directory(job), device="cpu", model_kwargs=kind)
    tensor = job["dtype"] != "float32"
    return lambda texts: model.encode(texts, show_progress_bar=False, convert_to_tensor=tensor)


def peer_pool(job: dict[str, Any]) -> Embed:
    """Sentence Transformers' pool of processes, started for the texts as a job would."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(_directory(job), device="cpu")

    def embed(texts: list[str]) -> Any:
        pool = model.start_multi_process_pool(["cpu"] * job["workers"])
        try:
            return model.encode(texts, pool=pool)
        finally:
            model.stop_multi_process_pool(pool)

    return embed


class Plain:
    """The actor of a plain Ray Data example."""

    def __init__(self, model: str) -> None:
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(model, device="cpu")

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Texts into vectors."""
        return {"id": batch["id"], "vector": self.model.encode(batch["text"].tolist(), show_progress_bar=False)}


def plain_ray(job: dict[str, Any]) -> Embed:
    """Read, map_batches with a pool of actors, write: what a tutorial shows."""
    import ray

    _ray(job)

    def embed(texts: list[str]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            ray.data.read_parquet(str(_written(folder, texts))).repartition(target_num_rows_per_block=256).map_batches(
                Plain,
                fn_constructor_args=[_directory(job)],
                batch_size=128,
                num_cpus=0.4,
                compute=ray.data.ActorPoolStrategy(size=job["workers"]),
            ).write_parquet(str(Path(folder) / "out"))

    return embed


def our_job(job: dict[str, Any]) -> Embed:
    """The embedding job with all that it checks and writes."""
    from pipeline.core.config import validate
    from pipeline.embedding.job import EmbedConfig, run

    _ray(job)

    def embed(texts: list[str]) -> None:
        encoder = {key: job[key] for key in ("model", "dtype", "backend") if job.get(key)}
        with tempfile.TemporaryDirectory() as folder:
            settings = {
                "input": str(_written(folder, texts)), "out": str(Path(folder) / "out"), "encoder": encoder,
                "num_actors": job["workers"], "threads": job["threads"], "rows_per_shard": job.get("shard", 512),
                "in_process_rows": 0,
            }  # fmt: skip
            job["steady_docs_per_s"] = _steady(run(validate(EmbedConfig, settings)).files("vectors"), job["workers"])

    return embed


def _steady(files: list[str], workers: int) -> float:
    """Documents a second while all actors are busy: from the first file of each to where one may be out of work."""
    finished = sorted((Path(path).stat().st_mtime, pq.read_metadata(path).num_rows) for path in files)
    if len(finished) < 4 * workers:
        return 0.0
    between = finished[workers : len(finished) - workers]
    return sum(rows for _, rows in between) / (between[-1][0] - finished[workers - 1][0])


def _ray(job: dict[str, Any]) -> None:
    import ray

    from pipeline.core import ray_session as engine

    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    engine.start()


def _written(folder: str, texts: list[str]) -> Path:
    path = Path(folder) / "input.parquet"
    pq.write_table(pa.table({"id": [f"d{row}" for row in range(len(texts))], "text": texts}), path)
    return path


def _directory(job: dict[str, Any]) -> str:
    from pipeline.encoder import model_directory as modeldir

    return modeldir.resolve_model(job["model"])


def quality(job: dict[str, Any]) -> dict[str, float]:
    """nDCG@10 of queries, of both splits since nothing is trained, over their documents and others, `rows` in all."""
    from pipeline.metrics import retrieval as metrics
    from pipeline.search import exact as search

    folder = Path(job["data"]) / job["sets"][0]
    qrels: dict[str, dict[str, int]] = {}
    for row in _both(folder, "qrels"):
        qrels.setdefault(row["query_id"], {})[row["doc_id"]] = row["relevance"]
    query_texts = {row["query_id"]: row["text"] for row in _both(folder, "queries")}
    qrels = {key: grades for key, grades in qrels.items() if key in query_texts and any(grades.values())}
    chosen = random.Random(13).sample(sorted(qrels), min(len(qrels), job["queries"]))
    qrels = {key: qrels[key] for key in chosen}
    relevant = {doc for grades in qrels.values() for doc, grade in grades.items() if grade > 0}
    corpus = pq.read_table(folder / "corpus.parquet", columns=["doc_id", "title", "text"]).to_pylist()
    random.Random(13).shuffle(corpus)
    corpus.sort(key=lambda row: row["doc_id"] not in relevant)
    corpus = corpus[: max(job["rows"], len(relevant))]
    title = "" if "medquad" in job["sets"][0] else "title"
    embed = ours(job)
    queries = embed([query_texts[key] for key in chosen])
    documents = embed([f"{row.get(title) or ''} {row['text']}".strip() for row in corpus])
    from pipeline.storage.vectors import l2_normalize

    _, rows = search.top_k(l2_normalize(queries), [l2_normalize(documents)], 10)
    ranking = {key: [corpus[row]["doc_id"] for row in best] for key, best in zip(chosen, rows.tolist(), strict=True)}
    return {"ndcg": metrics.mean(metrics.retrieval(ranking, qrels, ["ndcg@10"])["ndcg@10"])}


def _both(folder: Path, table: str) -> list[dict[str, Any]]:
    return [row for split in ("train", "dev") for row in pq.read_table(folder / f"{table}.{split}.parquet").to_pylist()]


SIDES = {"ours": ours, "peer": peer, "peer_pool": peer_pool, "plain_ray": plain_ray, "job": our_job}


def main() -> None:
    """Measure one side."""
    import torch

    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    if job["side"] == "quality":
        print(json.dumps(quality(job)))
        return
    texts = texts_of(job["data"], job["sets"], min(job["rows"], job.get("distinct", job["rows"])))
    texts = (texts * -(-job["rows"] // len(texts)))[: job["rows"]]
    embed = SIDES[job["side"]](job)
    if job["side"] in ("ours", "peer"):
        embed(texts[: max(32, len(texts) // 8)])
    peak = Peak(job.get("pause", 0.5))
    peak.start()
    clock = time.process_time if job.get("clock") == "cpu" else time.perf_counter
    started = clock()
    vectors = embed(texts)
    seconds = clock() - started
    if vectors is not None and not all(math.isfinite(value) for value in vectors[0].tolist()):
        raise SystemExit("measure_embed: vectors are not finite")
    figures = {"docs_per_s": len(texts) / seconds, "seconds": seconds, "peak": peak.stop()}
    if "steady_docs_per_s" in job:
        figures["steady_docs_per_s"] = job["steady_docs_per_s"]
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
