"""What the jobs around vectors do: mine, embed, evaluate, index and search."""

from math import ceil

from pipeline.embedding.job import EmbedConfig
from pipeline.embedding.unique_ids import _IDS_A_BUCKET, _IDS_A_TASK
from pipeline.embedding.worker import FOOTERS_A_TASK
from pipeline.evaluation.corpus import chunk_rows
from pipeline.mining.config import MineConfig
from pipeline.search.bm25_index import SHARD_ROWS
from pipeline.search.document_table import GROUP_ROWS
from scripts.bench.scaling.size import COPIES, ZSTD, Size, Step, shards

ID, KEYS = 28, 60  # bytes of an id with a key, and of the keys of an encoded document
ITEM, SHARD = 1000, 600  # on the head, of an item of a pool with its block in Ray Data, and of a planned shard
JUDGMENT, QUERY = 400, 300  # of a held-out question in Python's dictionaries, and of its id and text there
DEPTH = 100  # rows that are ranked for a question


def _setting(config: type, name: str) -> int:
    return int(config.model_fields[name].default)  # type: ignore[attr-defined]


def mine(size: Size, files: int) -> list[Step]:
    """Encode all texts, then search the whole corpus for each block of pairs."""
    rows, block = _setting(MineConfig, "rows_per_shard"), _setting(MineConfig, "block_rows")
    documents, pairs = shards(size.documents, files, rows), shards(size.rows, files, rows)
    plan = Step("mine", "plan", 1)
    plan.open("footers", 4 * files, on_head=True)
    texts = size.bytes * ZSTD * (1 - size.question) + size.rows * (size.row_bytes + 4 * ID) * ZSTD
    plan.open("tables", 2 * documents + 2 * pairs, each=texts / (2 * documents + 2 * pairs), on_head=True)
    plan.head_memory, plan.driver_rows = SHARD * (documents + 3 * pairs), documents + 3 * pairs
    encode = Step("mine", "encode", documents + pairs)
    encode.open("tables", documents + pairs, each=size.bytes * ZSTD / (documents + pairs))
    encode.write("vectors", documents, size.documents, 2 * size.dim + KEYS, 1.0)
    encode.write("anchors", pairs, size.train_rows, 2 * size.dim + ID, 1.0)
    encode.head_requests = 2 * (documents + pairs)  # whether each is there
    encode.reads += encode.head_requests
    encode.large_tasks = max(1, size.gpus)
    encode.head_memory, encode.driver_rows = ITEM * (documents + pairs), documents + pairs
    encode.task_memory = COPIES * rows * (size.row_bytes + 6 * size.dim)
    blocks = ceil(pairs / max(1, block // ceil(size.rows / pairs)))
    search = Step("mine", "search", blocks)
    vectors, keys = size.documents * 2.0 * size.dim, size.documents * float(KEYS)
    search.open("vectors", 6 * documents * blocks, each=(3 * vectors + 3 * keys) / (6 * documents))
    search.open("anchors", (pairs + 8) * blocks, each=size.train_rows * ID / pairs)
    of_tables = size.rows * (size.row_bytes * size.question + 5 * ID) * ZSTD + size.bytes * ZSTD * (1 - size.question)
    search.open("tables", 4 * files * blocks, each=of_tables / (4 * files))
    search.task_memory = size.train_rows * ID + block * (4 * size.dim + 50 * 2 * ID)  # ids and keys of all anchors
    for name in ("candidates", "tuples", "triplets"):
        search.write(name, pairs, size.train_rows, 50 * ID if name == "candidates" else 6 * size.row_bytes, ZSTD)
    search.head_memory, search.driver_rows = ITEM * blocks + SHARD * pairs, blocks
    finish = Step("mine", "finish", 1)
    finish.open("footers", 5 * pairs + documents, on_head=True)
    return [plan, encode, search, finish]


def embed(size: Size, files: int) -> list[Step]:
    """Cut the corpus into shards, look for ids that repeat, embed, look for them again in what was written."""
    planned = shards(size.documents, files, _setting(EmbedConfig, "rows_per_shard"))
    check = Step("embed", "plan, ids", ceil(size.documents / _IDS_A_TASK))
    check.open("footers", 2 * files, on_head=True)
    check.open("corpus", planned, each=size.documents * ID * ZSTD / planned)
    _check_ids(check, size)
    check.head_memory, check.driver_rows = SHARD * planned, planned
    encode = Step("embed", "encode", planned)
    text = size.bytes * (1 - size.question)
    encode.open("corpus", planned, each=text * ZSTD / planned)
    encode.reads += 2 * planned  # whether each is there
    encode.write("vectors", planned, size.documents, 4.0 * size.dim + ID, 1.0)
    encode.large_tasks = max(1, size.gpus)
    encode.head_memory, encode.driver_rows = ITEM * planned, planned
    encode.task_memory = COPIES * (text + 4.0 * size.dim * size.documents) / planned
    finish = Step("embed", "ids, finish", max(ceil(size.documents / _IDS_A_TASK), planned // FOOTERS_A_TASK))
    finish.open("vectors", planned, each=size.documents * ID * ZSTD / planned)
    finish.open("footers", planned, on_head=True)
    _check_ids(finish, size)
    finish.head_memory = SHARD * planned
    return [check, encode, finish]


def _check_ids(step: Step, size: Size) -> None:
    tasks, buckets = ceil(size.documents / _IDS_A_TASK), ceil(size.documents / _IDS_A_BUCKET)
    if buckets > 1:
        staged = step.write("ids", tasks, size.documents, 8)
        step.read(staged, buckets=buckets, by=buckets)


def evaluate(size: Size, files: int) -> list[Step]:
    """Read the held-out questions, and rank stored vectors for them chunk by chunk, of one model."""
    queries = size.held_out_rows // 2  # of the test split
    vectors = shards(size.documents, files, _setting(EmbedConfig, "rows_per_shard"))
    data = Step("evaluate", "questions", 1)
    data.open(
        "tables",
        2 * files,
        each=size.rows * (size.row_bytes * size.question + 3 * ID) * ZSTD / (2 * files),
        on_head=True,
    )
    data.open("corpus", files, each=size.documents * ID * ZSTD / files, on_head=True)
    data.head_memory = queries * (JUDGMENT + QUERY + size.row_bytes * size.question)
    data.driver_rows = 2 * queries
    chunks = ceil(size.documents / chunk_rows(size.documents))
    rank = Step("evaluate", "rank", chunks)
    rank.open("footers", vectors, on_head=True)
    rank.open("vectors", vectors + chunks, each=size.documents * 4.0 * size.dim / (vectors + chunks))
    rank.task_memory = queries * (4 * size.dim + 12 * DEPTH) + 4 * size.dim * size.documents / chunks
    rank.large_tasks = max(1, size.gpus)
    rank.head_memory = 2 * queries * 12 * DEPTH + SHARD * (vectors + chunks)
    rank.driver_rows = float(chunks) + vectors + queries * DEPTH
    return [data, rank]


def index(size: Size, files: int) -> list[Step]:
    """One process reads all vectors and holds a flat index of them, then writes the documents."""
    vectors = shards(size.documents, files, _setting(EmbedConfig, "rows_per_shard"))
    step = Step("index", "flat", 1)
    step.open("vectors", 4 * vectors, each=size.documents * (3 * 4.0 * size.dim + ID) / (4 * vectors), on_head=True)
    step.write("documents", ceil(size.documents / SHARD_ROWS), size.documents, ID, ZSTD)
    step.write("index", 1, size.documents, 4.0 * size.dim, 1.0)
    step.head_memory = 4.0 * size.dim * size.documents
    return [step]


def search(size: Size) -> list[Step]:
    """Open the index and its documents once; then each query reads the rows that it shows."""
    parts = ceil(size.documents / SHARD_ROWS)
    step = Step("search", "open", 1)
    step.open("index", 1, each=4.0 * size.dim * size.documents, on_head=True)
    step.open("footers", parts, on_head=True)
    step.head_memory = 4.0 * size.dim * size.documents + 150.0 * size.documents / GROUP_ROWS
    step.driver_rows = size.documents / GROUP_ROWS
    return [step]
