"""What training does before and beside its steps: rows that are tokenised by query, and an epoch composed of them."""

from math import ceil

from scripts.bench.scaling.size import COPIES, ZSTD, Size, Staged, Step, shards
from training.data.bulk_rows import BLOCK_ROWS, BUCKET_BYTES
from training.data.epoch import EpochSettings, Pass
from training.run.epochs import LOCAL_ROWS

ID, FACT, NAME = 20, 60, 50  # bytes in memory of an id, of a judgment of a query, of the hash of a text with its owner
ROW_IDS, RELEVANT = 80, 60  # of the columns of a tokenised row that are no tokens, and of what is relevant to its query
TOKEN = 4  # bytes; packed about half
STEP_BYTES = 100  # of the order of the steps, while the head makes it


def train(size: Size, files: int) -> list[Step]:
    """Steps of a training on pairs in so many files: rows, each epoch, and what the ranks read."""
    if size.train_rows <= LOCAL_ROWS:
        return []
    steps, rows, relevant = _rows(size, files)
    return [*steps, *_epoch(size, rows, relevant), _ranks(size)]


def _rows(size: Size, files: int) -> tuple[list[Step], Staged, Staged]:
    blocks = shards(size.rows, files, BLOCK_ROWS)
    buckets = max(1, ceil(size.bytes * ZSTD / BUCKET_BYTES))
    width = size.row_bytes + 4 * ID
    count = Step("train", "count", blocks).mark()
    count.open("pairs", blocks, each=size.bytes * ZSTD / blocks)
    count.open("footers", 3 * files, on_head=True)
    count.driver_rows, count.head_memory, count.task_memory = blocks, 2000.0 * blocks, COPIES * BLOCK_ROWS * width
    stage = Step("train", "read", blocks).mark()
    stage.open("pairs", blocks, each=size.bytes * ZSTD / blocks)
    stage.task_memory = 2 * COPIES * BLOCK_ROWS * width
    staged = stage.write("rows", blocks, size.train_rows, width)
    names = stage.write("names", blocks, 2 * size.train_rows, NAME)
    facts = Step("train", "facts", blocks).mark()
    facts.open("qrels", blocks, each=size.rows * 2 * ID * ZSTD / blocks)
    judgments = facts.write("qrels", blocks, size.train_rows, FACT)
    same = Step("train", "same_text", buckets).mark()
    same.read(names, buckets=buckets)
    pairs = same.write("same_text", buckets, 0, FACT)
    write = Step("train", "write", buckets).mark()
    for table in (staged, pairs, judgments):
        write.read(table, buckets=buckets)
    write.driver_rows = buckets
    rows = write.write("tokenised", buckets, size.train_rows, _tokens(size) * TOKEN + ROW_IDS, 0.5)
    relevant = write.write("relevant", buckets, size.train_rows, RELEVANT)
    return [count, stage, facts, same, write], rows, relevant


def _tokens(size: Size) -> float:
    """Tokens of a row."""
    return size.row_bytes / size.characters_a_token


def _epoch(size: Size, rows: Staged, relevant: Staged) -> list[Step]:
    """The steps of one epoch, times the epochs: staged by position, then composed level by level."""
    settings = EpochSettings(size.batch, seed=0)
    bucket_rows = settings.bucket_rows(_tokens(size))
    fan_in = max(2, bucket_rows // size.batch)
    stage = Step("train", "epoch: stage", rows.parts * size.epochs).mark()
    for table in (rows, relevant):
        stage.open(table.name, rows.parts * size.epochs, each=table.bytes * 0.5 / table.parts)
        stage.task_memory += table.bytes / table.parts * COPIES
    waiting = [stage.write("positions", rows.parts * size.epochs, rows.rows * size.epochs, rows.width)]
    waiting += [stage.write("positions-relevant", rows.parts * size.epochs, rows.rows * size.epochs, RELEVANT)]
    steps, buckets, level = [stage], {"": max(1, ceil(size.train_rows / bucket_rows))}, 0
    order = Pass([], [], settings, 0, 0, None, "", "", buckets, fan_in, 1)  # type: ignore[arg-type]  # for its levels
    while buckets:
        count = sum(buckets.values())
        step = Step("train", f"epoch: level {level}", count * size.epochs).mark()
        for table in waiting:  # of one epoch, and beyond the first level of the buckets that lie below
            parts = table.parts // size.epochs
            bucket = Staged(
                table.name, parts if level == 0 else ceil(parts / count), table.rows / size.epochs, table.width
            )
            step.read(bucket, buckets=count)
        step.write("batches", count * size.epochs, rows.rows * size.epochs if level == 0 else 0, rows.width, 0.5)
        left = count * size.batch / 2 if count > 1 else 0  # half a batch of each bucket stays for the next level
        waiting = [
            step.write(table.name, count * size.epochs, left * size.epochs, table.width) for table in waiting if left
        ]
        steps.append(step)
        buckets, level = order.above(buckets), level + 1
    batches = ceil(size.train_rows / size.batch)
    steps[-1].head_memory = STEP_BYTES * batches
    return steps


def _ranks(size: Size) -> Step:
    """Every rank reads whole row groups of the epoch and keeps the slots that are its own."""
    settings, ranks = EpochSettings(size.batch, seed=0), max(1, size.gpus)
    batches = ceil(size.train_rows / size.batch)
    groups = ceil(batches / settings.group_steps(_tokens(size)))
    step, width = Step("train", "epoch: ranks", ranks), _tokens(size) * TOKEN + ROW_IDS
    step.open("batches", groups * ranks * size.epochs, each=size.train_rows * width * 0.5 / groups)
    step.task_memory = 4 * size.train_rows * width / groups + 3 * 8 * batches
    return step
