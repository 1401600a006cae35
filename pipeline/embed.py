"""The embedding job: a corpus, or any file of texts, into shards of vectors; it goes on where it was killed."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from pipeline import engine, shards
from pipeline.artifact import Artifact, Draft, begin, digest
from pipeline.config import JobConfig
from pipeline.console import Progress, say
from pipeline.encoder import Encoder, EncoderConfig, Role
from pipeline.errors import UserError
from pipeline.files import join
from pipeline.pool import Pool, Worker, limit_threads, stream
from pipeline.shards import Shard
from pipeline.text import hash64

Floats = npt.NDArray[np.floating[Any]]
TABLES: dict[str, tuple[str, str]] = {"document": ("corpus", "doc_id"), "query": ("queries", "query_id")}
_IDS_A_PASS = 1 << 24  # ids whose hashes are held at once when they are compared


class EmbedConfig(JobConfig):
    """Settings of the embedding job."""

    data: str | None = Field(None, description="artifact of build; default {run}/data")
    input: str | None = Field(None, description="instead of data: Parquet or JSON lines; a file, directory or glob")
    id_column: str | None = Field(None, description="default: doc_id or query_id of data, 'id' of an input")
    text_column: str = Field("text", description="column with the text that is embedded")
    encoder: EncoderConfig | None = Field(None, description="default: the model in {run}/model")
    role: Role = Field("document", description="document embeds the corpus, query embeds the queries")
    out: str | None = Field(None, description="default {run}/vectors")
    dtype: Literal["float32", "float16"] = Field("float32", description="numbers of the vectors on disk")
    rows_per_shard: int = Field(4096, ge=1, description="texts of one output file, the unit that a restart repeats")
    num_actors: int | None = Field(None, ge=1, description="default: one a GPU, else one for each four CPUs")

    @model_validator(mode="before")
    @classmethod
    def _default_model(cls, data: Any) -> Any:
        """Let `encoder: {max_length: 128}` mean the model of this run, not the sample model."""
        if isinstance(data, dict) and isinstance(data.get("encoder"), dict):
            run = data.get("run", cls.model_fields["run"].default)
            return {**data, "encoder": {"model": join(str(run), "model"), **data["encoder"]}}
        return data

    @model_validator(mode="after")
    def _one_input(self) -> "EmbedConfig":
        if self.data and self.input:
            raise ValueError("give data or input, not both")
        return self

    def digested(self) -> dict[str, Any]:
        """Leave out how many work on it."""
        return {key: value for key, value in super().digested().items() if key != "num_actors"}


def run(config: EmbedConfig) -> Artifact:
    """Embed every text of the input into `{run}/vectors`: table vectors (id, vector [D]).

    One output file a shard of the input, renamed into place when whole, so that after a kill the same command does
    only what is missing. The manifest comes last, after rows and ids were counted again.

    Raises UserError on a bad model, a bad input, ids that are missing or twice, and a finished artifact made of
    other inputs or settings.
    """
    inputs, files, id_column = _source(config)
    encoder = config.encoder or EncoderConfig.model_validate({"model": join(config.run, "model")})
    identity = weighed(encoder)
    out = config.out or join(config.run, "vectors")
    source = {**inputs, "encoder": digest(identity)}
    draft = begin(out, "embed", config.digested(), source, overwrite=config.overwrite, keep=True)
    if isinstance(draft, Artifact):
        say(f"embed: {out} is already done: {draft.rows('vectors'):,} vectors")
        return draft
    plan = shards.plan(files, config.rows_per_shard, digest([draft.settings, source]))
    for shard in plan:
        if shard.start == 0:
            with_text(shards.head(shard, [id_column, config.text_column]), shard.path, id_column, config.text_column)
    check_ids(plan, id_column)
    folder = join(out, "vectors")
    settings = {
        "encoder": encoder,
        "role": config.role,
        "columns": (id_column, config.text_column),
        "folder": folder,
        "dtype": config.dtype,
    }
    dtypes = encode(plan, EncodeShard, settings, folder, config.num_actors)
    return _finish(draft, plan, folder, identity | {"dtype": dtypes}, config)


def _source(config: EmbedConfig) -> tuple[dict[str, str], list[str], str]:
    """Return the inputs to record, the files and the id column."""
    if config.input:
        files = shards.find(config.input)
        return {"input": shards.fingerprint(files)}, files, config.id_column or "id"
    table, id_column = TABLES[config.role]
    data = Artifact.open(config.data or join(config.run, "data"), "build")
    return {"data": data.manifest.fingerprint}, data.files(table), config.id_column or id_column


def weighed(encoder: EncoderConfig) -> dict[str, str]:
    """Load a model on the driver, where its errors are quick and plain, and describe it without its precision.

    The precision follows the hardware of the actors; they record it with each shard.
    """
    identity = dict(Encoder.load(encoder, "cpu").identity)
    identity.pop("dtype")
    return identity


def check_ids(plan: Sequence[Shard], id_column: str) -> None:
    """Refuse ids that are missing or occur twice, naming the first; memory is bounded whatever the number of ids."""
    passes = sum(shard.rows for shard in plan) // _IDS_A_PASS + 1
    for part in range(passes):
        hashes = np.concatenate(
            [_id_hashes(shard, id_column, part, passes) for shard in plan] or [np.empty(0, np.uint64)]
        )
        values, counts = np.unique(hashes, return_counts=True)
        if (counts > 1).any():
            _refuse_twins(plan, id_column, set(values[counts > 1].tolist()))


def _ids(shard: Shard, id_column: str) -> list[str]:
    column = shards.strings(shards.read(shard, [id_column]), id_column, shard.path, numbers=True)
    if column.null_count:
        first = shard.start + pc.index(column.is_null(), True).as_py() + 1
        raise UserError(
            f"{shard.path}: {column.null_count} rows have no '{id_column}', first row {first}; give every row an id"
        )
    ids: list[str] = column.to_pylist()
    return ids


def _id_hashes(shard: Shard, id_column: str, part: int, passes: int) -> npt.NDArray[np.uint64]:
    hashes = np.fromiter(map(hash64, _ids(shard, id_column)), np.uint64, shard.rows)
    return hashes[hashes % np.uint64(passes) == part] if passes > 1 else hashes


def _refuse_twins(plan: Sequence[Shard], id_column: str, suspects: set[int]) -> None:
    seen = Counter(name for shard in plan for name in _ids(shard, id_column) if hash64(name) in suspects)
    twins = [name for name, count in seen.items() if count > 1]
    if twins:
        shown = ", ".join(f"'{name}'" for name in twins[:3])
        raise UserError(
            f"{plan[0].path}: {len(twins)} ids of '{id_column}' occur more than once ({shown}); ids must be unique"
        )


def encode(
    plan: Sequence[Shard], worker: type[Worker], settings: dict[str, Any], folder: str, num_actors: int | None
) -> str:
    """Have every shard that is not committed below `folder` encoded by a pool; return the precision of the vectors."""
    progress = Progress("embed", sum(shard.rows for shard in plan), "texts")
    missing = [shard for shard in plan if shards.committed(folder, shard.name) is None]
    progress.skip(progress.total - sum(shard.rows for shard in missing))
    if progress.first:
        say(f"embed: goes on after {progress.first:,} of {progress.total:,} texts")
    if missing:
        engine.start()
        pool = Pool.plan(num_actors, len(missing))
        for rows in stream([asdict(s) for s in missing], worker, settings | {"threads": pool.threads}, pool):
            progress.add(rows)
    return "+".join(sorted({_read_counts(folder, shard)["dtype"] for shard in plan}))


class EncodeShard(Worker):
    """Encodes shards: rows of an input into one committed file of vectors."""

    def __init__(
        self,
        encoder: EncoderConfig,
        role: Role,
        columns: tuple[str, str],
        folder: str,
        dtype: str,
        threads: int,
    ) -> None:
        limit_threads(threads)
        self.encoder = Encoder.load(encoder)
        self.role, self.columns, self.folder, self.dtype = role, columns, folder, dtype

    def work(self, item: dict[str, Any]) -> int:
        """Encode one shard and commit it; return the rows that it had."""
        shard = Shard(**item)
        rows = shards.read(shard, list(dict.fromkeys(self.columns)))
        texts = with_text(rows, shard.path, *self.columns)
        vectors = self.encoder.encode(texts.column("text").to_pylist(), self.role)
        table = vectors_table(texts.column("id"), vectors, self.dtype)
        empty = rows.num_rows - table.num_rows
        shards.commit(self.folder, shard.name, table, {"empty_text": empty, "dtype": self.encoder.identity["dtype"]})
        return shard.rows


def with_text(rows: pa.Table, path: str, id_column: str, text_column: str) -> pa.Table:
    """Table (id, text) of the rows whose text is neither null nor blank."""
    ids = shards.strings(rows, id_column, path, numbers=True)
    texts = shards.strings(rows, text_column, path)
    return pa.table({"id": ids, "text": texts}).filter(not_blank(texts))


def not_blank(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Which texts are neither null nor white space alone."""
    return pc.fill_null(pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(texts)), 0), False)


def vectors_table(ids: pa.ChunkedArray, vectors: Floats, dtype: str) -> pa.Table:
    """Table (id, vector) of vectors [N, D] in `dtype`, as a fixed-size list that every Parquet reader knows."""
    with np.errstate(over="ignore"):
        flat = np.ascontiguousarray(vectors, dtype=dtype).reshape(-1)
    if not np.isfinite(flat).all():
        raise UserError(f"the model gives numbers that are not finite in {dtype}; try dtype float32")
    return pa.table({"id": ids, "vector": pa.FixedSizeListArray.from_arrays(pa.array(flat), vectors.shape[1])})


def _read_counts(folder: str, shard: Shard) -> dict[str, Any]:
    counts = shards.committed(folder, shard.name)
    if counts is None:
        raise UserError(f"{folder}: shard {shard.name} is missing or damaged; run the same command again")
    return counts


def _finish(draft: Draft, plan: list[Shard], folder: str, identity: dict[str, str], config: EmbedConfig) -> Artifact:
    """Count rows and ids again, then write the manifest."""
    for shard in plan:
        counts = _read_counts(folder, shard)
        if counts["rows"] + counts["empty_text"] != shard.rows:
            raise UserError(f"{folder}: shard {shard.name} lacks rows of {shard.path}; give --overwrite")
        draft.drop({"empty_text": counts["empty_text"]})
    shards.sweep(folder)
    written = list(written_vectors(plan, folder))
    check_ids(written, "id")
    dim = vector_width(written)
    artifact = draft.finish(["vectors"], encoder=identity, dim=dim, dtype=config.dtype, role=config.role)
    if artifact.rows("vectors") != sum(shard.rows for shard in written):
        raise UserError(f"{folder}: holds files of other work; give --overwrite")
    left = f", {draft.dropped['empty_text']:,} empty texts left out" if draft.dropped["empty_text"] else ""
    say(f"embed: {artifact.path}: {artifact.rows('vectors'):,} vectors of {dim} {config.dtype}{left}")
    return artifact


def written_vectors(plan: Sequence[Shard], folder: str) -> Iterator[Shard]:
    """The outputs of a plan, as shards that can be read again."""
    for shard in plan:
        path = join(folder, f"{shard.name}.parquet")
        yield Shard(shard.index, path, 0, _read_counts(folder, shard)["rows"], 0, shard.name)


def vector_width(written: Sequence[Shard]) -> int:
    """Width D of the vectors of committed shards; 0 where there is no shard."""
    return shards.read(written[0], ["vector"]).schema.field("vector").type.list_size if written else 0
