"""What a mining will do: the model with its precision settled, the shards, and the keys of all that is made of them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from pipeline.core import ray_session, schema
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.encoder.precision import compute_dtype
from pipeline.mining.actors import DOCUMENT
from pipeline.mining.config import MineConfig
from pipeline.mining.vector_cache import contents, search_key, vector_key
from pipeline.storage import shards
from pipeline.storage.artifact import Artifact, digest
from pipeline.storage.shards import Shard


@dataclass(frozen=True)
class Model:
    """The encoder of a run: its settings with the precision settled, what it is, and its prompts."""

    config: EncoderConfig
    identity: dict[str, str]
    prompts: dict[str, str]


@dataclass(frozen=True)
class Plan:
    """The shards of documents and of pairs, the keys of their vectors in the same order, and the search's key."""

    documents: list[Shard]
    pairs: list[Shard]
    keys: dict[str, list[str]]
    key: str


def describe(config: EncoderConfig) -> Model:
    """Load a model on the driver, where its errors are quick and plain, and describe it without its precision."""
    encoder = Encoder.load(config, "cpu")
    identity = {name: value for name, value in encoder.identity.items() if name != "dtype"}
    return Model(config, identity, encoder.prompts)


def settle(model: Model) -> Model:
    """Settle one precision for all actors: what `auto` means on the cluster, so that no two make other vectors."""
    name: str = model.config.dtype
    if name == "auto":
        name = "bfloat16" if ray_session.gpus() else str(compute_dtype("auto", "cpu")).removeprefix("torch.")
    return Model(model.config.model_copy(update={"dtype": name}), model.identity | {"dtype": name}, model.prompts)


def draw(config: MineConfig, data: Artifact, model: Model) -> Plan:
    """Cut the corpus and the pairs into shards and key them by all that decides what is made of them."""
    files = {"corpus": data.files("corpus"), "pairs": data.files("pairs")}
    if data.has("qrels"):
        files["qrels"] = data.files("qrels")
    cut = {table: shards.plan(names, config.rows_per_shard, table) for table, names in files.items()}
    held = {
        "document": contents(cut["corpus"], DOCUMENT),
        "query": contents(cut["pairs"], ["anchor_id", "anchor", "split"]),
    }
    described = model.identity | {"backend": model.config.backend}
    keys = {
        role: [vector_key(described, model.prompts[role], f"{role} {config.split}", one) for one in found]
        for role, found in held.items()
    }
    pairs = contents(cut["pairs"], schema.TABLES["pairs"].names)
    judged = contents(cut.get("qrels", []), ["query_id", "doc_id", "relevance"])
    key = search_key([*keys["document"], *keys["query"]], config.searching(), digest([pairs, judged]))
    named = [replace(shard, name=f"part-{shard.index:06d}-{digest([key, shard.index])[:8]}") for shard in cut["pairs"]]
    return Plan(cut["corpus"], named, keys, key)


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
