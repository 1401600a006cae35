"""Evaluate every model on one split: BM25 and the encoders, one after the other on Ray."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from pipeline.core import tasks
from pipeline.core.errors import UserError
from pipeline.core.progress import say
from pipeline.encoder.encoder import EncoderConfig
from pipeline.evaluation import bm25_tuning, scores
from pipeline.evaluation.bm25_ranking import CountedCorpus
from pipeline.evaluation.bm25_tuning import EvaluatedBM25
from pipeline.evaluation.comparisons import add_holm, compare, compare_statistics
from pipeline.evaluation.corpus import VECTOR_ROWS, Corpus, CorpusChunk, open_embedding
from pipeline.evaluation.corpus_sample import Sample, draw
from pipeline.evaluation.dataset import EvalDataset
from pipeline.evaluation.passages import PassageResult
from pipeline.evaluation.ranking import EncodedQueries, RankedQueries, encode_queries, rank_corpus
from pipeline.evaluation.results import BM25, EvaluationPlan, Results, VariantResult
from pipeline.evaluation.scored_ranking import document_ids, keep_ranking
from pipeline.evaluation.self_matches import exclude_self_matches, require_content
from pipeline.evaluation.similarity_samples import SimilarityPairs, bm25_triplets, referenced_ids, sample_pairs
from pipeline.evaluation.stored_passages import rank_stored, stored_passages
from pipeline.evaluation.system_ranking import rank_systems
from pipeline.evaluation.tuning import Tuning
from pipeline.evaluation.vector_variants import Variant, calibrate
from pipeline.evaluation.vector_variants import plan as plan_variants
from pipeline.metrics.retrieval import depth, retrieval
from pipeline.search.exact import TopK
from pipeline.storage.artifact import Artifact
from pipeline.storage.vectors import Ranges, l2_normalize, similarity_of

Floats = npt.NDArray[np.float32]

SAME_MODEL = 0.99  # cosine of a document's stored vector and a fresh one, rounding and batching aside
MIN_TRIPLETS = 20  # fewer triplets of the data say nothing, and BM25's take their part


def evaluate(data: Artifact, dataset: EvalDataset, plan: EvaluationPlan) -> Results:
    """Rank the corpus by every model and every system, and score the rankings.

    Queries are encoded first, so that a model that cannot be loaded stops the job before any corpus is embedded.
    """
    results = Results(Corpus(data), dataset)
    exclude_self_matches(dataset, results.corpus)
    require_content(dataset)
    tuning = Tuning.read(data, results.corpus, plan.tuning, plan.split) if plan.is_tuned else Tuning.none()
    bm25 = plan.bm25 if dataset.query_ids and len(results.corpus) else None
    if bm25 and len(dataset.triplets) < MIN_TRIPLETS:
        dataset.skipped |= {"triplet_of_too_few": len(dataset.triplets)} if dataset.triplets else {}
        dataset.triplets = []
    rows = results.corpus.find(referenced_ids(dataset))
    _count_missing(dataset, rows)
    pairs = sample_pairs(dataset, rows, len(results.corpus), plan.seed)
    results.sample = draw(results.corpus, plan.seed)
    texts, ranked = [*dataset.texts, *tuning.dataset.texts], RankedQueries.of(dataset, tuning.queries)
    single_texts = (texts, pairs.extra_documents, results.sample.texts)
    encoded = {name: encode_queries(config, *single_texts, plan.passages) for name, config in plan.models.items()}
    if bm25:
        _evaluate_bm25(results, texts, ranked, pairs, bm25, plan, tuning)
    _choose_triplets(results, rows)
    results.pairs = sample_pairs(dataset, rows, len(results.corpus), plan.seed)
    for name, config in plan.models.items():
        _evaluate_encoder(results, name, config, encoded[name], ranked, data, plan)
    rank_systems(results, plan, tuning)
    return results


def _count_missing(dataset: EvalDataset, rows: Mapping[str, int]) -> None:
    """Count relevant documents that the corpus lacks: no model can find them, and recall pays for it."""
    missing = sum(
        1 for grades in dataset.qrels.values() for doc, grade in grades.items() if grade > 0 and doc not in rows
    )
    if missing:
        dataset.skipped["relevant_document_not_in_corpus"] = missing


def _evaluate_bm25(
    results: Results,
    texts: list[str],
    ranked: RankedQueries,
    pairs: SimilarityPairs,
    config: EvaluatedBM25,
    plan: EvaluationPlan,
    tuning: Tuning,
) -> None:
    """Rank by BM25, with k1 and b chosen where the settings say so.

    Triplets are scored too, unless one has a document that is not in the corpus, so has no score.
    """
    dataset = results.dataset
    text, row = pairs.arrays()
    of_triplets = slice(0, 0 if pairs.extra_documents else pairs.groups["negative"].stop)
    chunks, k = results.corpus.chunks(), depth(plan.metrics)
    counted = CountedCorpus.count(texts, chunks, config.language)
    chosen, facts = bm25_tuning.choose(results.corpus, counted, dataset, tuning, config, plan.metrics[0])
    ranking = counted.rank_with_progress(ranked, k, (text[of_triplets], row[of_triplets]), chosen)
    keep_ranking(results, BM25, ranking.best, plan)
    if dataset.triplets and not pairs.extra_documents:
        accuracy = scores.triplet_values(ranking.similarities, pairs, len(dataset.triplets))["triplet_accuracy"]
        results.triplets[BM25] = {"triplet_accuracy": accuracy}
        triplet_scores = scores.mean_scores(results.triplets[BM25], plan.seed)
        results.scores[BM25] = scores.merge_scores(results.scores[BM25], triplet_scores)
    results.scores[BM25] |= {"settings": chosen.model_dump(), "tuning": facts}


def _choose_triplets(results: Results, rows: dict[str, int]) -> None:
    """Take the data's own triplets, else make them of BM25's ranking; say in the results which."""
    dataset = results.dataset
    if dataset.triplets:
        results.triplet_source = f"The {len(dataset.triplets):,} triplets with their hard negatives are the data's."
    elif BM25 in results.docs:
        rankings = results.docs[BM25]
        rows.update(results.corpus.find(doc for docs in rankings.values() for doc in docs))
        dataset.triplets = bm25_triplets(dataset, rankings, rows)
        results.triplet_source = (
            f"The data brings no triplets for this split, or fewer than {MIN_TRIPLETS}. So the hard negatives of the "
            f"{len(dataset.triplets):,} triplets are BM25's best documents that are not judged relevant."
        )


def _evaluate_encoder(
    results: Results,
    name: str,
    config: EncoderConfig,
    encoded: EncodedQueries,
    ranked: RankedQueries,
    data: Artifact,
    plan: EvaluationPlan,
) -> None:
    passages = {
        ranking: stored_passages(plan.vectors, data, results.corpus, encoded.identity, ranking)
        for ranking in plan.passages
    }
    missing = [ranking for ranking, of_ranking in passages.items() if of_ranking is None]
    stored = None if missing else stored_vectors(plan.vectors, data, results.corpus, encoded.identity)
    say(f"evaluate: {name}: {'ranks stored vectors of' if stored else 'embeds'} {len(results.corpus):,} documents")
    dataset, documents = results.dataset, len(results.corpus)
    texts, sample = tasks.get(encoded.vectors)[: len(dataset.texts)], tasks.get(encoded.sample)
    variants = _variants(name, encoded, plan)
    ranges = calibrate(variants, sample if len(sample) else texts)
    k = depth(plan.metrics)
    if stored:
        check_same_model(plan.vectors, results.sample, l2_normalize(sample))
    chunks = stored or results.corpus.chunks()
    ranking = rank_corpus(config, encoded, chunks, ranked, k, results.pairs, variants, ranges, plan.actors, missing)
    results.similarities[name] = ranking.similarities
    results.sampled[name] = sample
    keep_ranking(results, name, ranking.best, plan)
    results.triplets[name] = scores.triplet_values(ranking.similarities, results.pairs, len(dataset.triplets))
    thresholds = _compute_statistics(results, name, texts, plan.seed)
    results.scores[name] = scores.merge_scores(
        results.scores[name],
        scores.mean_scores(results.triplets[name], plan.seed),
        scores.statistic_scores(results.statistics[name]),
        thresholds,
        {"encoder": encoded.identity, "dim": encoded.dim, "truncation": encoded.truncation},
    )
    results.pace[name] = {
        "seconds": round(ranking.seconds, 2),
        "documents_per_second": round(documents / max(ranking.seconds, 1e-9), 1),
    }
    for variant, best in ranking.variants.items():
        best = TopK(best.scores[: len(dataset.query_ids)], best.rows[: len(dataset.query_ids)])
        results.variants.append(_score_variant(results, name, variant, ranges, best, texts, plan))
    _correct_variant_tests(results, name)
    embedded = dict(zip(missing, ranking.passages, strict=True))
    for by_passages, of_ranking in passages.items():
        best = embedded[by_passages] if of_ranking is None else rank_stored(encoded.vectors, of_ranking, ranked, k)
        _keep_passages(results, PassageResult(name, by_passages), best, plan)


def _keep_passages(results: Results, result: PassageResult, best: TopK, plan: EvaluationPlan) -> None:
    """Keep a ranking by passages, scored as a model's is, under the name of its encoder and its own."""
    name = f"{result.model}-{result.ranking.name}"
    keep_ranking(results, name, best, plan)
    results.passages[name] = result
    results.scores[name]["passages"] = result.as_json()


def _compute_statistics(results: Results, name: str, texts: Floats, seed: int) -> dict[str, float]:
    """Compute the statistics of a model; returns the thresholds at which some of them were reached."""
    dataset = results.dataset
    statistics, thresholds = scores.cluster_statistics(results.sampled[name], results.sample, seed), {}
    if dataset.scored_pairs:
        cosines = scores.pair_cosines(texts, texts, dataset)
        duplicates, duplicate_thresholds = scores.duplicate_statistics(texts, dataset, seed)
        statistics = scores.pair_statistics(cosines, dataset, seed) | duplicates | statistics
        thresholds = scores.pair_thresholds(cosines, dataset) | duplicate_thresholds
        results.cosines[name] = cosines
    results.statistics[name] = statistics
    return thresholds


def _variants(name: str, encoded: EncodedQueries, plan: EvaluationPlan) -> list[Variant]:
    """List the variants of a model's vectors; none of one that is not compared by the cosine, which is said.

    Raises UserError where the settings ask for such a model's by name.
    """
    if plan.variants is None or name not in plan.variant_models:
        return []
    if (similarity := similarity_of(encoded.identity)) == "cosine":
        return plan_variants(plan.variants, encoded.dim)
    reason = f"variants are of vectors of length 1, but {name} is compared by {similarity}"
    if name in (plan.variants.models or []):
        raise UserError(f"variants.models: {reason}; leave it out")
    say(f"evaluate: {reason}: it has none")
    return []


def _score_variant(
    results: Results, name: str, variant: Variant, ranges: Ranges, best: TopK, texts: Floats, plan: EvaluationPlan
) -> VariantResult:
    """Score a variant and test its first metric, and all statistics of pairs, against the full vectors."""
    dataset, metric = results.dataset, plan.metrics[0]
    values = retrieval(document_ids(results, best), dataset.qrels, plan.metrics)
    statistics = {}
    if dataset.scored_pairs:
        stored = l2_normalize(variant.stored_documents(texts, ranges))
        cosines = scores.pair_cosines(variant.shortened_queries(texts), stored, dataset)
        statistics = scores.pair_statistics(cosines, dataset, plan.seed)
    both = [("variant", "full")]
    first_metric = {"variant": {metric: values[metric]}, "full": {metric: results.values[name][metric]}}
    tests = compare(first_metric, both, plan.seed)
    tests += compare_statistics({"variant": statistics, "full": results.statistics[name]}, both)
    variant_scores = scores.merge_scores(scores.mean_scores(values, plan.seed), scores.statistic_scores(statistics))
    return VariantResult(name, variant, variant_scores, values, tests)


def _correct_variant_tests(results: Results, name: str) -> None:
    """Name the models in the variants' tests, and correct those of one model and metric as a family."""
    variants = [variant for variant in results.variants if variant.model == name]
    for variant in variants:
        for test in variant.tests:
            test |= {"model": variant.name, "baseline": name}
    add_holm([test for variant in variants for test in variant.tests])


def stored_vectors(path: str, data: Artifact, corpus: Corpus, identity: dict[str, str]) -> list[CorpusChunk] | None:
    """Find vectors of just this corpus and encoder, float32 and in corpus order; None where there are none."""
    artifact = open_embedding(path, data, identity)
    if artifact is None or "passages" in artifact.manifest.notes or artifact.rows("vectors") != len(corpus):
        return None
    vectors = Corpus(artifact, "vectors", "id")
    return vectors.chunks("vector", VECTOR_ROWS) if vectors.order() == corpus.order() else None


def check_same_model(path: str, sample: Sample, encoded: Floats, count: int = 64) -> None:
    """Refuse stored vectors that are not those which the model of the queries makes of the same documents.

    Identities say that they are; this looks at the vectors themselves, so that a mistake anywhere else cannot end in
    queries of one model ranked against documents of another. `encoded` [S, D] are fresh unit vectors of the sampled
    documents, and the first `count` of them are compared.

    Raises UserError naming the document that differs most, and its cosine.
    """
    if not (rows := sample.rows[:count]):
        return
    stored = Corpus(Artifact.open(path, "embed"), "vectors", "id").take(rows, ["id", "vector"])
    vectors = l2_normalize(np.array([stored[row]["vector"] for row in rows], np.float32))
    cosines = (vectors * encoded[: len(rows)]).sum(axis=1)
    worst = int(np.argmin(cosines))
    if not cosines[worst] > SAME_MODEL:
        raise UserError(
            f"{path}: document {stored[rows[worst]]['id']!r} has another vector there than the evaluated model "
            f"makes of it (cosine {cosines[worst]:.3f}); run `tripletail embed` again, or leave the vectors out"
        )
