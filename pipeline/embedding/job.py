"""The embedding job: embed a corpus or files of texts into shards of vectors, as far as they are missing."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field, model_validator

from pipeline.core import capacity
from pipeline.core.config import EncodingJobConfig, without_batch_sizes
from pipeline.core.errors import UserError
from pipeline.core.progress import say
from pipeline.core.schema import PASSAGE
from pipeline.embedding.passage_count import measure
from pipeline.embedding.rehearsal import rehearse
from pipeline.embedding.unique_ids import check_ids
from pipeline.embedding.worker import Committed, EmbedTask, calibrate, encode, read_committed
from pipeline.encoder.encoder import Encoder, EncoderConfig, Role
from pipeline.encoder.passages import PassageCutter, PassagesConfig
from pipeline.encoder.truncation import SAMPLE, Truncation
from pipeline.storage import shards
from pipeline.storage.artifact import Artifact, Draft, begin, digest
from pipeline.storage.files import filesystem, join, read_json, write_json
from pipeline.storage.fingerprints import fingerprint_files
from pipeline.storage.shards import Shard
from pipeline.storage.vectors import Dtype, Ranges, VectorFormat, check_formats, rows_with_text

TABLES: dict[str, tuple[str, str]] = {"document": ("corpus", "doc_id"), "query": ("queries", "query_id")}
SPEED = frozenset({"num_actors", "max_actors", "threads"})  # settings that change no vector
MAY_CHANGE = ("data", "input")  # inputs that may change: vectors of the same model are kept
CALIBRATION, IDS = "calibration.json", ".ids"
RUNTIME_PAYS_FROM = 2048  # texts; below, compiling a faster runtime takes longer than it saves


class EmbedConfig(EncodingJobConfig):
    """Embed a corpus, its queries or any files of texts into shards of vectors; only what is missing is embedded."""

    common_settings = (
        "run",
        "encoder.model",
        "role",
        "input",
        "id_column",
        "text_column",
        "columns",
        "dtype",
        "dim",
        "passages",
    )
    computed_defaults: ClassVar[dict[str, str]] = {"encoder.model": "{run}/model"}
    documentation = "pipeline/README.md"

    data: str | None = Field(None, description="artifact of build; default {run}/data")
    input: str | list[str] | None = Field(
        None, description="instead of data: Parquet, JSON lines, CSV, TSV or text; files, directories or globs"
    )
    id_column: str | None = Field(None, description="default: doc_id or query_id of data, 'id' of an input")
    text_column: str = Field("text", description="column with the text that is embedded")
    columns: list[str] = Field([], description="further columns of the input, copied beside the vectors")
    encoder: EncoderConfig | None = Field(None, description="default: the model in {run}/model")
    role: Role = Field("document", description="document embeds the corpus, query embeds the queries")
    out: str | None = Field(None, description="default {run}/vectors")
    dtype: Dtype = Field("float32", description="numbers of the column `vector`; binary: signs, eight a byte")
    dim: int | None = Field(None, ge=1, description="leading dimensions of it, for Matryoshka models; default: all")
    extra_formats: list[VectorFormat] = Field(
        [], description="further columns of vectors from the same pass, such as {dtype: int8, dim: 128}"
    )
    calibration: str | None = Field(
        None, description="calibration.json of another artifact, for queries in the int8 of their corpus"
    )
    calibration_rows: int = Field(1024, ge=1, description="texts that int8 is calibrated on where none is given")
    incremental: bool = Field(False, description="keep a hash of each text: after changes embed only new texts")
    passages: PassagesConfig | None = Field(
        None, description="cut documents into passages, a row of vectors each, such as {tokens: 128}; default: not"
    )
    rows_per_shard: int = Field(4096, ge=1, description="texts of one output file, the unit that a restart repeats")
    max_actors: int | None = Field(None, ge=1, description="actors to grow to where the cluster does")
    threads: int | None = Field(None, ge=1, description="threads of an actor; default: its share of the CPUs")

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
        if self.passages and self.role == "query":
            raise ValueError("passages are cut from documents; leave them out for role query")
        return self

    @property
    def wants_cluster(self) -> bool:
        """More than one actor is asked for, now or later, or GPUs."""
        return super().wants_cluster or (self.max_actors or 1) > 1

    @property
    def formats(self) -> tuple[VectorFormat, ...]:
        """The columns of vectors, `vector` first."""
        return (VectorFormat(dtype=self.dtype, dim=self.dim), *self.extra_formats)

    def result_settings(self) -> dict[str, Any]:
        """Leave out actors and batch sizes, which change no vector, and the input files, which may change."""
        excluded = SPEED | {"input", "data"}
        return without_batch_sizes(
            {key: value for key, value in super().result_settings().items() if key not in excluded}
        )


def run(config: EmbedConfig) -> Artifact:
    """Embed every text of the input into `{run}/vectors`: table vectors (id, vector [D], other formats, columns).

    One output file a shard of the input, named after the content it was made of and renamed into place when whole. So
    the same command does only what is missing, after a kill and after files were added, and leaves out what is gone.
    The manifest comes last, after rows and ids were counted again.

    Raises UserError on a bad model, a bad input, ids that are missing or twice, and a finished artifact made by
    another model or with other settings.
    """
    inputs, files, id_column = _source(config)
    encoder = config.encoder or EncoderConfig.model_validate({"model": join(config.run, "model")})
    model = Encoder.load(encoder, "cpu")  # on the driver, where errors show early
    identity, dim = model_identity(model), model.dim
    check_formats(config.formats, dim, config.columns, PASSAGE.names if config.passages else ())
    if config.passages:
        PassageCutter(model, config.passages)
    out = config.out or join(config.run, "vectors")
    source = {**inputs, "encoder": digest(identity)}
    draft = begin(
        out, "embed", config.result_settings(), source, overwrite=config.overwrite, resume=True, may_change=MAY_CHANGE
    )
    if isinstance(draft, Artifact):
        say(f"embed: {out} is already done: {draft.rows('vectors'):,} vectors")
        return draft
    salt = digest([draft.settings, source["encoder"]])
    plan = shards.plan(files, config.rows_per_shard, salt, fingerprint_files(files))
    _check_columns(plan, config, id_column)
    capacity.start("embed", config, sum(shard.rows for shard in plan))
    check_ids(plan, id_column, join(out, IDS))
    folder = join(out, "vectors")
    task = EmbedTask(
        encoder=encoder,
        role=config.role,
        id_column=id_column,
        text_column=config.text_column,
        extra_columns=tuple(config.columns),
        folder=folder,
        formats=config.formats,
        incremental=config.incremental,
        passages=config.passages,
        fast=sum(shard.rows for shard in plan) >= RUNTIME_PAYS_FROM,
    )
    stale = shards.reuse_outputs(folder, plan)
    committed = read_committed(folder, plan)
    ranges = _ranges(config, task, plan, out, dim)
    texts = _sample(task, plan)
    cut = Truncation.measure(model, texts, task.role) if task.passages is None else measure(model, texts, task.passages)
    missing = sum(shard.rows for shard in plan if shard.name not in committed)
    rehearse(task, model, ranges, round(missing * cut.rows_a_text), out)
    say(f"embed: {cut.sentence()}")
    pools = {name: getattr(config, name) for name in SPEED}
    committed = encode(plan, task, ranges, stale, pools, cut.brief(), committed)
    return _finish(draft, plan, task, identity, dim, ranges, cut.notes(), committed)


def _source(config: EmbedConfig) -> tuple[dict[str, str], list[str], str]:
    """Return the inputs to record, the files and the id column."""
    if config.input:
        paths = [config.input] if isinstance(config.input, str) else config.input
        files = list(dict.fromkeys(file for path in paths for file in shards.find_files(path)))
        return {"input": shards.fingerprint(files)}, files, config.id_column or "id"
    table, id_column = TABLES[config.role]
    data = Artifact.open(config.data or join(config.run, "data"), "build")
    return {"data": data.manifest.fingerprint}, data.files(table), config.id_column or id_column


def model_identity(model: Encoder) -> dict[str, str]:
    """Identity of a model without its precision: that depends on the hardware of the actors, which record it."""
    return {name: value for name, value in model.identity.items() if name != "dtype"}


def _check_columns(plan: Sequence[Shard], config: EmbedConfig, id_column: str) -> None:
    """Raise UserError for files that lack a column, or whose extra columns differ in type from the first file's."""
    names = list(dict.fromkeys([id_column, config.text_column, *config.columns]))
    first: pa.Schema | None = None
    for shard in plan:
        if shard.start == 0:
            head = shards.head(shard, names)
            rows_with_text(head, shard.path, id_column, config.text_column)
            kinds = head.select(config.columns).schema
            first = first or kinds
            if shard.path.endswith(shards.PARQUET) and not kinds.equals(first):
                raise UserError(f"{shard.path}: columns {kinds.to_string(show_schema_metadata=False)} differ in type")


def _sample(task: EmbedTask, plan: Sequence[Shard]) -> list[str]:
    """Texts on which it is measured what is cut off them, or how many passages they have."""
    columns = list(dict.fromkeys([task.id_column, task.text_column]))
    tables = shards.sample(plan, columns, SAMPLE)
    return [
        text
        for table in tables
        for text in rows_with_text(table, task.folder, task.id_column, task.text_column)["text"].to_pylist()
    ]


def _ranges(config: EmbedConfig, task: EmbedTask, plan: Sequence[Shard], out: str, dim: int) -> Ranges:
    """Return the calibration of int8: from the recipe, from an earlier run, or measured now and saved."""
    widths = {str(form.dim or dim) for form in config.formats if form.dtype == "int8"}
    path = join(out, CALIBRATION)
    fs, root = filesystem(path)
    earlier = path if fs.exists(root) else None
    if (source := config.calibration or earlier) is not None:
        ranges: Ranges = read_json(source)["ranges"]
        if missing := widths - set(ranges):
            raise UserError(f"{source}: has no calibration for {', '.join(sorted(missing))} dimensions")
    else:
        ranges = calibrate(task, plan, config.calibration_rows)
    if ranges and not earlier:
        write_json(path, {"ranges": ranges, "rows": None if config.calibration else config.calibration_rows})
    return ranges


def _counts(folder: str, shard: Shard, committed: Committed) -> dict[str, Any]:
    counts = committed.get(shard.name)
    if counts is None:
        raise UserError(f"{folder}: shard {shard.name} is missing or damaged; run the same command again")
    return counts


def _finish(
    draft: Draft,
    plan: list[Shard],
    task: EmbedTask,
    identity: dict[str, str],
    dim: int,
    ranges: Ranges,
    cut: dict[str, Any],
    committed: Committed,
) -> Artifact:
    """Check the rows and ids, remove files that are not of this plan, then write the manifest."""
    folder, dtypes, copied, documents = task.folder, set(), 0, 0
    for shard in plan:
        counts = _counts(folder, shard, committed)
        embedded = counts.get("documents", counts["rows"])
        if embedded + counts["left_out"] != shard.rows:
            raise UserError(f"{folder}: shard {shard.name} lacks rows of {shard.path}; give --overwrite")
        empty = counts["left_out"] - counts["unreadable"]
        draft.drop({"empty_text": empty, "unreadable_row": counts["unreadable"]})
        dtypes.add(counts["dtype"])
        copied += counts["copied"]
        documents += embedded
    _remove([*shards.reuse_outputs(folder, plan), *shards.unfinished_outputs(folder)])
    written = list(written_vectors(plan, folder, committed))
    check_ids(written, "id", join(draft.path, IDS), PASSAGE.names[1] if task.passages else None)
    first = task.formats[0]
    notes: dict[str, Any] = {"encoder": identity | {"dtype": "+".join(sorted(dtypes))}}
    notes |= {"dim": first.dim or dim, "dtype": first.dtype}
    described = [{"column": "vector", **first.model_dump()}] + [
        {"column": form.name, **form.model_dump()} for form in task.formats[1:]
    ]
    notes |= {
        "model": task.encoder.model_dump(mode="json"),
        "role": task.role,
        "formats": described,
        "columns": list(task.extra_columns),
        **cut,
    }
    notes |= {"calibration": ranges} if ranges else {}
    notes |= {"documents": documents} if task.passages else {}
    artifact = draft.finish(["vectors"], **notes, copied=copied)
    if artifact.rows("vectors") != sum(shard.rows for shard in written):
        raise UserError(f"{folder}: holds files of other work; give --overwrite")
    _report(artifact, copied)
    return artifact


def _report(artifact: Artifact, copied: int) -> None:
    notes, dropped = artifact.manifest.notes, artifact.manifest.dropped
    left = "".join(f", {count:,} left out ({reason})" for reason, count in dropped.items())
    left += f", {copied:,} copied of texts embedded before" if copied else ""
    of_documents = f" of passages of {notes['documents']:,} documents" if "documents" in notes else ""
    size = f"{notes['dim']} {notes['dtype']}"
    say(f"embed: {artifact.path}: {artifact.rows('vectors'):,} vectors of {size}{of_documents}{left}")


def _remove(paths: Sequence[str]) -> None:
    for path in paths:
        fs, root = filesystem(path)
        fs.rm(root)


def written_vectors(plan: Sequence[Shard], folder: str, committed: Committed) -> Iterator[Shard]:
    """Yield the output files of a plan, as shards that can be read."""
    for shard in plan:
        path = join(folder, f"{shard.name}.parquet")
        yield Shard(shard.index, path, 0, _counts(folder, shard, committed)["rows"], 0, shard.name)
