"""The mining job: hard negatives for every pair of a split, found by search and selected by a rule."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from pipeline.core import capacity, ray_session
from pipeline.core.actor_pool import Pool, Worker, stream
from pipeline.core.errors import UserError
from pipeline.core.progress import Progress, say
from pipeline.encoder.cross_encoder import Reranker
from pipeline.encoder.encoder import Role
from pipeline.mining.actors import BuildIndex, EncodeShard, MiningPaths, RerankShard, SearchBlock
from pipeline.mining.config import MineConfig
from pipeline.mining.plan import Plan, SearchModel, describe_model, group_shards, plan_mining, resolve_precision
from pipeline.search.approximate import approximate_recall
from pipeline.storage.artifact import CONFIG, Artifact, Draft, begin, digest
from pipeline.storage.files import filesystem, join, read_json, read_parquet, remove_folder
from pipeline.storage.shards import Shard, spread
from pipeline.storage.vectors import to_matrix

TABLES = ["candidates", "triplets", "tuples"]


def run(config: MineConfig) -> Artifact:
    """Mine negatives into `{run}/negatives`: tables candidates and triplets, one row a pair of the split, in its order,
    and `tuples` with one row a negative, as Sentence Transformers reads them.

    Documents and anchors are encoded once, each anchor is searched once against the whole corpus, a cross-encoder
    scores its candidates where one is named, and the rule selects for each pair. A pair gets what the rule allows, be
    it nothing: never a known positive, never a refused candidate, never a random filler. The result is the same for
    every number of actors and block size.

    Raises UserError on a bad model, missing data, and a finished artifact made of other inputs or settings.
    """
    config.index.check_installed()
    data = Artifact.open(config.data or join(config.run, "data"), "build")
    if not data.has("pairs"):
        raise UserError(f"{data.path}: has no pairs to mine for; it holds {', '.join(data.manifest.tables)}")
    model = describe_model(config.encoder, config.passages)
    inputs = {"data": data.manifest.fingerprint, "encoder": digest(model.identity)}
    cross_encoder = _describe_cross_encoder(config)
    inputs |= {"cross_encoder": digest(cross_encoder)} if cross_encoder else {}
    if config.judge:
        config.judge.generator.check()
        inputs |= {"judge": digest(config.judge.generator.identity())}
    earlier = _open_earlier(config, inputs)
    out = config.out or join(config.run, "negatives")
    draft = begin(out, "mine", config.result_settings(), inputs, overwrite=config.overwrite, resume=True)
    if isinstance(draft, Artifact):
        say(f"mine: {out} is already done: {draft.rows('triplets'):,} triplets")
        return draft
    capacity.start("mine", config, data.rows("pairs") + data.rows("corpus"))
    model = resolve_precision(model)
    plan = plan_mining(config, data, model)
    paths = MiningPaths(
        out=out,
        pairs=data.files("pairs"),
        qrels=data.files("qrels") if data.has("qrels") else [],
        queries=data.files("queries") if data.has("queries") else [],
        corpus=data.files("corpus"),
        vectors=config.cache or join(out, ".work", "vectors"),
        documents=plan.keys["document"],
        passages=plan.keys["passage"],
        anchors={shard.name: key for shard, key in zip(plan.pairs, plan.keys["query"], strict=True)},
        reused=_reused_candidates(earlier, plan),
    )
    notes: dict[str, Any] = {"encoder": model.identity, "search": plan.key}
    if not paths.reused:
        _encode(config, model, paths, plan)
        notes |= _build_indexes(config, paths, plan)
    rerank = config.cross_encoder is not None and not _has_scores(earlier, cross_encoder)
    _search(config, paths, plan, rerank=rerank)
    if cross_encoder:
        notes |= {"cross_encoder": cross_encoder}
    artifact = _finish(draft, config, paths, plan, notes)
    remove_folder(paths.work)
    return artifact


def _describe_cross_encoder(config: MineConfig) -> dict[str, str]:
    """Load the cross-encoder on the driver, where its errors are quick, and return its identity; {} without one."""
    if config.cross_encoder is None:
        return {}
    return Reranker(config.cross_encoder, "cpu").identity | {"top": str(config.cross_encoder.top or "all")}


def _open_earlier(config: MineConfig, inputs: dict[str, str]) -> Artifact | None:
    """Open the artifact whose candidates are to be used again, if the settings name one."""
    if not config.candidates:
        return None
    earlier = Artifact.open(config.candidates, "mine")
    if any(earlier.manifest.inputs.get(name) != inputs[name] for name in ("data", "encoder")):
        raise UserError(f"{earlier.path}: was mined from other data or by another encoder; mine afresh")
    old, new = read_json(join(earlier.path, CONFIG)), config.search_settings()
    changed = [name for name in new if old.get(name) != new[name]]
    if changed:
        raise UserError(
            f"{earlier.path}: was mined with another setting of {', '.join(changed)}; "
            "only rule and cross_encoder can change"
        )
    return earlier


def _reused_candidates(earlier: Artifact | None, plan: Plan) -> str | None:
    if earlier is None:
        return None
    if earlier.manifest.notes.get("search") != plan.key:
        raise UserError(f"{earlier.path}: was mined from other texts or in another precision; mine afresh")
    return join(earlier.path, "candidates")


def _has_scores(earlier: Artifact | None, cross_encoder: dict[str, str]) -> bool:
    """Whether earlier candidates carry the scores of this very cross-encoder."""
    return earlier is not None and earlier.manifest.notes.get("cross_encoder", {}) == cross_encoder


def _encode(config: MineConfig, model: SearchModel, paths: MiningPaths, plan: Plan) -> None:
    """Encode the documents and the anchors that are not encoded yet, in one pool of encoders."""
    cut_keys: Sequence[str | None] = plan.keys["passage"] or [None] * len(plan.documents)
    items: list[tuple[Role, Shard, str, str | None]] = [
        ("document", shard, key, cut_key)
        for shard, key, cut_key in zip(plan.documents, plan.keys["document"], cut_keys, strict=True)
    ]
    items += [("query", shard, key, None) for shard, key in zip(plan.pairs, plan.keys["query"], strict=True)]
    missing = [item for item in items if any(key and paths.encoded(key) is None for key in item[2:])]
    if not missing:
        return
    pool = Pool.plan(config.num_actors, len(missing))
    settings = {"encoder": model.config, "folder": paths.vectors, "split": config.split, "threads": pool.threads}
    settings |= {"passages": config.passages}
    work = [(role, asdict(shard), *keys) for role, shard, *keys in missing]
    with Progress("mine: encode", sum(item[1].rows for item in items), "texts") as progress:
        progress.skip(progress.total - sum(item[1].rows for item in missing))
        for rows in stream(work, EncodeShard, settings, pool):
            progress.add(rows)


def _build_indexes(config: MineConfig, paths: MiningPaths, plan: Plan) -> dict[str, Any]:
    """Build the approximate and the lexical index where the settings have one; return the notes about them."""
    required = ([paths.lexical] if config.lexical else []) + ([paths.index] if config.index.approximate else [])
    missing = [path for path in required if not _exists(path)]
    if missing:
        names = " and ".join({paths.lexical: "lexical", paths.index: "approximate"}[path] for path in missing)
        say(f"mine: builds the {names} index over {sum(shard.rows for shard in plan.documents):,} documents")
        pool = Pool.plan(len(missing), len(missing), on_gpus=False)
        settings = {"paths": paths, "config": config, "threads": pool.threads}
        list(stream(missing, BuildIndex, settings, pool))
    return {"index_recall": _recall(config, paths, plan)} if config.index.approximate else {}


def _exists(path: str) -> bool:
    fs, root = filesystem(path)
    return bool(fs.exists(root))


def _recall(config: MineConfig, paths: MiningPaths, plan: Plan) -> float:
    """Measure which share of the exact nearest the index finds, on evenly spaced anchors."""
    ends = np.cumsum([(paths.encoded(key) or {})["rows"] for key in plan.keys["query"]])
    rows = spread(int(ends[-1]), config.recall_rows)
    parts = []
    for key, first, last in zip(plan.keys["query"], [0, *ends], ends, strict=False):
        if (near := rows[(rows >= first) & (rows < last)]).size:
            table = read_parquet(join(paths.vectors, f"{key}.parquet"), columns=["vector"])
            parts.append(to_matrix(table["vector"])[near - first])
    index = config.index.open(paths.index, ray_session.cpus())
    anchors, passages = np.concatenate(parts), paths.encoded_passages
    if passages is None:
        hits, total = approximate_recall(index, anchors, paths.encoded_corpus, config.top_k)
    else:
        hits, total = passages.recall(index, anchors, config.top_k)
    share = hits / max(1, total)
    say(
        f"mine: the {config.index.type} index finds {share:.4f} of the exact {config.top_k} nearest documents "
        f"of {len(rows)} anchors"
    )
    return round(share, 6)


def _search(config: MineConfig, paths: MiningPaths, plan: Plan, *, rerank: bool) -> None:
    """Search and select for the shards of pairs that are not done, block by block.

    With `rerank`, or where a judge is asked, it takes two passes.
    """
    unfinished = [shard for shard in plan.pairs if paths.mined(shard.name) is None]
    twice = rerank or config.judge is not None
    missing = [shard for shard in unfinished if not (twice and paths.is_searched(shard.name))]
    pool = Pool.plan(config.num_actors, max(1, len(missing)), on_gpus=False)
    rows_per_actor = -(-sum(shard.rows for shard in missing) // pool.size)
    blocks = group_shards(missing, min(config.block_rows, rows_per_actor))
    items = [[asdict(shard) for shard in block] for block in blocks]
    # without the cross-encoder where none follows, so that the search selects itself
    search_config = config if twice else config.model_copy(update={"cross_encoder": None})
    settings: dict[str, Any] = {"paths": paths, "config": search_config, "threads": pool.threads}
    _run("mine: search", plan, missing, items, SearchBlock, settings, pool)
    if twice:
        items_left = max(1, len(unfinished))
        if config.judge and not rerank:
            pool = config.judge.generator.pool(config.num_actors, items_left)
        else:
            pool = Pool.plan(config.num_actors, items_left)
        settings = {"paths": paths, "config": config, "threads": pool.threads}
        settings |= {"cross_encoder": config.cross_encoder if rerank else None}
        _run(
            "mine: rerank" if rerank else "mine: judge",
            plan,
            unfinished,
            [asdict(s) for s in unfinished],
            RerankShard,
            settings,
            pool,
        )


def _run(
    label: str, plan: Plan, missing: list[Shard], items: list[Any], worker: type[Worker], settings: Any, pool: Pool
) -> None:
    if not items:
        return
    with Progress(label, sum(shard.rows for shard in plan.pairs), "pairs") as progress:
        progress.skip(progress.total - sum(shard.rows for shard in missing))
        for rows in stream(items, worker, settings, pool):
            progress.add(rows)


def _finish(draft: Draft, config: MineConfig, paths: MiningPaths, plan: Plan, notes: dict[str, Any]) -> Artifact:
    """Add up the counts of the shards, compare them with their rows, and write the manifest."""
    histogram: Counter[int] = Counter()
    refused: Counter[str] = Counter()
    judged: Counter[str] = Counter()
    without_positive = barred = rows = 0
    for shard in plan.pairs:
        counts = paths.mined(shard.name)
        if counts is None or counts["rows"] + sum(counts["dropped"].values()) != shard.rows:
            raise UserError(f"{paths.out}: shard {shard.name} is missing or damaged; run the same command again")
        draft.drop(counts["dropped"])
        histogram.update({int(number): count for number, count in counts["negatives_per_row"].items()})
        refused.update(counts["refused"])
        judged.update(counts.get("judged", {}))
        without_positive += counts["positive_not_in_corpus"]
        barred += counts["barred"]
        rows += counts["rows"]
    if not paths.reused:
        encoded = [paths.encoded(key) or {} for key in plan.keys["document"]]
        draft.drop({"empty_document": sum(counts["empty"] for counts in encoded)})
    for table in TABLES:
        _remove_other_files(join(paths.out, table), {f"{shard.name}.parquet" for shard in plan.pairs})
    notes |= {
        "negatives_per_row": {str(number): histogram[number] for number in sorted(histogram)},
        "refused": dict(sorted(refused.items())),
        "positive_not_in_corpus": without_positive,
        "barred": barred,
    }
    notes |= {"judged": _judged(config, judged)} if config.judge else {}
    artifact = draft.finish(TABLES, **notes)
    mean = sum(number * count for number, count in histogram.items()) / max(1, rows)
    fewer = sum(count for number, count in histogram.items() if number < config.rule.num_negatives)
    say(
        f"mine: {paths.out}: {rows:,} triplets, {mean:.2f} negatives a row; {fewer:,} rows have fewer than "
        f"{config.rule.num_negatives}, {histogram[0]:,} of them none"
    )
    if config.judge:
        said, tokens = notes["judged"], judged["prompt_tokens"] + judged["answer_tokens"]
        cost = "" if said["cost"] is None else f", cost {said['cost']:,.4f}"
        say(
            f"mine: the judge was asked {judged['requests']:,} times: {judged['yes']:,} yes, {judged['no']:,} no, "
            f"{judged['unclear']:,} neither; {refused['judged_relevant']:,} negatives left out, {tokens:,} tokens{cost}"
        )
    if barred:
        say(f"mine: barred {barred:,} times a document that is the same product as the anchor or a known positive")
    return artifact


def _judged(config: MineConfig, counts: Counter[str]) -> dict[str, Any]:
    """What a judge was asked and answered, by kind of answer, and what it cost."""
    assert config.judge is not None
    cost = config.judge.generator.cost(counts["prompt_tokens"], counts["answer_tokens"])
    return {**dict(sorted(counts.items())), "cost": cost}


def _remove_other_files(folder: str, names: set[str]) -> None:
    """Remove a table's files that are of another plan."""
    fs, root = filesystem(folder)
    for path in fs.glob(join(root, "*.parquet")):
        if path.rsplit("/", 1)[-1] not in names:
            fs.rm(path)
