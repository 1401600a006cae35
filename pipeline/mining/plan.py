"""The plan of a mining: the model with its precision resolved, the shards, and the keys of their vectors."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from pipeline.core import ray_session, schema
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.encoder.passages import PassageCutter, PassagesConfig
from pipeline.encoder.precision import compute_dtype
from pipeline.mining.actors import document_columns
from pipeline.mining.config import MineConfig
from pipeline.mining.vector_cache import content_keys, search_key, vector_key
from pipeline.storage import shards
from pipeline.storage.artifact import Artifact, digest
from pipeline.storage.shards import Shard


@dataclass(frozen=True)
class SearchModel:
    """The encoder of a mining: its settings, its identity, and its prompts by role."""

    config: EncoderConfig
    identity: dict[str, str]
    prompts: dict[str, str]


@dataclass(frozen=True)
class Plan:
    """The shards of documents and of pairs, the keys of their vectors, and the key of the search.

    `keys` are by role, those of passages under `passage`; these are empty where documents are searched whole.
    """

    documents: list[Shard]
    pairs: list[Shard]
    keys: dict[str, list[str]]  # "document" in the order of documents, "query" in the order of pairs
    key: str


def describe_model(config: EncoderConfig, passages: PassagesConfig | None = None) -> SearchModel:
    """Load a model on the driver, where its errors are quick and plain, and describe it without its precision.

    Raises UserError where it cannot make such passages.
    """
    encoder = Encoder.load(config, "cpu")
    if passages:
        PassageCutter(encoder, passages)
    identity = {name: value for name, value in encoder.identity.items() if name != "dtype"}
    return SearchModel(config, identity, encoder.prompts)


def resolve_precision(model: SearchModel) -> SearchModel:
    """Resolve `auto` to one precision for all actors of the cluster, so that no two compute other vectors."""
    name: str = model.config.dtype
    if name == "auto":
        name = "bfloat16" if ray_session.gpus() else str(compute_dtype("auto", "cpu")).removeprefix("torch.")
    return SearchModel(model.config.model_copy(update={"dtype": name}), model.identity | {"dtype": name}, model.prompts)


def plan_mining(config: MineConfig, data: Artifact, model: SearchModel) -> Plan:
    """Cut the corpus and the pairs into shards, keyed by all that decides their vectors and candidates."""
    files = {"corpus": data.files("corpus"), "pairs": data.files("pairs")}
    files |= {name: data.files(name) for name in ("qrels", "queries") if data.has(name)}
    cut = {table: shards.plan(names, config.rows_per_shard, table) for table, names in files.items()}
    contents = {
        "document": content_keys(cut["corpus"], document_columns(files["corpus"][0])),
        "query": content_keys(cut["pairs"], ["anchor_id", "anchor", "split"]),
    }
    identity = model.identity | {"backend": model.config.backend}
    keys = {
        role: [vector_key(identity, model.prompts[role], f"{role} {config.split}", content) for content in of_shards]
        for role, of_shards in contents.items()
    }
    cut_as = config.passages.model_dump() if config.passages else None
    keys["passage"] = [digest([key, cut_as]) for key in keys["document"]] if cut_as else []
    pairs = content_keys(cut["pairs"], schema.TABLES["pairs"].names)
    judgments = content_keys(cut.get("qrels", []), ["query_id", "doc_id", "relevance"])
    judgments += content_keys(cut.get("queries", []), ["query_id", "text"])
    key = search_key([*keys["document"], *keys["query"]], config.search_settings(), digest([pairs, judgments]))
    keyed = [replace(shard, name=f"part-{shard.index:06d}-{digest([key, shard.index])[:8]}") for shard in cut["pairs"]]
    return Plan(cut["corpus"], keyed, keys, key)


def group_shards(plan: list[Shard], rows: int) -> Iterator[list[Shard]]:
    """Group shards that follow each other into blocks of at most `rows` rows, or of one shard."""
    block: list[Shard] = []
    for shard in plan:
        if block and sum(member.rows for member in block) + shard.rows > rows:
            yield block
            block = []
        block.append(shard)
    if block:
        yield block
