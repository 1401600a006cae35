"""Training rows of a run, read from the artifacts of build and mine."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import UserError
from pipeline.core.progress import say
from pipeline.core.schema import TABLES
from pipeline.storage.artifact import Artifact
from pipeline.text.normalize import stable_id
from training.data import guide_vectors
from training.data.rows import Rows, rows_from

Kind = Literal["pairs", "triplets", "mined", "judged", "labelled"]
RIGHT = 0.5  # from this score on the document of a labelled pair is relevant


def read_table(kinds: list[Kind], data: Artifact, negatives: Artifact | None) -> pa.Table:
    """Concatenate the training split of the named tables as triplets, with the scores that graded losses need.

    Pairs have no negatives. Mined rows bring the miner's scores (`teacher` of the positive, `score` of negatives);
    judged ones are a query with all its judged documents, the best as positive, and their `grades`; labelled ones have
    their score as relevance, and say with `right` whether their document is relevant at all.
    """
    parts = []
    for kind in kinds:
        if kind == "mined" and negatives is None:
            raise UserError("rows: 'mined' needs mined negatives; run `tripletail mine` first")
        table = READERS[kind](negatives if kind == "mined" and negatives else data)
        table = table.append_column("table", pa.array([kind] * len(table), pa.string()))
        table = table.append_column("table_row", pa.array(range(len(table)), pa.int64()))
        parts.append(table.filter(pc.equal(table["split"], "train")))
    table = pa.concat_tables(parts, promote_options="default")
    if not len(table):
        raise UserError(f"{data.path}: no training rows in {', '.join(kinds)}")
    return table


def read_sources(kinds: Sequence[Kind], data: Artifact, negatives: Artifact | None) -> dict[str, set[str]]:
    """Sources of the training split by kind of rows."""
    sources: dict[str, set[str]] = {}
    for kind in kinds:
        artifact = negatives if kind == "mined" and negatives else data
        table = artifact.read({"mined": "triplets", "judged": "queries"}.get(kind, kind), ["source", "split"])
        sources[kind] = set(pc.unique(table.filter(pc.equal(table["split"], "train"))["source"]).to_pylist())
    return sources


def as_triplets(kind: Kind, table: pa.Table, data: Artifact) -> pa.Table:
    """Bring all or some rows of a stored table into the columns of triplets.

    Raises UserError where a labelled pair has no score.
    """
    if kind == "labelled":
        return _labelled_pairs(table, data)
    if kind == "pairs":
        field = TABLES["triplets"].field("negatives")
        return table.append_column(field, pa.nulls(len(table), field.type))
    return table


def _read_pairs(data: Artifact) -> pa.Table:
    return as_triplets("pairs", data.read("pairs"), data)


def _read_triplets(data: Artifact) -> pa.Table:
    """Triplets of the build; where a source brought scores, they are the teacher's."""
    table = data.read("triplets")
    return table.append_column("teacher", table["teacher_score"])


def _read_mined(negatives: Artifact) -> pa.Table:
    """Mined triplets; `teacher` of the positive is what the rows carry, else the cosine that the miner computed."""
    table = negatives.read("triplets")
    if table["teacher_score"].null_count < len(table):
        return table.append_column("teacher", table["teacher_score"])
    if not negatives.has("candidates"):
        return table
    candidates = negatives.read("candidates", ["anchor_id", "positive_id", "positive_score"])
    scores = {(row["anchor_id"], row["positive_id"]): row["positive_score"] for row in candidates.to_pylist()}
    names = zip(table["anchor_id"].to_pylist(), table["positive_id"].to_pylist(), strict=True)
    return table.append_column("teacher", pa.array([scores.get(name) for name in names], pa.float32()))


def open_mined(path: str) -> Artifact:
    """Open mined negatives; says how many rows have none, and raises UserError where that is all of them."""
    negatives = Artifact.open(path, "mine")
    per_row = {int(number): count for number, count in negatives.manifest.notes.get("negatives_per_row", {}).items()}
    empty, rows = per_row.get(0, 0), negatives.rows("triplets")
    if rows == 0 or empty == rows:
        raise UserError(
            f"{path}: mining found no negative for any of its {rows:,} rows; mine with a looser rule (see "
            "`python -m scripts.sweep`), or leave mined out of rows"
        )
    if empty:
        say(f"train: {empty:,} of {rows:,} mined rows have no negative")
    return negatives


def _labelled_pairs(pairs: pa.Table, data: Artifact) -> pa.Table:
    """Labelled pairs under the names of pairs."""
    score = pairs["score"]
    if score.null_count:
        raise UserError(f"{data.path}: {score.null_count} labelled pairs have no score; leave them out of the source")
    sides = {"anchor_id": "left_id", "anchor": "left", "positive_id": "right_id", "positive": "right"}
    columns = {name: pairs[side] for name, side in sides.items()}
    nulls = {name: pa.nulls(len(pairs), TABLES["triplets"].field(name).type) for name in ("group_id", "reason")}
    shared = {"source": pairs["source"], "split": pairs["split"], "relevance": score}
    return pa.table({**columns, **shared, **nulls, "right": pc.greater_equal(score, RIGHT)})


def _read_judged(data: Artifact) -> pa.Table:
    """One row for each training query with a relevant document: all its judged documents, best first, with grades."""
    for name in ("queries", "qrels", "corpus"):
        if not data.has(name):
            raise UserError(f"{data.path}: rows: 'judged' needs table '{name}', which is not there")
    queries = data.read("queries")
    queries = queries.filter(pc.equal(queries["split"], "train"))
    corpus = data.read("corpus", ["doc_id", "text"])
    texts = dict(zip(corpus["doc_id"].to_pylist(), corpus["text"].to_pylist(), strict=True))
    judgments: dict[str, list[tuple[int, str]]] = {}
    for row in data.read("qrels").to_pylist():
        if row["split"] == "train" and row["doc_id"] in texts:
            judgments.setdefault(row["query_id"], []).append((-row["relevance"], row["doc_id"]))
    rows = []
    for query in queries.to_pylist():
        best_first = sorted(judgments.get(query["query_id"], ()))
        if not best_first or best_first[0][0] >= 0:
            continue
        (grade, best), others = best_first[0], best_first[1:]
        rows.append(
            {
                "anchor_id": query["query_id"],
                "anchor": query["text"],
                "positive_id": best,
                "positive": texts[best],
                "source": query["source"],
                "split": "train",
                "relevance": -float(grade),
                "reason": "judged",
                "negatives": [{"doc_id": doc, "text": texts[doc], "reason": "judged"} for _, doc in others],
                "grades": [-float(relevance) for relevance, _ in others],
            }
        )
    return pa.Table.from_pylist(rows, TABLES["triplets"].append(pa.field("grades", pa.list_(pa.float32()))))


READERS: dict[Kind, Callable[[Artifact], pa.Table]] = {
    "pairs": _read_pairs,
    "triplets": _read_triplets,
    "mined": _read_mined,
    "judged": _read_judged,
    "labelled": lambda data: as_triplets("labelled", data.read("labelled"), data),
}


def load_rows(
    kinds: list[Kind],
    data: Artifact,
    negatives: Artifact | None,
    max_negatives: int | None,
    max_rows: int | None,
    mix: dict[str, float] | None = None,
    temperature: float | None = None,
) -> Rows:
    """Read rows with every known positive of their queries; `max_rows` keeps a stable sample of the rows.

    Raises UserError where `mix` names a source that gave no row.
    """
    table = sample_rows(read_table(kinds, data, negatives), max_rows)
    counts = Counter[str](table["source"].to_pylist())
    shares = source_shares(counts, mix or {}, temperature)
    return rows_from(table, relevant_documents(data), max_negatives, document_clusters(data), shares)


def source_shares(counts: Mapping[str, int], mix: Mapping[str, float], temperature: float | None) -> dict[str, float]:
    """How often an epoch trains on the rows of each source; empty where each row comes once.

    `counts` are the rows of each source. `mix` sets the numbers directly. A temperature T samples each source in
    proportion to the T-th root of its rows: 1 changes nothing, higher values make big and small sources more alike.
    Source: Devlin et al. 2018 (multilingual BERT), Raffel et al. 2019 (T5, arXiv 1910.10683, section 3.5.2).
    """
    for name in mix:
        if name not in counts:
            raise UserError(f"mix: no training row is of source '{name}'; there are {', '.join(sorted(counts))}")
    if temperature is None:
        return dict(mix)
    roots = {name: count ** (1 / temperature) for name, count in counts.items()}
    scale = sum(counts.values()) / sum(roots.values())
    return {name: mix.get(name, 1.0) * scale * root / counts[name] for name, root in roots.items()}


def sample_rows(table: pa.Table, max_rows: int | None) -> pa.Table:
    """Keep a stable sample of `max_rows` rows, chosen by the hash of their ids, in order."""
    if max_rows is None or len(table) <= max_rows:
        return table
    names = zip(*(table[c].to_pylist() for c in ("anchor_id", "positive_id")), strict=True)
    keys = [stable_id(f"{anchor}\t{positive}") for anchor, positive in names]
    return table.take(sorted(sorted(range(len(keys)), key=keys.__getitem__)[:max_rows]))


def with_guide(rows: Rows, artifacts: dict[str, Artifact]) -> Rows:
    """Add the vectors of a guide to the rows."""
    return replace(rows, guide=guide_vectors.load_guide(artifacts, rows.query_id, rows.positive_id, rows.negative_id))


def relevant_documents(data: Artifact) -> dict[str, list[str]]:
    """Documents judged relevant for each training query."""
    relevant: dict[str, list[str]] = {}
    if data.has("qrels"):
        qrels = data.read("qrels")
        qrels = qrels.filter(pc.and_(pc.greater(qrels["relevance"], 0), pc.equal(qrels["split"], "train")))
        for query, doc in zip(qrels["query_id"].to_pylist(), qrels["doc_id"].to_pylist(), strict=True):
            relevant.setdefault(query, []).append(doc)
    return relevant


def document_clusters(data: Artifact) -> dict[str, str]:
    """Near-duplicate cluster of each document that has one."""
    if not data.has("corpus"):
        return {}
    corpus = data.read("corpus", ["doc_id", "cluster_id"])
    corpus = corpus.filter(pc.is_valid(corpus["cluster_id"]))
    return dict(zip(corpus["doc_id"].to_pylist(), corpus["cluster_id"].to_pylist(), strict=True))
