"""The mining job: hard negatives for every pair of a split, found by search and chosen by a rule."""

from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np

from pipeline.core import ray_session
from pipeline.core.actor_pool import Pool, Worker, stream
from pipeline.core.errors import UserError
from pipeline.core.progress import Progress, say
from pipeline.mining.actors import EncodeForSearch, MineBlock, Places, Prepare, ScoreShard
from pipeline.mining.config import MineConfig
from pipeline.mining.plan import Model, Plan, blocks, describe, draw, settle
from pipeline.mining.reranker import Reranker
from pipeline.search.approximate import approximate_recall
from pipeline.storage import shards
from pipeline.storage.artifact import CONFIG, Artifact, Draft, begin, digest
from pipeline.storage.files import filesystem, join, read_json, read_parquet
from pipeline.storage.shards import Shard
from pipeline.storage.vectors import as_matrix

TABLES = ["candidates", "triplets", "tuples"]


def run(config: MineConfig) -> Artifact:
    """Mine negatives into `{run}/negatives`: tables candidates and triplets, one row a pair of the split, in its order,
    and `tuples` with one row a negative, as Sentence Transformers reads them.

    Documents and anchors are encoded once, each anchor is searched once against the whole corpus, a reranker reads
    what was found where one is named, and the rule chooses for each pair. A pair keeps what the rule allows, be it
    nothing: never a known positive, never a refused candidate, never a random filler. The result is the same for every
    number of actors and block size.

    Raises UserError on a bad model, missing data, and a finished artifact made of other inputs or settings.
    """
    config.index.check_installed()
    data = Artifact.open(config.data or join(config.run, "data"), "build")
    if not data.has("pairs"):
        raise UserError(f"{data.path}: has no pairs to mine for; it holds {', '.join(data.manifest.tables)}")
    model = describe(config.encoder)
    inputs = {"data": data.manifest.fingerprint, "encoder": digest(model.identity)}
    reranker = _reranker(config)
    inputs |= {"cross": digest(reranker)} if reranker else {}
    earlier = _earlier(config, inputs)
    out = config.out or join(config.run, "negatives")
    draft = begin(out, "mine", config.result_settings(), inputs, overwrite=config.overwrite, keep=True)
    if isinstance(draft, Artifact):
        say(f"mine: {out} is already done: {draft.rows('triplets'):,} triplets")
        return draft
    ray_session.start()
    model = settle(model)
    plan = draw(config, data, model)
    places = Places(
        out=out,
        pairs=data.files("pairs"),
        qrels=data.files("qrels") if data.has("qrels") else [],
        corpus=data.files("corpus"),
        vectors=config.cache or join(out, ".work", "vectors"),
        documents=plan.keys["document"],
        anchors={shard.name: key for shard, key in zip(plan.pairs, plan.keys["query"], strict=True)},
        reused=_reused(earlier, plan),
    )
    notes: dict[str, Any] = {"encoder": model.identity, "search": plan.key}
    if not places.reused:
        _encode(config, model, places, plan)
        notes |= _prepare(config, places, plan)
    _search(config, places, plan, score=config.cross is not None and not _scored(earlier, reranker))
    if reranker:
        notes |= {"cross": reranker}
    artifact = _finish(draft, config, places, plan, notes)
    _clear(places.work)
    return artifact


def _reranker(config: MineConfig) -> dict[str, str]:
    """Load the reranker on the driver for the same reason, and describe it; {} where there is none."""
    return {} if config.cross is None else Reranker(config.cross, "cpu").identity


def _earlier(config: MineConfig, inputs: dict[str, str]) -> Artifact | None:
    """Open the artifact whose candidates are to be used again."""
    if not config.candidates:
        return None
    earlier = Artifact.open(config.candidates, "mine")
    if any(earlier.manifest.inputs.get(name) != inputs[name] for name in ("data", "encoder")):
        raise UserError(f"{earlier.path}: was mined from other data or by another encoder; mine afresh")
    old, new = read_json(join(earlier.path, CONFIG)), config.searching()
    changed = [name for name in new if old.get(name) != new[name]]
    if changed:
        raise UserError(
            f"{earlier.path}: was mined with another setting of {', '.join(changed)}; only rule and cross can change"
        )
    return earlier


def _reused(earlier: Artifact | None, plan: Plan) -> str | None:
    if earlier is None:
        return None
    if earlier.manifest.notes.get("search") != plan.key:
        raise UserError(f"{earlier.path}: was mined from other texts or in another precision; mine afresh")
    return join(earlier.path, "candidates")


def _scored(earlier: Artifact | None, reranker: dict[str, str]) -> bool:
    """Whether earlier candidates carry the scores of this very reranker."""
    return earlier is not None and earlier.manifest.notes.get("cross", {}) == reranker


def _encode(config: MineConfig, model: Model, places: Places, plan: Plan) -> None:
    """Encode the documents and the anchors that are not encoded yet, in one pool of encoders."""
    items = [
        (role, shard, key)
        for role, cut in (("document", plan.documents), ("query", plan.pairs))
        for shard, key in zip(cut, plan.keys[role], strict=True)
    ]
    missing = [item for item in items if places.encoded(item[2]) is None]
    progress = Progress("mine: encode", sum(shard.rows for _, shard, _ in items), "texts")
    progress.skip(progress.total - sum(shard.rows for _, shard, _ in missing))
    if missing:
        pool = Pool.plan(config.num_actors, len(missing))
        settings = {
            "encoder": model.config,
            "folder": places.vectors,
            "split": config.split,
            "threads": pool.threads,
        }
        for rows in stream([(role, asdict(s), key) for role, s, key in missing], EncodeForSearch, settings, pool):
            progress.add(rows)


def _prepare(config: MineConfig, places: Places, plan: Plan) -> dict[str, Any]:
    """Build the index and the words where they are asked for; return what to note of them."""
    fs, root = filesystem(places.work)
    wanted = ["words"] if config.lexical else []
    wanted += ["index"] if config.index.approximate else []
    missing = [name for name in wanted if not fs.exists(join(root, name))]
    if missing:
        say(f"mine: builds {' and '.join(missing)} over {sum(shard.rows for shard in plan.documents):,} documents")
        pool = Pool.plan(len(missing), len(missing), on_gpus=False)
        settings = {"places": places, "config": config, "threads": pool.threads}
        list(stream(missing, Prepare, settings, pool))
    return {"index_recall": _recall(config, places, plan)} if config.index.approximate else {}


def _recall(config: MineConfig, places: Places, plan: Plan) -> float:
    """Measure what the index finds of the exact nearest, on evenly spaced anchors."""
    ends = np.cumsum([(places.encoded(key) or {})["rows"] for key in plan.keys["query"]])
    rows = np.unique(np.linspace(0, ends[-1] - 1, min(config.recall_rows, int(ends[-1]))).astype(np.int64))
    parts = []
    for key, first, last in zip(plan.keys["query"], [0, *ends], ends, strict=False):
        if (near := rows[(rows >= first) & (rows < last)]).size:
            held = read_parquet(join(places.vectors, f"{key}.parquet"), columns=["vector"])
            parts.append(as_matrix(held["vector"])[near - first])
    opened = config.index.open(join(places.work, "index"), ray_session.cpus())
    hit, there = approximate_recall(opened, np.concatenate(parts), places.encoded_corpus, config.top_k)
    share = hit / max(1, there)
    say(f"mine: the {config.index.type} index finds {share:.4f} of the exact {config.top_k} nearest, {len(rows)} asked")
    return round(share, 6)


def _search(config: MineConfig, places: Places, plan: Plan, *, score: bool) -> None:
    """Search and choose for the shards of pairs that are not done, block by block; with `score` a reranker between."""
    open_ = [shard for shard in plan.pairs if places.mined(shard.name) is None]
    blockwise = replace_cross(config, score)
    missing = [shard for shard in open_ if not (score and places.found(shard.name))]
    pool = Pool.plan(config.num_actors, max(1, len(missing)), on_gpus=False)
    even = -(-sum(shard.rows for shard in missing) // pool.size)
    items = [[asdict(shard) for shard in block] for block in blocks(missing, min(config.block_rows, even))]
    settings = {"places": places, "config": blockwise, "threads": pool.threads}
    _work("mine: search", plan, missing, items, MineBlock, settings, pool)
    if score:
        pool = Pool.plan(config.num_actors, max(1, len(open_)))
        settings = {"places": places, "config": config, "cross": config.cross, "threads": pool.threads}
        _work("mine: rerank", plan, open_, [asdict(shard) for shard in open_], ScoreShard, settings, pool)


def replace_cross(config: MineConfig, score: bool) -> MineConfig:
    """Settings of the search: without the reranker where none follows, so that the search chooses itself."""
    return config if score else config.model_copy(update={"cross": None})


def _work(
    label: str, plan: Plan, missing: list[Shard], items: list[Any], worker: type[Worker], settings: Any, pool: Pool
) -> None:
    progress = Progress(label, sum(shard.rows for shard in plan.pairs), "pairs")
    progress.skip(progress.total - sum(shard.rows for shard in missing))
    if items:
        for rows in stream(items, worker, settings, pool):
            progress.add(rows)


def _finish(draft: Draft, config: MineConfig, places: Places, plan: Plan, notes: dict[str, Any]) -> Artifact:
    """Sum what the shards counted, compare it with their rows, and write the manifest."""
    histogram: Counter[int] = Counter()
    refused: Counter[str] = Counter()
    orphans = rows = 0
    for shard in plan.pairs:
        counts = places.mined(shard.name)
        if counts is None or counts["rows"] + sum(counts["dropped"].values()) != shard.rows:
            raise UserError(f"{places.out}: shard {shard.name} is missing or damaged; run the same command again")
        draft.drop(counts["dropped"])
        histogram.update({int(number): count for number, count in counts["negatives_per_row"].items()})
        refused.update(counts["refused"])
        orphans, rows = orphans + counts["positive_not_in_corpus"], rows + counts["rows"]
    if not places.reused:
        held = [places.encoded(key) or {} for key in plan.keys["document"]]
        draft.drop({"empty_document": sum(counts["empty"] for counts in held)})
    for table in TABLES:
        shards.sweep(join(places.out, table))
        _keep(join(places.out, table), {f"{shard.name}.parquet" for shard in plan.pairs})
    notes |= {
        "negatives_per_row": {str(number): histogram[number] for number in sorted(histogram)},
        "refused": dict(sorted(refused.items())),
        "positive_not_in_corpus": orphans,
    }
    artifact = draft.finish(TABLES, **notes)
    mean = sum(number * count for number, count in histogram.items()) / max(1, rows)
    fewer = sum(count for number, count in histogram.items() if number < config.rule.num_negatives)
    say(
        f"mine: {places.out}: {rows:,} triplets, {mean:.2f} negatives a row; {fewer:,} rows have fewer than "
        f"{config.rule.num_negatives}, {histogram[0]:,} of them none"
    )
    return artifact


def _keep(folder: str, names: set[str]) -> None:
    """Remove files of a table that are of another plan."""
    fs, root = filesystem(folder)
    for path in fs.glob(join(root, "*.parquet")):
        if path.rsplit("/", 1)[-1] not in names:
            fs.rm(path)


def _clear(folder: str) -> None:
    fs, root = filesystem(folder)
    if fs.exists(root):
        fs.rm(root, recursive=True)
