"""The mining job: hard negatives for every pair of a split, found by exact search and chosen by a rule."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import Field, model_validator

from pipeline import engine, shards
from pipeline.artifact import CONFIG, Artifact, Draft, begin, digest
from pipeline.candidates import Exclude
from pipeline.config import JobConfig
from pipeline.console import Progress, say
from pipeline.embed.job import weighed
from pipeline.encoder import EncoderConfig
from pipeline.errors import UserError
from pipeline.files import filesystem, join, read_json
from pipeline.miners import Rule
from pipeline.mining import EncodeForSearch, MineBlock, Places
from pipeline.pool import Pool, stream
from pipeline.shards import Shard

TABLES = ["candidates", "triplets", "tuples"]


class MineConfig(JobConfig):
    """Settings of the mining job."""

    data: str | None = Field(None, description="artifact of build; default {run}/data")
    out: str | None = Field(None, description="default {run}/negatives")
    encoder: EncoderConfig = Field(default_factory=EncoderConfig, description="the model that searches")
    split: str = Field("train", description="pairs of this split get negatives")
    top_k: int = Field(50, ge=1, description="candidates kept for an anchor")
    rule: Rule = Field(default_factory=Rule, description="which candidates become negatives")
    exclude: Exclude = Field(default_factory=Exclude, description="which documents are no candidates")
    candidates: str | None = Field(
        None, description="finished artifact of mine with the same data and encoder: choose among its candidates again"
    )
    rows_per_shard: int = Field(4096, ge=1, description="rows of one output file, the unit that a restart repeats")
    block_rows: int = Field(
        32768, ge=1, description="pairs searched in one pass over the corpus; speed and memory only"
    )
    num_actors: int | None = Field(None, ge=1, description="default: one a GPU, else one for each four CPUs")

    @model_validator(mode="after")
    def _window_fits(self) -> "MineConfig":
        wanted = self.rule.skip_top + self.rule.num_negatives
        if wanted > self.top_k:
            raise ValueError(f"top_k {self.top_k} is below rule.skip_top + rule.num_negatives = {wanted}; raise top_k")
        return self

    def digested(self) -> dict[str, Any]:
        """Leave out what changes speed and memory only."""
        return {key: value for key, value in super().digested().items() if key not in ("num_actors", "block_rows")}


@dataclass(frozen=True)
class Plan:
    """The shards of documents and of pairs."""

    documents: list[Shard]
    pairs: list[Shard]


def run(config: MineConfig) -> Artifact:
    """Mine negatives into `{run}/negatives`: tables candidates and triplets, one row a pair of the split, in its order,
    and `tuples` with one row a negative, as Sentence Transformers reads them.

    Documents and anchors are encoded once, each anchor is searched once against the whole corpus, and the rule
    chooses for each of its pairs. A pair keeps what the rule allows, be it nothing: never a known positive, never a
    refused candidate, never a random filler. The result is the same for every number of actors and block size.

    Raises UserError on a bad model, missing data, and a finished artifact made of other inputs or settings.
    """
    data = Artifact.open(config.data or join(config.run, "data"), "build")
    if not data.has("pairs"):
        raise UserError(f"{data.path}: has no pairs to mine for; it holds {', '.join(data.manifest.tables)}")
    identity, _ = weighed(config.encoder)
    inputs = {"data": data.manifest.fingerprint, "encoder": digest(identity)}
    reused = _candidates(config, inputs)
    out = config.out or join(config.run, "negatives")
    draft = begin(out, "mine", config.digested(), inputs, overwrite=config.overwrite, keep=True)
    if isinstance(draft, Artifact):
        say(f"mine: {out} is already done: {draft.rows('triplets'):,} triplets")
        return draft
    salt = digest([inputs, config.split])
    plan = Plan(
        shards.plan(data.files("corpus"), config.rows_per_shard, salt),
        shards.plan(data.files("pairs"), config.rows_per_shard, salt),
    )
    places = Places(
        out=out,
        pairs=data.files("pairs"),
        qrels=data.files("qrels") if data.has("qrels") else [],
        corpus=data.files("corpus"),
        vectors=[join(out, ".vectors", "corpus", f"{shard.name}.parquet") for shard in plan.documents],
        reused=reused,
    )
    engine.start()
    if not reused:
        _encode(config, places, plan)
    _search(config, places, plan)
    artifact = _finish(draft, places, plan, identity)
    _clear(join(out, ".vectors"))
    return artifact


def _candidates(config: MineConfig, inputs: dict[str, str]) -> str | None:
    """Return where the candidates lie that are to be used again."""
    if not config.candidates:
        return None
    earlier = Artifact.open(config.candidates, "mine")
    if earlier.manifest.inputs != inputs:
        raise UserError(f"{earlier.path}: was mined from other data or by another encoder; mine afresh")
    old, new = read_json(join(earlier.path, CONFIG)), config.digested()
    changed = [name for name in ("split", "top_k", "exclude", "rows_per_shard") if old.get(name) != new[name]]
    if changed:
        raise UserError(f"{earlier.path}: was mined with another setting of {', '.join(changed)}; only rule can change")
    return join(earlier.path, "candidates")


def _encode(config: MineConfig, places: Places, plan: Plan) -> None:
    """Encode the documents and the anchors that are not encoded yet, in one pool of encoders."""
    items = [("document", shard) for shard in plan.documents] + [("query", shard) for shard in plan.pairs]
    missing = [(role, shard) for role, shard in items if places.encoded(role, shard.name) is None]
    progress = Progress("mine: encode", sum(shard.rows for _, shard in items), "texts")
    progress.skip(progress.total - sum(shard.rows for _, shard in missing))
    if missing:
        pool = Pool.plan(config.num_actors, len(missing))
        settings = {"encoder": config.encoder, "places": places, "split": config.split, "threads": pool.threads}
        for rows in stream([(role, asdict(shard)) for role, shard in missing], EncodeForSearch, settings, pool):
            progress.add(rows)


def _search(config: MineConfig, places: Places, plan: Plan) -> None:
    """Search and choose for the shards of pairs that are not done, block by block."""
    missing = [shard for shard in plan.pairs if places.mined(shard.name) is None]
    progress = Progress("mine: search", sum(shard.rows for shard in plan.pairs), "pairs")
    progress.skip(progress.total - sum(shard.rows for shard in missing))
    if missing:
        pool = Pool.plan(config.num_actors, len(missing), on_gpus=False)
        even = -(-sum(shard.rows for shard in missing) // pool.size)
        settings = {
            "places": places,
            "split": config.split,
            "top_k": config.top_k,
            "rule": config.rule,
            "exclude": config.exclude,
        }
        items = [[asdict(shard) for shard in block] for block in blocks(missing, min(config.block_rows, even))]
        for rows in stream(items, MineBlock, settings, pool):
            progress.add(rows)


def blocks(plan: list[Shard], rows: int) -> Iterator[list[Shard]]:
    """Gather shards that follow each other into blocks of at most `rows` rows, or of one shard."""
    block: list[Shard] = []
    for shard in plan:
        if block and sum(one.rows for one in block) + shard.rows > rows:
            yield block
            block = []
        block.append(shard)
    if block:
        yield block


def _finish(draft: Draft, places: Places, plan: Plan, identity: dict[str, str]) -> Artifact:
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
        held = [places.encoded("document", shard.name) or {} for shard in plan.documents]
        draft.drop({"empty_document": sum(counts["empty"] for counts in held)})
        identity = identity | {"dtype": "+".join(sorted({counts["dtype"] for counts in held}))}
    for table in TABLES:
        shards.sweep(join(places.out, table))
    notes = {
        "encoder": identity,
        "negatives_per_row": {str(number): histogram[number] for number in sorted(histogram)},
        "refused": dict(sorted(refused.items())),
        "positive_not_in_corpus": orphans,
    }
    artifact = draft.finish(TABLES, **notes)
    mean = sum(number * count for number, count in histogram.items()) / max(1, rows)
    say(f"mine: {places.out}: {rows:,} triplets, {mean:.2f} negatives a row, {histogram[0]:,} rows have none")
    return artifact


def _clear(folder: str) -> None:
    fs, root = filesystem(folder)
    if fs.exists(root):
        fs.rm(root, recursive=True)
