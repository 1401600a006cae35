"""Measure every model on one split: BM25 in this process, encoders one after the other on Ray."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from pipeline.core.progress import say
from pipeline.encoder.encoder import EncoderConfig
from pipeline.evaluation import scores as figures
from pipeline.evaluation.comparisons import compare, compare_statistics, corrected
from pipeline.evaluation.corpus import VECTOR_ROWS, Corpus, Piece
from pipeline.evaluation.corpus_sample import draw
from pipeline.evaluation.dataset import Questions
from pipeline.evaluation.ranking import Asked, answer, ask
from pipeline.evaluation.results import BM25, Measured, Plan, Smaller
from pipeline.evaluation.similarity_samples import lexical_triplets, make_probes, wanted_ids
from pipeline.evaluation.vector_variants import Variant, calibrate
from pipeline.evaluation.vector_variants import plan as variants_of
from pipeline.metrics.retrieval import depth, retrieval
from pipeline.search.bm25 import Lexical
from pipeline.search.exact import Best
from pipeline.storage.artifact import MANIFEST, Artifact
from pipeline.storage.files import filesystem, join
from pipeline.storage.vectors import Ranges, unit

Floats = npt.NDArray[np.float32]

FEW_TRIPLETS = 20  # fewer of the data's own say nothing, and BM25's stand in


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
    measured.sample = draw(measured.corpus, plan.seed)
    single = (questions.texts, first.loose, measured.sample.texts)
    asked = {name: ask(config, *single) for name, config in plan.models.items()}
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
        _lexical_triplets(index, measured, plan.seed)


def _lexical_triplets(index: Lexical, measured: Measured, seed: int) -> None:
    """Triplet accuracy of BM25 scores; nothing where a triplet's document is not in the corpus, so has no score."""
    questions, corpus = measured.questions, measured.corpus
    probes = make_probes(questions, corpus.find(wanted_ids(questions)), len(corpus), seed)
    if probes.loose:
        return
    text, row = probes.arrays()
    found = np.zeros(len(row), np.float32)
    asked = np.unique(text[: probes.parts["negative"].stop])
    for place in asked:
        scores = index.scores(questions.texts[place])
        found[text == place] = scores[row[text == place]]
    told_apart = figures.triplet_values(found, probes, len(questions.triplets))["triplet_accuracy"]
    measured.triplets[BM25] = {"triplet_accuracy": told_apart}
    own = figures.mean_figures(measured.triplets[BM25], seed)
    measured.figures[BM25] = figures.joined(measured.figures[BM25], own)


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
    questions, whole = measured.questions, plan.variants if name in plan.shrunk else None
    texts, sample = ray.get(asked.vectors), ray.get(asked.sample)
    variants = variants_of(whole, asked.dim) if whole else []
    ranges = calibrate(variants, sample if len(sample) else texts)
    depths = (len(questions.query_ids), depth(plan.metrics))
    found = answer(config, asked, pieces, *depths, measured.probes, variants, ranges, plan.actors)
    measured.similarities[name] = found.similarities
    measured.sampled[name] = sample
    _record(measured, name, found.best, plan)
    told_apart = figures.triplet_values(found.similarities, measured.probes, len(questions.triplets))
    measured.triplets[name] = told_apart
    cuts = _statistics(measured, name, texts, plan.seed)
    measured.figures[name] = figures.joined(
        measured.figures[name],
        figures.mean_figures(told_apart, plan.seed),
        figures.statistic_figures(measured.statistics[name]),
        cuts,
        {"encoder": asked.identity, "dim": asked.dim},
    )
    documents = len(measured.corpus)
    measured.pace[name] = {
        "seconds": round(found.seconds, 2),
        "documents_per_second": round(documents / max(found.seconds, 1e-9), 1),
    }
    for variant, best in found.variants.items():
        measured.smaller.append(_smaller(measured, name, variant, ranges, best, texts, plan))
    _correct_smaller(measured, name)


def _statistics(measured: Measured, name: str, texts: Floats, seed: int) -> dict[str, float]:
    """Take the statistics of a model; returns the cuts at which some of them were reached."""
    questions = measured.questions
    taken, cuts = figures.cluster_statistics(measured.sampled[name], measured.sample, seed), {}
    if questions.labelled:
        cosines = figures.pair_cosines(texts, texts, questions)
        mined, mined_cuts = figures.duplicate_statistics(texts, questions, seed)
        taken = figures.pair_statistics(cosines, questions, seed) | mined | taken
        cuts = figures.pair_cuts(cosines, questions) | mined_cuts
        measured.cosines[name] = cosines
    measured.statistics[name] = taken
    return cuts


def _smaller(
    measured: Measured, name: str, variant: Variant, ranges: Ranges, best: Best, texts: Floats, plan: Plan
) -> Smaller:
    """Measure a variant and test its first metric, and all statistics of pairs, against the whole vectors."""
    questions, metric = measured.questions, plan.metrics[0]
    values = retrieval(_documents(measured, best), questions.judgments, plan.metrics)
    statistics = {}
    if questions.labelled:
        stored = unit(variant.stored(texts, ranges))
        cosines = figures.pair_cosines(variant.asked(texts), stored, questions)
        statistics = figures.pair_statistics(cosines, questions, plan.seed)
    both = [("smaller", "whole")]
    first = {"smaller": {metric: values[metric]}, "whole": {metric: measured.values[name][metric]}}
    tests = compare(first, both, plan.seed)
    tests += compare_statistics({"smaller": statistics, "whole": measured.statistics[name]}, both)
    shown = figures.joined(figures.mean_figures(values, plan.seed), figures.statistic_figures(statistics))
    return Smaller(name, variant, shown, values, tests)


def _correct_smaller(measured: Measured, name: str) -> None:
    """Name the models of the variants' tests and take those of one model and metric as a family."""
    own = [smaller for smaller in measured.smaller if smaller.model == name]
    for smaller in own:
        for test in smaller.tests:
            test |= {"model": smaller.name, "baseline": name}
    corrected([test for smaller in own for test in smaller.tests])


def _record(measured: Measured, name: str, best: Best, plan: Plan) -> None:
    """Keep a ranking with its document ids, and what the metrics make of it."""
    measured.best[name] = best
    measured.docs[name] = _documents(measured, best)
    measured.values[name] = retrieval(measured.docs[name], measured.questions.judgments, plan.metrics)
    measured.figures[name] = figures.mean_figures(measured.values[name], plan.seed)


def _documents(measured: Measured, best: Best) -> dict[str, list[str]]:
    """Ids of the documents of a ranking, by query."""
    ids = measured.corpus.take(best.rows[best.rows >= 0], ["doc_id"])
    return {
        query: [ids[row]["doc_id"] for row in found[found >= 0].tolist()]
        for query, found in zip(measured.questions.query_ids, best.rows, strict=True)
    }


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
