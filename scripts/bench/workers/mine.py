"""One measurement of mining in one process: `python -m scripts.bench.workers.mine '{"kind": ...}'`; JSON on stdout.

Kinds: search (ours, peer or faiss over vectors in files), corpus and capped (vector files, and a search in them), sweep
(settings over a large candidate table).
"""

import json
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

WIDTH = 384
Floats = npt.NDArray[np.float32]


class FileModel:
    """A model that reads its vectors from files: text `d7` is row 7 of the documents' file, `q7` of the anchors'."""

    device = "cpu"

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def encode_document(self, texts: list[str], **_: Any) -> Floats:
        """Vectors [N, D] of texts."""
        rows = np.fromiter((int(text[1:]) for text in texts), np.int64, len(texts))
        first = int(rows[0])
        assert (np.diff(rows) == 1).all(), "rows follow each other"
        file = self.folder / f"{texts[0][0]}.f32"
        return np.fromfile(file, np.float32, len(rows) * WIDTH, offset=4 * WIDTH * first).reshape(-1, WIDTH)

    encode_query = encode_document

    def get_embedding_dimension(self) -> int:
        """Width of the vectors."""
        return WIDTH

    def similarity(self, left: Any, right: Any) -> Any:
        """Cosines [Q, N] of unit vectors."""
        import torch

        return torch.as_tensor(left) @ torch.as_tensor(right).T

    def similarity_pairwise(self, left: Any, right: Any) -> Any:
        """Cosines [N]."""
        import torch

        return (torch.as_tensor(left) * torch.as_tensor(right)).sum(dim=1)


def peak() -> float:
    """Peak memory of the process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def search(side: str, folder: str, queries: int, documents: int, batch: int, threads: int) -> dict[str, float]:
    """Mine 3 negatives for each anchor with a margin of 5%, as both libraries recommend; vectors are given."""
    import torch
    from datasets import Dataset

    torch.set_num_threads(threads)
    names = {"anchor": [f"q{row}" for row in range(queries)], "positive": [f"d{row}" for row in range(queries)]}
    data = Dataset.from_dict(names)
    settings = {"corpus": [f"d{row}" for row in range(documents)], "relative_margin": 0.05, "num_negatives": 3}
    settings |= {"faiss_batch_size": batch, "verbose": False, "output_format": "labeled-list"}
    if side == "ours":
        from pipeline.mining.hard_negatives import mine_hard_negatives
    else:
        from sentence_transformers.util import mine_hard_negatives

        settings |= {"use_faiss": side == "faiss"}
    before, spent = peak(), time.process_time()
    begun = time.perf_counter()
    triplets = mine_hard_negatives(data, FileModel(folder), **settings)
    seconds = time.perf_counter() - begun
    negatives = sum(len(row) - 1 for row in triplets["positive"])
    spent = time.process_time() - spent
    return {"seconds": seconds, "cpu_seconds": spent, "peak": peak(), "before": before, "negatives": negatives}


def corpus(size: int, folder: str) -> dict[str, float]:
    """Leave `size` MiB of vector files in a folder."""
    return {"corpus": corpus_files(size << 20, folder)[1] / 2**20}


def capped(queries: int, folder: str) -> dict[str, float]:
    """Find and measure 50 candidates of each anchor over the vector files of a folder."""
    from pipeline.mining.candidates import candidates_table, exact_candidates, score_candidates
    from pipeline.mining.exclusions import NO_KEYS, AnchorBlock, AnchorKeys, Exclude, find_positions
    from pipeline.text.same_document import id_keys, text_keys

    files = sorted(str(path) for path in Path(folder).glob("*.parquet"))
    anchors = base(queries, 1)
    names = [f"d{row}" for row in range(queries)]
    block = AnchorBlock(
        [f"q{row}" for row in range(queries)], anchors, text_keys([f"q{row}" for row in range(queries)]),
        np.arange(queries), names, text_keys(names), [None] * queries,
    )  # fmt: skip
    begun = time.perf_counter()
    keys = AnchorKeys(np.arange(queries), id_keys(names))
    positions = find_positions(block, files, keys, NO_KEYS, Exclude())
    rows = exact_candidates(block, files, 50, positions.excluded).rows
    table = candidates_table(block, score_candidates(block, files, rows, positions))
    assert table.num_rows == queries and all(len(row) == 50 for row in table["candidates"].to_pylist())
    return {"seconds": time.perf_counter() - begun, "peak": peak()}


def base(rows: int, seed: int) -> Floats:
    """Unit vectors [N, D], rounded to half precision."""
    vectors = np.random.default_rng(seed).normal(size=(rows, WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float16).astype(np.float32)


def corpus_files(size: int, folder: str) -> tuple[list[str], int]:
    """Vector files of at least `size` bytes of vectors, as the job leaves them; each is the first one, turned."""
    import pyarrow as pa

    from pipeline.storage import shards
    from pipeline.storage.vectors import vectors_table
    from pipeline.text.same_document import id_keys

    rows = 16_384
    vectors, files, written = base(rows, 0), [], 0
    while written < size:
        names = [f"d{len(files) * rows + row}" for row in range(rows)]
        table = vectors_table(pa.chunked_array([names]), np.roll(vectors, len(files), axis=1), "float16")
        keys = pa.array(id_keys(names))
        for name in ("text_key", "id_key"):
            table = table.append_column(name, keys)
        for name in ("cluster_key", "category_key", "group_key", "title_key"):
            table = table.append_column(name, pa.array(np.zeros(rows, np.uint64)))
        table = table.append_column("tag_keys", pa.array([[]] * rows, pa.list_(pa.uint64())))
        shards.commit(folder, f"part-{len(files):06d}", table, {})
        files.append(f"{folder}/part-{len(files):06d}.parquet")
        written += rows * WIDTH * 2
    return files, written


def sweep(rows: int, width: int, folder: str) -> dict[str, float]:
    """Try 20 settings over a table of `rows` rows of `width` candidates."""
    import pyarrow as pa

    from pipeline.core import schema
    from pipeline.mining.sweep import sweep as run_sweep
    from pipeline.mining.threshold_rule import ThresholdRule
    from pipeline.storage import shards

    files = []
    for first in range(0, rows, 65_536):
        count = min(65_536, rows - first)
        rng = np.random.default_rng(first)
        scores = -np.sort(-rng.random((count, width)).astype(np.float32), axis=1).ravel()
        n = len(scores)
        fields = {
            "doc_id": pa.array([f"d{row}" for row in rng.integers(0, 10**6, n)]), "score": pa.array(scores),
            "cross_score": pa.array(rng.random(n).astype(np.float32)), "lexical_score": pa.nulls(n, pa.float32()),
            "positive_similarity": pa.array(rng.random(n).astype(np.float32)),
            "cluster": pa.array(rng.integers(0, 2**40, n).astype(np.uint64)),
            "same_category": pa.array(np.zeros(n, np.bool_)), "shared_tags": pa.array(np.zeros(n, np.int32)),
        }  # fmt: skip
        cells = pa.StructArray.from_arrays(list(fields.values()), fields=list(schema.CANDIDATE))
        columns = [
            pa.array([f"q{first + row}" for row in range(count)]), pa.array(["p"] * count),
            pa.array(rng.random(count).astype(np.float32)), pa.array(rng.random(count).astype(np.float32)),
            pa.nulls(count, pa.float32()),
            pa.ListArray.from_arrays(pa.array(np.arange(0, n + 1, width, dtype=np.int32)), cells),
        ]  # fmt: skip
        shards.commit(folder, f"part-{first}", pa.table(columns, schema=schema.TABLES["candidates"]), {})
        files.append(f"{folder}/part-{first}.parquet")
    percentages = (None, 1.0, 0.98, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
    rules = [ThresholdRule(max_percentage=share, skip_top=skip) for share in percentages for skip in (0, 5)]
    begun = time.perf_counter()
    results = run_sweep(files, rules)
    assert all(result.rows == rows for result in results)
    return {"seconds": time.perf_counter() - begun, "peak": peak(), "settings": len(rules)}


def main() -> None:
    """Run the measurement that the argument describes."""
    job = json.loads(sys.argv[1])
    kind = job.pop("kind")
    folder = None
    if "folder" not in job:
        folder = job["folder"] = tempfile.mkdtemp()
    try:
        figures = {"search": search, "corpus": corpus, "capped": capped, "sweep": sweep}[kind](**job)
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
