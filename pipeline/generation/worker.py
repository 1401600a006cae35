"""The workers of the generation job: one makes the queries of shards of documents, one chooses those that stay."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core import tasks
from pipeline.core.actor_pool import Worker
from pipeline.generation.documents import DocumentColumns
from pipeline.generation.generator import Generator, WritingTask
from pipeline.generation.ledger import Ledger
from pipeline.generation.round_trip import SearchTask
from pipeline.storage import shards
from pipeline.storage.files import join, read_parquet
from pipeline.storage.shards import Shard
from pipeline.text.same_document import Keys, text_keys

ANSWERS = pa.schema(
    [
        ("query_id", pa.string()),
        ("query", pa.string()),
        ("doc_id", pa.string()),
        ("passage", pa.string()),  # the part of the document that the query is about; null: all of it
        ("group_id", pa.string()),  # the unit that must not straddle splits: a product, else the document
    ]
)
GENERATED = pa.schema([*ANSWERS, ("encoder_rank", pa.int32()), ("bm25_rank", pa.int32())])  # null: not found, not asked


@dataclass(frozen=True)
class GenerateTask:
    """What every worker of a generation needs to know."""

    generator: Generator
    writing: WritingTask
    columns: DocumentColumns
    folder: str  # of table `answers`


class GenerateShard(Worker):
    """Makes the queries of shards of documents, each into one committed file of table `answers`."""

    def __init__(self, task: GenerateTask) -> None:
        self.task, self.writer = task, task.generator.open(task.writing)

    def work(self, item: dict[str, Any]) -> dict[str, Any]:
        """Make the queries of one shard and commit them; a committed one is left as it is."""
        shard = Shard(**item)
        if (footer := shards.committed(self.task.folder, shard.name)) is None:
            footer = self._generate(shard)
        return {"name": shard.name, "rows": shard.rows, "footer": footer}

    def _generate(self, shard: Shard) -> dict[str, Any]:
        ledger = Ledger()
        documents, groups, left_out = self.task.columns.read(shard)
        ledger.documents = shard.rows
        ledger.documents_left_out.update({reason: count for reason, count in left_out.items() if count})
        written = self.writer.write(documents, ledger) if documents else []
        rows: list[dict[str, str | None]] = [
            {
                "query_id": f"g-{document.id}-{number}",
                "query": query.text,
                "doc_id": document.id,
                "passage": query.passage,
                "group_id": group,
            }
            for document, group, queries in zip(documents, groups, written, strict=True)
            for number, query in enumerate(queries)
        ]
        footer = ledger.to_json()
        shards.commit(self.task.folder, shard.name, pa.Table.from_pylist(rows, schema=ANSWERS), footer)
        return {"rows": len(rows), **footer}


@dataclass(frozen=True)
class ChooseTask:
    """What every worker that chooses among the answers needs to know."""

    answers: str
    folder: str  # of table `generated`
    search: SearchTask | None
    known_queries: Any  # a reference to the sorted keys of queries that people have asked


class ChooseQueries(Worker):
    """Chooses the queries of some shards that stay, and commits them."""

    def __init__(self, task: ChooseTask, threads: int) -> None:
        self.task = task
        self.search = task.search.open(threads) if task.search else None
        self.known_keys: Keys = tasks.get(task.known_queries)

    def work(self, item: list[list[str]]) -> int:
        """Choose for some shards, each the name of its answers and of its result, in one pass over the documents."""
        tables = [read_parquet(join(self.task.answers, f"{answers}.parquet")) for answers, _ in item]
        joined = pa.concat_tables(tables)
        rows = joined.append_column("encoder_rank", pa.nulls(len(joined), pa.int32()))
        rows = rows.append_column("bm25_rank", pa.nulls(len(joined), pa.int32()))
        repeated = np.isin(text_keys(joined["query"].to_pylist()), self.known_keys)
        hits = np.ones(len(joined), np.bool_)
        if self.search and len(joined):
            ranks = self.search.ranks(joined["query"].to_pylist(), joined["doc_id"].to_pylist())
            hits = self.search.hits(ranks)
            for name, values in ranks.items():
                index = rows.schema.get_field_index(f"{name}_rank")
                rows = rows.set_column(index, f"{name}_rank", pa.array(values, mask=values == 0))
        start = 0
        for table, (_, name) in zip(tables, item, strict=True):
            part = slice(start, start + table.num_rows)
            left_out = {
                "known_query": int(repeated[part].sum()),
                "not_found_again": int((~repeated & ~hits)[part].sum()),
            }
            remaining = rows.slice(start, table.num_rows).filter(pa.array((hits & ~repeated)[part]))
            shards.commit(self.task.folder, name, remaining.cast(GENERATED), {"left_out": left_out})
            start += table.num_rows
        return start
