"""The generation job: queries of documents, shard by shard, and those of them that find their document again."""

import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core import capacity, tasks
from pipeline.core.actor_pool import Pool, stream
from pipeline.core.errors import UserError
from pipeline.core.progress import Progress, say
from pipeline.embedding.job import EmbedConfig
from pipeline.embedding.job import run as embed
from pipeline.embedding.unique_ids import check_ids
from pipeline.embedding.worker import Committed, read_committed
from pipeline.generation.config import GenerateConfig, RoundTrip
from pipeline.generation.documents import DocumentColumns, DocumentSource
from pipeline.generation.generator import WritingTask
from pipeline.generation.ledger import Ledger
from pipeline.generation.round_trip import SearchTask
from pipeline.generation.worker import ChooseQueries, ChooseTask, GenerateShard, GenerateTask
from pipeline.search import bm25_tasks
from pipeline.search.bm25_index import BM25Index
from pipeline.storage import shards
from pipeline.storage.artifact import Artifact, Draft, begin, digest
from pipeline.storage.files import filesystem, join, remove_folder
from pipeline.storage.fingerprints import fingerprint_files
from pipeline.storage.shards import Shard
from pipeline.text.same_document import text_keys

MAY_CHANGE = ("data", "input", "filter")  # answers of documents that are still there are kept
WORK, IDS = ".work", ".ids"


@dataclass(frozen=True)
class Folders:
    """Where the job writes."""

    out: str

    @property
    def answers(self) -> str:
        """Folder of all queries that were made, by shard."""
        return join(self.out, "answers")

    @property
    def generated(self) -> str:
        """Folder of the queries that stay, by shard."""
        return join(self.out, "generated")

    def work(self, name: str) -> str:
        """A folder of what only this run needs."""
        return join(self.out, WORK, name)


def run(config: GenerateConfig) -> Artifact:
    """Make queries of documents into `{run}/generated`: table `answers`, all that were made, and table `generated`.

    A shard of documents is one file of answers, named after its content and renamed into place when whole. So the same
    command asks only for what is missing: after a kill, after files were added, and where the filter alone has changed.
    Then each query is searched for among all documents, and stays where its own is among the first; one that people
    have asked already, as the queries of `data` say, is left out. The manifest comes last.

    Raises UserError for documents, ids or settings that are wrong, and where a generator does not answer.
    """
    config.generator.check()
    source, folders = DocumentSource.of(config), Folders(config.path)
    inputs = {**source.inputs, "generator": digest(config.generator.identity())}
    inputs |= {"filter": digest(config.filter_settings())}
    draft = begin(
        folders.out, "generate", config.result_settings(), inputs,
        overwrite=config.overwrite, resume=True, may_change=MAY_CHANGE,
    )  # fmt: skip
    if isinstance(draft, Artifact):
        say(f"generate: {folders.out} is already done: {draft.rows('generated'):,} queries")
        return draft
    salt = digest([draft.settings, inputs["generator"]])
    plan = shards.plan(source.files, config.rows_per_shard, salt, fingerprint_files(source.files))
    source.check(plan)
    capacity.start("generate", config, sum(shard.rows for shard in plan))
    check_ids(plan, source.columns.id, join(folders.out, IDS))
    answers = _generate(config, source.columns, plan, folders)
    names = _result_names(plan, inputs)
    _choose(config, source, plan, folders, names, answers)
    return _finish(draft, config, plan, folders, names, answers)


def _generate(config: GenerateConfig, columns: DocumentColumns, plan: Sequence[Shard], folders: Folders) -> Committed:
    """Make the answers that are missing; return the counts of all shards."""
    shards.reuse_outputs(folders.answers, plan)
    committed = read_committed(folders.answers, plan)
    missing = [shard for shard in plan if shard.name not in committed]
    total, left = sum(shard.rows for shard in plan), sum(shard.rows for shard in missing)
    if left < total:
        say(f"generate: resumes after {total - left:,} of {total:,} documents")
    if not missing:
        return committed
    pool = config.generator.pool(config.num_actors, len(missing))
    task = GenerateTask(config.generator, _writing(config, pool), columns, folders.answers)
    with Progress("generate", total, "documents") as progress:
        progress.skip(total - left)
        for counts in stream([asdict(shard) for shard in missing], GenerateShard, {"task": task}, pool):
            committed[counts["name"]] = counts["footer"]
            progress.add(counts["rows"])
    return committed


def _writing(config: GenerateConfig, pool: Pool) -> WritingTask:
    names = ("queries", "answers", "max_document_chars", "max_query_chars", "attempts", "seed")
    return WritingTask(
        prompt=config.full_prompt, threads=pool.threads, **{name: getattr(config, name) for name in names}
    )


def _result_names(plan: Sequence[Shard], inputs: dict[str, str]) -> dict[str, str]:
    """Names of the result of each shard of answers: what stays depends on the filter and on all documents."""
    return {shard.name: f"part-{shard.index:06d}-{digest([shard.name, inputs])[:16]}" for shard in plan}


def _choose(
    config: GenerateConfig,
    source: DocumentSource,
    plan: Sequence[Shard],
    folders: Folders,
    names: dict[str, str],
    answers: Committed,
) -> None:
    """Search for the queries of the shards that are not done, and commit those that stay."""
    missing = [shard for shard in plan if shards.committed(folders.generated, names[shard.name]) is None]
    if not missing:
        return
    search = _search(config, config.round_trip, source, plan, folders) if config.round_trip else None
    task = ChooseTask(folders.answers, folders.generated, search, tasks.put(_known_keys(source.known_queries)))
    blocks = list(_blocks([shard.name for shard in missing], answers, config.block_queries))
    pool = Pool.plan(config.num_actors, len(blocks), on_gpus=search is not None)
    items = [[[name, names[name]] for name in block] for block in blocks]
    with Progress("generate: search", sum(answers[shard.name]["rows"] for shard in missing), "queries") as progress:
        for rows in stream(items, ChooseQueries, {"task": task, "threads": pool.threads}, pool):
            progress.add(rows)


def _blocks(names: Sequence[str], answers: Committed, limit: int) -> Iterator[list[str]]:
    """Shards that follow each other, with at most so many queries together, or one of them."""
    block: list[str] = []
    for name in names:
        if block and sum(answers[other]["rows"] for other in block) + answers[name]["rows"] > limit:
            yield block
            block = []
        block.append(name)
    if block:
        yield block


def _known_keys(files: Sequence[str]) -> Any:
    """Sorted keys [N] of the texts of queries that are there already."""
    keys = [text_keys(table["text"].to_pylist()) for table in shards.read_batches(files, ["text"])]
    return np.unique(np.concatenate([np.empty(0, np.uint64), *keys]))


def _search(
    config: GenerateConfig, round_trip: RoundTrip, source: DocumentSource, plan: Sequence[Shard], folders: Folders
) -> SearchTask:
    """Embed and index the documents, as far as the settings ask for it and it is not done."""
    vectors: list[str] = []
    if "encoder" in round_trip.by:
        vectors = embed(_embedding(config, round_trip, source, folders)).files("vectors")
    index, documents, id_column = "", source.files, source.columns.id
    if "bm25" in round_trip.by:
        text = source.columns.text
        if not all(path.endswith(shards.PARQUET) for path in documents):
            documents, id_column, text = _copied(source.columns, plan, folders.work("documents")), "id", "text"
        index = folders.work(f"bm25-{digest([source.inputs, round_trip.bm25.model_dump()])}")
        if not _is_index(index):
            bm25_tasks.build(documents, index, round_trip.bm25, column=text, label="generate")
    return SearchTask(round_trip, vectors, index, documents, id_column)


def _embedding(config: GenerateConfig, round_trip: RoundTrip, source: DocumentSource, folders: Folders) -> EmbedConfig:
    """Settings of the embedding of the documents."""
    folder = folders.work(f"vectors-{digest(round_trip.encoder.model_dump())}")
    return EmbedConfig(
        run=config.run,
        input=source.files,
        id_column=source.columns.id,
        text_column=source.columns.text,
        encoder=round_trip.encoder,
        out=folder,
        num_actors=config.num_actors,
        gpus=config.gpus,
        in_process_rows=config.in_process_rows,
    )


def _copied(columns: DocumentColumns, plan: Sequence[Shard], folder: str) -> list[str]:
    """Documents of files of text as Parquet, a file a shard, so that every row has its place."""
    missing = [(columns, shard, folder) for shard in plan if shards.committed(folder, shard.name) is None]
    for _ in tasks.results(_copy, missing):
        pass
    return [join(folder, f"{shard.name}.parquet") for shard in plan]


def _copy(columns: DocumentColumns, shard: Shard, folder: str) -> None:
    documents, _, _ = columns.read(shard)
    fields = {name: [getattr(document, name) for document in documents] for name in ("id", "text")}
    shards.commit(folder, shard.name, pa.table(fields, schema=pa.schema([(name, pa.string()) for name in fields])), {})


def _is_index(path: str) -> bool:
    fs, root = filesystem(join(path, BM25Index.HEADER))
    return bool(fs.exists(root))


def _finish(
    draft: Draft,
    config: GenerateConfig,
    plan: Sequence[Shard],
    folders: Folders,
    names: dict[str, str],
    answers: Committed,
) -> Artifact:
    """Balance the books of every shard, remove files of other plans, and write the manifest."""
    books, searched = Ledger(), Counter[str]()
    for shard in plan:
        chosen = shards.committed(folders.generated, names[shard.name])
        footer = answers.get(shard.name)
        if footer is None or chosen is None:
            raise UserError(f"{folders.out}: shard {shard.name} is missing or damaged; run the same command again")
        ledger = Ledger.from_json({name: value for name, value in footer.items() if name != "rows"})
        made = footer["rows"] + ledger.queries_left_out.total()
        remaining = chosen["rows"] + sum(chosen["left_out"].values())
        if (ledger.documents, ledger.made, footer["rows"]) != (shard.rows, made, remaining):
            raise UserError(f"{folders.out}: shard {shard.name} does not add up; give --overwrite")
        books.add(ledger)
        searched.update(chosen["left_out"])
    books.queries_left_out.update(+searched)
    _remove_others(folders.answers, {shard.name for shard in plan})
    _remove_others(folders.generated, set(names.values()))
    remove_folder(join(folders.out, WORK))
    draft.drop(books.documents_left_out)
    draft.drop(books.queries_left_out)
    artifact = draft.finish(["generated", "answers"], **_notes(config, books))
    for line in _report(artifact):
        say(f"generate: {line}")
    return artifact


def _notes(config: GenerateConfig, books: Ledger) -> dict[str, Any]:
    """The notes of the manifest: the generator, both books, requests, tokens and what they cost."""
    notes: dict[str, Any] = {"generator": config.generator.model_dump(mode="json")}
    notes["round_trip"] = config.round_trip.model_dump(mode="json") if config.round_trip else None
    without = books.documents_left_out
    notes["documents"] = {
        "read": books.documents,
        "with_queries": books.documents - without.total(),
        "without_queries": dict(sorted(without.items())),
    }
    left_out = books.queries_left_out
    notes["queries"] = {
        "made": books.made,
        "kept": books.made - left_out.total(),
        "left_out": dict(sorted(left_out.items())),
    }
    notes["answers"] = dict(sorted(books.notes.items()))
    tokens = [books.notes[f"{side}_tokens"] for side in ("prompt", "answer")]
    notes["cost"] = config.generator.cost(*tokens)
    return notes | {"examples": dict(sorted(books.examples.items()))}


def _report(artifact: Artifact) -> Iterator[str]:
    """What was made, what was left out and what it took, a line each."""
    notes = artifact.manifest.notes
    documents, queries, answers = notes["documents"], notes["queries"], notes["answers"]
    yield (
        f"{artifact.path}: {queries['kept']:,} of {queries['made']:,} queries kept, of {documents['with_queries']:,} "
        f"of {documents['read']:,} documents"
    )
    sides = {"documents without queries": documents["without_queries"], "queries left out": queries["left_out"]}
    for noun, reasons in sides.items():
        if reasons:
            yield f"{noun}: " + ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
    malformed = {name.removeprefix("malformed: "): count for name, count in answers.items() if "malformed" in name}
    if malformed:
        counts = ", ".join(f"{count:,} {reason}" for reason, count in malformed.items())
        yield f"malformed answers: {counts}; {answers.get('answers_asked_again', 0):,} documents asked again"
    if requests := answers.get("requests"):
        cost = "" if notes["cost"] is None else f", cost {notes['cost']:,.4f}"
        yield (
            f"{requests:,} requests, {answers.get('retries', 0):,} retries, {answers.get('prompt_tokens', 0):,} tokens "
            f"of prompts and {answers.get('answer_tokens', 0):,} of answers{cost}"
        )


def _remove_others(folder: str, names: set[str]) -> None:
    """Remove a table's files that are of another plan, and what killed writers left."""
    fs, root = filesystem(folder)
    for path in fs.ls(root, detail=False) if fs.exists(root) else []:
        if posixpath.basename(path).removesuffix(".parquet") not in names:
            fs.rm(path)
