"""Measure every model on one split: BM25 in this process, encoders one after the other on Ray."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.artifact import MANIFEST, Artifact
from pipeline.console import say
from pipeline.encoder import EncoderConfig
from pipeline.evaluate import figures
from pipeline.evaluate.corpus import VECTOR_ROWS, Corpus, Piece
from pipeline.evaluate.probes import Probes, lexical_triplets, make_probes, wanted_ids
from pipeline.evaluate.questions import Questions
from pipeline.evaluate.ranking import Asked, answer, ask
from pipeline.files import filesystem, join
from pipeline.lexical import Lexical
from pipeline.metrics import PerQuery, depth, retrieval
from pipeline.search import Best

BM25 = "bm25"
FEW_TRIPLETS = 20  # fewer of the data's own say nothing, and BM25's stand in


@dataclass
class Measured:
    """What came out: by model its ranking, values a query, figures; and the similarities of the encoders' probes."""

    corpus: Corpus
    questions: Questions
    probes: Probes = field(default_factory=Probes)
    best: dict[str, Best] = field(default_factory=dict)
    docs: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    values: dict[str, PerQuery] = field(default_factory=dict)
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    similarities: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    triplet_source: str = ""


@dataclass(frozen=True)
class Plan:
    """How to measure."""

    models: Mapping[str, EncoderConfig]
    bm25: bool
    metrics: list[str]
    vectors: str
    actors: int | None
    seed: int


def measure(data: Artifact, questions: Questions, plan: Plan) -> Measured:
    """Rank the corpus by every model.

    Queries are encoded first, so that a model that cannot be loaded stops the job before any corpus is embedded.
    """
    measured = Measured(Corpus(data), questions)
    lexical = bool(plan.bm25 and questions.query_ids and len(measured.corpus))
    if lexical and len(questions.triplets) < FEW_TRIPLETS:
        questions.skipped |= {"triplet_of_too_few": len(questions.triplets)} if questions.triplets else {}
        questions.triplets = []
    rows = measured.corpus.find(wanted_ids(questions))
    _count_unheld(questions, rows)
    first = make_probes(questions, rows, len(measured.corpus), plan.seed)
    asked = {name: ask(config, questions.texts, first.loose) for name, config in plan.models.items()}
    if lexical:
        _measure_lexical(measured, plan)
    _choose_triplets(measured, rows)
    measured.probes = make_probes(questions, rows, len(measured.corpus), plan.seed)
    for name, config in plan.models.items():
        _measure_encoder(measured, name, config, asked[name], data, plan)
    return measured


def _count_unheld(questions: Questions, rows: Mapping[str, int]) -> None:
    """Count relevant documents that the corpus lacks: no model can find them, and recall pays for it."""
    missing = sum(
        1 for grades in questions.judgments.values() for doc, grade in grades.items() if grade > 0 and doc not in rows
    )
    if missing:
        questions.skipped["relevant_document_not_in_corpus"] = missing


def _measure_lexical(measured: Measured, plan: Plan) -> None:
    texts = (text for _, batch in measured.corpus.batches(["text"]) for text in batch.column("text").to_pylist())
    index, questions = Lexical(texts), measured.questions
    best = Best.empty(len(questions.query_ids), depth(plan.metrics))
    for place, text in enumerate(questions.texts[: len(questions.query_ids)]):
        scores, rows = index.search(text, best.scores.shape[1])
        best.scores[place, : len(rows)], best.rows[place, : len(rows)] = scores, rows
    _record(measured, BM25, best, plan)
    if questions.triplets:
        measured.figures[BM25] |= _lexical_triplet_figures(index, measured, plan.seed)


def _lexical_triplet_figures(index: Lexical, measured: Measured, seed: int) -> dict[str, Any]:
    """Triplet accuracy of BM25 scores; nothing where a triplet's document is not in the corpus, so has no score."""
    questions, corpus = measured.questions, measured.corpus
    probes = make_probes(questions, corpus.find(wanted_ids(questions)), len(corpus), seed)
    if probes.loose:
        return {}
    text, row = probes.arrays()
    found = np.zeros(len(row), np.float32)
    asked = np.unique(text[: probes.parts["negative"].stop])
    for place in asked:
        scores = index.scores(questions.texts[place])
        found[text == place] = scores[row[text == place]]
    accuracy = figures.triplet_figures(found, probes, len(questions.triplets))
    return {"triplet_accuracy": accuracy["triplet_accuracy"]}


def _choose_triplets(measured: Measured, rows: dict[str, int]) -> None:
    questions = measured.questions
    if questions.triplets:
        measured.triplet_source = f"The {len(questions.triplets):,} triplets with their hard negatives are the data's."
    elif BM25 in measured.docs:
        ranked = measured.docs[BM25]
        rows.update(measured.corpus.find(doc for docs in ranked.values() for doc in docs))
        questions.triplets = lexical_triplets(questions, ranked, rows)
        measured.triplet_source = (
            f"The data brings no triplets for this split, or fewer than {FEW_TRIPLETS}. So the hard negatives of the "
            f"{len(questions.triplets):,} triplets are BM25's best documents that are not judged relevant."
        )


def _measure_encoder(
    measured: Measured, name: str, config: EncoderConfig, asked: Asked, data: Artifact, plan: Plan
) -> None:
    import ray

    stored = stored_vectors(plan.vectors, data, measured.corpus, asked.identity)
    say(f"evaluate: {name}: {'ranks stored vectors of' if stored else 'embeds'} {len(measured.corpus):,} documents")
    pieces = stored or measured.corpus.pieces()
    queries = len(measured.questions.query_ids)
    found = answer(config, asked, pieces, queries, depth(plan.metrics), measured.probes, plan.actors)
    measured.similarities[name] = found.similarities
    _record(measured, name, found.best, plan)
    own = measured.figures[name]
    own |= figures.triplet_figures(found.similarities, measured.probes, len(measured.questions.triplets))
    own |= figures.graded_figures(ray.get(asked.vectors), measured.questions)
    own["encoder"] = asked.identity
    own["seconds"] = round(found.seconds, 2)
    own["documents_per_second"] = round(len(measured.corpus) / max(found.seconds, 1e-9), 1)


def _record(measured: Measured, name: str, best: Best, plan: Plan) -> None:
    """Keep a ranking with its document ids, and what the metrics make of it."""
    ids = measured.corpus.take(best.rows[best.rows >= 0], ["doc_id"])
    measured.best[name] = best
    measured.docs[name] = {
        query: [ids[row]["doc_id"] for row in found[found >= 0].tolist()]
        for query, found in zip(measured.questions.query_ids, best.rows, strict=True)
    }
    measured.values[name] = retrieval(measured.docs[name], measured.questions.judgments, plan.metrics)
    measured.figures[name] = figures.retrieval_figures(measured.values[name], plan.seed)


def stored_vectors(path: str, data: Artifact, corpus: Corpus, identity: dict[str, str]) -> list[Piece] | None:
    """Find vectors of just this corpus and encoder, float32 and in corpus order; None where there are none."""
    fs, root = filesystem(path)
    if not fs.exists(join(root, MANIFEST)):
        return None
    vectors = Artifact.open(path, "embed")
    table = vectors.manifest.tables.get("vectors")
    if (
        table is None
        or table.rows != len(corpus)
        or vectors.manifest.notes.get("encoder") != identity
        or vectors.manifest.inputs.get("data") != data.manifest.fingerprint
        or not table.columns.get("vector", "").startswith("fixed_size_list<element: float>")
    ):
        return None
    held = Corpus(vectors, "vectors", "id")
    return held.pieces("vector", VECTOR_ROWS) if held.order() == corpus.order() else None
