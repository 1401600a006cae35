"""A small training set on disk and the settings of a run on it."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pyarrow as pa

from pipeline.core.config import validate
from pipeline.storage import artifact
from training.run import job

TOPICS = ["kettle", "tent", "drill", "camera", "lamp", "stroller", "hose", "pan", "mouse", "tripod"]


SETTINGS = {
    "encoder": {"layers": 1, "max_length": 32},
    "loop": {"batch_size": 16, "epochs": 2, "validations": 3, "log_every": 1, "dropout": 0.0},
    "workers": 2,
}


def make_data(run: Path, splits: tuple[str, ...] = ("train", "dev")) -> artifact.Artifact:
    """A build artifact of 60 questions and answers in two splits."""
    draft = artifact.begin(str(run / "data"), "build", {"made": "by a test"}, {}, overwrite=False)
    assert isinstance(draft, artifact.Draft)
    names = [f"{topic}{n}" for topic in TOPICS for n in range(6)]
    place = {name: splits[min(len(splits) - 1, index % 4 // 3)] for index, name in enumerate(names)}
    answers = {name: f"The {name[:-1]} number {name[-1]} is repaired with part {name}." for name in names}
    questions = {name: f"how do I mend {name}?" for name in names}
    rows = {
        "corpus": [
            {"doc_id": n, "title": "", "text": t, "category": None, "tags": [], "source": "test", "cluster_id": None}
            for n, t in answers.items()
        ],
        "queries": [
            {"query_id": f"q-{n}", "text": t, "source": "test", "split": place[n]} for n, t in questions.items()
        ],
        "qrels": [{"query_id": f"q-{n}", "doc_id": n, "relevance": 1, "split": place[n]} for n in names],
        "pairs": [
            {
                "anchor_id": f"q-{n}",
                "anchor": questions[n],
                "positive_id": n,
                "positive": answers[n],
                "source": "test",
                "split": place[n],
                "group_id": n,
                "relevance": 1.0,
                "reason": "judged 1",
            }
            for n in names
        ],
    }
    for name, values in rows.items():
        draft.write(name, pa.Table.from_pylist(values))
    return draft.finish(list(rows))


def settings(run: Path, **over) -> job.TrainConfig:
    return validate(job.TrainConfig, {**SETTINGS, "run": str(run), **over})


@contextmanager
def killed_worker(run: Path, step: int, log: str = "training") -> Iterator[None]:
    """Kill a worker of the training inside, once, after its metrics have a step; raises AssertionError if none was."""
    metrics, over, killed = run / log / "metrics.jsonl", threading.Event(), list[int]()

    def kill_one() -> None:
        while not killed and not over.is_set():
            time.sleep(0.05)
            if metrics.exists() and f'"step": {step},' in metrics.read_text():
                mine = psutil.Process().children(recursive=True)
                for worker in [p for p in mine if "RayTrainWorker" in " ".join(p.cmdline())][:1]:
                    worker.send_signal(signal.SIGKILL)
                    killed.append(worker.pid)

    watcher = threading.Thread(target=kill_one, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    assert killed, "no worker was killed"
