"""One measurement of the data pipeline in one process: `python -m scripts.bench.workers.build '{"kind": ...}'`.

Prints one line of JSON. `scripts.bench.build` starts these, ours and the peers' in turns, and watches their memory.
Every `build` reads the same JSON lines, cleans both texts, keeps one id a text, puts each question with all its
answers into one split by hash, and writes corpus, queries, qrels and pairs.
"""

import html
import json
import os
import re
import shutil
import sys
import tempfile
import time
import unicodedata
from functools import partial
from itertools import compress, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

Job = dict[str, Any]
Texts = dict[str, list[Any]]
Figures = dict[str, float]
TABLES = ("corpus", "queries", "qrels", "pairs")
SHARES = (0.8, 0.9)


def ours(job: Job, out: Path) -> Figures:
    """The build job on Ray; the session is started, and libraries are read, before the clock, as for the peers."""
    import ray
    import ray.data

    from pipeline.building.config import BuildConfig
    from pipeline.building.job import run
    from pipeline.core.ray_session import QUIET

    source = {"type": "jsonl", "kind": "qa", "path": "rows/part-*.jsonl"}
    action = "remove" if job.get("leaks") else "off"
    recipe = {
        "run": str(out),
        "root": job["data"],
        "sources": [source],
        "decontaminate": {"action": action},
        "in_process_bytes": 0,
    }
    os.environ.update(QUIET)
    began = time.perf_counter()
    ray.init(address="local", num_cpus=job["cpus"], include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    start = time.perf_counter()
    artifact = run(BuildConfig.model_validate(recipe))
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "start": start - began, **{name: artifact.rows(name) for name in TABLES}}


def tidy(text: str) -> str:
    """Clean one text as a careful user would: tags and entities, NFKC, white space."""
    if "<" in text:
        text = re.sub(r"<[^>]{1,200}>", " ", text)
    if "&" in text:
        text = html.unescape(text)
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.split())


def hash_of(text: str) -> int:
    """63-bit hash of a text, whatever its case."""
    return int(xxhash.xxh3_64_intdigest(text.casefold().encode()) >> 1)


def cleaned(batch: Texts) -> Texts:
    """Clean a batch of rows, leave out those without two texts of two characters at least, and hash both texts."""
    questions, answers = [tidy(text) for text in batch["question"]], [tidy(text) for text in batch["answer"]]
    keys = {"query_key": [hash_of(text) for text in questions], "doc_key": [hash_of(text) for text in answers]}
    rows = {**batch, "question": questions, "answer": answers, **keys}
    long = [len(q) >= 2 and len(a) >= 2 for q, a in zip(questions, answers, strict=True)]
    return rows if all(long) else {name: list(compress(values, long)) for name, values in rows.items()}


def picked(batch: Texts, rows: list[int], keep: np.ndarray, columns: list[str]) -> Texts:
    """Return some columns of the rows to keep."""
    return {name: list(compress(batch[name], keep[rows])) for name in columns}


def with_ids(
    batch: dict[str, list[Any]], rows: list[int], first: np.ndarray, names: np.ndarray
) -> dict[str, list[Any]]:
    """Give each row the id of the first row with its question, its answer's id, and the split of the question."""
    ids = names[first[rows]].tolist()
    share = [xxhash.xxh3_64_intdigest(name.encode()) / 2**64 for name in ids]
    splits = ["train" if s < SHARES[0] else "dev" if s < SHARES[1] else "test" for s in share]
    return {"query_id": ids, "doc_id": [f"d-{key:016x}" for key in batch["doc_key"]], "split": splits}


def with_datasets(job: Job, out: Path, *, select: bool = True) -> Figures:
    """The same work with `datasets` as a careful user writes it: map in two processes, first occurrences by NumPy, rows
    selected and their indices flattened; or, without `select`, rows left out inside map, which never makes indices.
    """
    import datasets

    datasets.disable_progress_bars()
    files = sorted(str(path) for path in Path(job["data"], "rows").glob("*.jsonl"))
    start = time.perf_counter()
    rows = datasets.load_dataset("json", data_files=files, split="train", cache_dir=str(out / "cache"))
    workers = job["cpus"] if job["cpus"] > 1 else None
    rows = rows.map(cleaned, batched=True, remove_columns=rows.column_names, num_proc=workers)
    keys = rows.with_format("arrow")
    query, doc, names = (_column(keys, name) for name in ("query_key", "doc_key", "id"))
    _, first, group = np.unique(query, return_index=True, return_inverse=True)
    arguments = {"first": first[group], "names": names}  # a fingerprint of our own: theirs would hash a million names
    rows = rows.map(
        with_ids, batched=True, with_indices=True, num_proc=workers, fn_kwargs=arguments, new_fingerprint="with_ids"
    )
    _, documents = np.unique(doc, return_index=True)
    _, distinct_pairs = np.unique(np.stack([query, doc], axis=1), axis=0, return_index=True)
    tables = {
        "corpus": (documents, ["doc_id", "answer"]),
        "queries": (first, ["query_id", "question", "split"]),
        "pairs": (distinct_pairs, ["query_id", "question", "doc_id", "answer", "relevance", "split"]),
    }
    written = {}
    for name, (index, columns) in tables.items():
        if select:
            written[name] = rows.select(np.sort(index)).select_columns(columns).flatten_indices(num_proc=workers)
            continue
        keep = np.zeros(len(doc), bool)
        keep[index] = True
        how = {"fn_kwargs": {"keep": keep, "columns": columns}, "new_fingerprint": name, "num_proc": workers}
        written[name] = rows.map(picked, batched=True, with_indices=True, remove_columns=rows.column_names, **how)
    written["qrels"] = written["pairs"].select_columns(["query_id", "doc_id", "relevance", "split"])
    for name, table in written.items():
        table.to_parquet(str(out / f"{name}.parquet"))
    return {"seconds": time.perf_counter() - start, **{name: table.num_rows for name, table in written.items()}}


def _column(rows: Any, name: str) -> np.ndarray:
    values: np.ndarray = pa.concat_tables([part.select([name]) for part in rows.iter(1 << 16)])[name].to_numpy()
    return values


def with_duckdb(job: Job, out: Path) -> Figures:
    """The same work as SQL on DuckDB, all in one process; it spills to disk where memory is short."""
    import duckdb

    connection = duckdb.connect(str(out / "work.db"))
    connection.execute(f"SET threads={job['cpus']}; SET memory_limit='6GB'; SET temp_directory='{out / 'spill'}'")
    tidied = r"trim(regexp_replace(nfc_normalize(regexp_replace({0}, '<[^>]+>', ' ', 'g')), '\s+', ' ', 'g'))"
    start = time.perf_counter()
    connection.execute(
        f"CREATE TABLE rows AS SELECT id, relevance, {tidied.format('question')} AS question, "
        f"{tidied.format('answer')} AS answer FROM read_json('{job['data']}/rows/*.jsonl', format='newline_delimited', "
        "columns={id: 'VARCHAR', question: 'VARCHAR', answer: 'VARCHAR', relevance: 'INTEGER'})"
    )
    connection.execute(
        "CREATE TABLE keyed AS SELECT *, hash(lower(question)) AS query_key, hash(lower(answer)) AS doc_key FROM rows "
        "WHERE length(question) >= 2 AND length(answer) >= 2; DROP TABLE rows"
    )
    connection.execute(
        "CREATE TABLE queries AS SELECT query_key, min(id) AS query_id, arg_min(question, id) AS question, "
        "CASE WHEN hash(min(id)) / 18446744073709551616 < 0.8 THEN 'train' WHEN hash(min(id)) / 18446744073709551616 < "
        "0.9 THEN 'dev' ELSE 'test' END AS split FROM keyed GROUP BY query_key"
    )
    connection.execute(
        "CREATE TABLE corpus AS SELECT 'd-' || doc_key AS doc_id, doc_key, arg_min(answer, id) AS answer "
        "FROM keyed GROUP BY doc_key"
    )
    connection.execute(
        "CREATE TABLE qrels AS SELECT query_key, doc_key, max(relevance) AS relevance FROM keyed "
        "GROUP BY query_key, doc_key"
    )
    selects = {
        "corpus": "SELECT doc_id, answer FROM corpus",
        "queries": "SELECT query_id, question, split FROM queries",
        "qrels": "SELECT query_id, 'd-' || doc_key, relevance, split FROM qrels JOIN queries USING (query_key)",
        "pairs": "SELECT query_id, question, doc_id, answer, relevance, split FROM qrels "
        "JOIN queries USING (query_key) JOIN corpus USING (doc_key)",
    }
    for name, query in selects.items():
        connection.execute(f"COPY ({query}) TO '{out / name}.parquet' (FORMAT parquet, COMPRESSION zstd)")
    seconds = time.perf_counter() - start
    return {"seconds": seconds, **{name: pq.read_metadata(out / f"{name}.parquet").num_rows for name in selects}}


def _texts(job: Job) -> tuple[list[str], list[tuple[int, int]]]:
    """Distinct answers, and the planted pairs of near duplicates among them by their row."""
    rows = pq.read_table(Path(job["data"]) / "rows").slice(0, job["rows"])
    truth = pq.read_table(Path(job["data"]) / "truth").to_pylist()
    near = [
        (row["row"], row["of"])
        for row in truth
        if row["kind"] in ("near_duplicate", "leak_near") and row["row"] < len(rows)
    ]
    return rows["answer"].to_pylist(), near


def _recall(job: Job, pairs: set[tuple[int, int]], texts: list[str], near: list[tuple[int, int]]) -> Figures:
    """Recall of the planted pairs by the pairs of one cluster, and the share of false ones in a sample of those."""
    from pipeline.building.shingles import jaccard, shingle

    def index(chosen: list[tuple[int, int]]) -> np.ndarray:
        sides = [shingle(pa.array([texts[pair[side]] for pair in chosen])) for side in (0, 1)]
        return jaccard(*sides, np.stack([np.arange(len(chosen))] * 2, axis=1))

    true_pairs = [pair for pair, score in zip(near, index(near), strict=True) if score >= job["threshold"]]
    hits = sum((max(pair), min(pair)) in pairs for pair in true_pairs)
    false = float((index(sorted(pairs)[:5000]) < job["threshold"]).mean()) if pairs else 0.0
    return {"recall": hits / max(1, len(true_pairs)), "false": false, "planted": len(true_pairs)}


def cluster_ours(job: Job, out: Path) -> Figures:
    """Near-duplicate clusters by the steps of a build, in this process, through files as on Ray."""
    from pipeline.building.dedup import with_canonical_id
    from pipeline.building.minhash import NearConfig
    from pipeline.building.near_duplicates import EDGES, NearDuplicateSteps
    from pipeline.sources.reading.record import SCHEMAS
    from pipeline.storage.shuffle import Shuffle, bucket_hashes

    texts, near = _texts(job)
    pa.set_cpu_count(1)
    names = [f"{number:09d}" for number in range(len(texts))]
    schema = with_canonical_id(SCHEMAS["documents"])
    columns = {"id": pa.array(names), "text": pa.array(texts), "canonical_id": pa.array(names)}
    rows = pa.table([columns.get(field.name, pa.nulls(len(texts), field.type)) for field in schema], schema=schema)
    exchange = Shuffle(str(out), 1)
    steps = NearDuplicateSteps(NearConfig(threshold=job["threshold"]), exchange)
    start = time.perf_counter()
    exchange.write("documents", "00000", rows.drop_columns("canonical_id"), by="id")
    for step in steps.steps():
        step(0)
    seconds = time.perf_counter() - start
    row_of = {int(number): row for row, number in enumerate(bucket_hashes(pa.array(names)).tolist())}
    edges = exchange.read("edges_documents", 0, EDGES)
    row_pairs = {
        tuple(sorted((row_of[left], row_of[right]), reverse=True))
        for left, right in zip(edges["left"].to_pylist(), edges["right"].to_pylist(), strict=True)
    }
    return {"seconds": seconds} | _recall(job, _joined(row_pairs), texts, near)


def _joined(pairs: set[Any]) -> set[tuple[int, int]]:
    """All pairs within a component; planted families are small."""
    root: dict[int, int] = {}

    def top(node: int) -> int:
        while root.setdefault(node, node) != node:
            node = root[node]
        return node

    for left, right in pairs:
        root[top(left)] = top(right)
    members: dict[int, list[int]] = {}
    for node in list(root):
        members.setdefault(top(node), []).append(node)
    return {(a, b) for group in members.values() for a in group for b in group if a > b}


def cluster_datasketch(job: Job, _: Path) -> Figures:
    """The loop of datasketch's manual: sketch, query, insert; candidates are compared exactly."""
    from datasketch import MinHash, MinHashLSH

    texts, near = _texts(job)
    start = time.perf_counter()
    index, sets, row_pairs = MinHashLSH(threshold=job["threshold"], num_perm=128), [], set()
    for row, text in enumerate(texts):
        words = text.lower().split()
        grams = {word.encode() for word in words} | {f"{a} {b}".encode() for a, b in pairwise(words)}
        sketch = MinHash(num_perm=128)
        sketch.update_batch(list(grams))
        for other in index.query(sketch):
            if len(grams & sets[other]) >= job["threshold"] * len(grams | sets[other]):
                row_pairs.add((row, other))
        index.insert(row, sketch)
        sets.append(grams)
    seconds = time.perf_counter() - start
    return {"seconds": seconds} | _recall(job, _joined(row_pairs), texts, near)


KINDS = {
    "ours": ours,
    "datasets": with_datasets,
    "datasets_map": partial(with_datasets, select=False),
    "duckdb": with_duckdb,
    "cluster_ours": cluster_ours,
    "cluster_datasketch": cluster_datasketch,
}


def main() -> None:
    """Run the measurement of the command line in a folder of its own."""
    job = json.loads(sys.argv[1])
    out = Path(tempfile.mkdtemp(prefix="measure-", dir=job.get("scratch")))
    try:
        figures = KINDS[job["kind"]](job, out)
    finally:
        shutil.rmtree(out, ignore_errors=True)
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
