"""The documents of which queries are made: the corpus of a build, or files of any columns, shard by shard."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipeline.core.schema import OPTIONAL
from pipeline.generation.config import GenerateConfig
from pipeline.generation.generator import Document
from pipeline.storage import shards
from pipeline.storage.artifact import Artifact
from pipeline.storage.files import join, open_parquet
from pipeline.storage.shards import Shard
from pipeline.storage.vectors import rows_with_text


@dataclass(frozen=True)
class DocumentColumns:
    """Names of the columns; `title` and `group` are empty where there is none."""

    id: str
    text: str
    title: str
    group: str

    @property
    def names(self) -> list[str]:
        """All that are there, each once."""
        return list(dict.fromkeys(filter(None, (self.id, self.text, self.title, self.group))))

    def read(self, shard: Shard) -> tuple[list[Document], list[str], dict[str, int]]:
        """Documents of a shard that have a text, the group of each, and how many rows are none, by reason.

        A product's offers have one group; any other document is a group of its own.
        """
        rows = shards.read(shard, self.names)
        extra = [name for name in (self.title, self.group) if name]
        table = rows_with_text(rows, shard.path, self.id, self.text, list(dict.fromkeys(extra)))
        left_out = {"unreadable_row": shard.rows - rows.num_rows, "empty_text": rows.num_rows - table.num_rows}
        titles, groups = (self._texts(table, name, shard.path) for name in (self.title, self.group))
        ids, texts = table["id"].to_pylist(), table["text"].to_pylist()
        documents = [Document(*parts) for parts in zip(ids, titles, texts, strict=True)]
        return documents, [group or id_ for group, id_ in zip(groups, ids, strict=True)], left_out

    @staticmethod
    def _texts(table: pa.Table, name: str, path: str) -> list[str]:
        if not name:
            return [""] * table.num_rows
        return [text or "" for text in shards.string_column(table, name, path, numbers=True).to_pylist()]


@dataclass(frozen=True)
class DocumentSource:
    """Where documents are read, and where the queries are that are known already."""

    inputs: dict[str, str]
    files: list[str]
    columns: DocumentColumns
    known_queries: list[str]  # files of the queries that people have asked; of a build

    @classmethod
    def of(cls, config: GenerateConfig) -> "DocumentSource":
        """Find the documents; raises UserError where there are none, or where a column is missing."""
        if config.input:
            paths = [config.input] if isinstance(config.input, str) else config.input
            files = list(dict.fromkeys(file for path in paths for file in shards.find_files(path)))
            columns = DocumentColumns(config.id_column or "id", config.text_column, config.title_column or "", "")
            return cls({"input": shards.fingerprint(files)}, files, columns, [])
        data = Artifact.open(config.data or join(config.run, "data"), "build")
        files = data.files("corpus")
        columns = DocumentColumns(
            config.id_column or "doc_id", config.text_column, config.title_column or "title", _group_column(files)
        )
        queries = data.files("queries") if data.has("queries") else []
        return cls({"data": data.manifest.fingerprint}, files, columns, queries)

    def check(self, plan: Sequence[Shard]) -> None:
        """Raise UserError for a file that lacks a column, or whose ids or texts are none."""
        for shard in plan:
            if shard.start == 0:
                head = shards.head(shard, self.columns.names)
                rows_with_text(head, shard.path, self.columns.id, self.columns.text)


def _group_column(files: Sequence[str]) -> str:
    """The column of groups, which corpora of earlier versions have not."""
    with open_parquet(files[0]) as file:
        names = file.schema_arrow.names
    return next((name for table, name in sorted(OPTIONAL) if table == "corpus" and name in names), "")
