"""Leaves out documents that are the query itself: they are neither ranked nor counted, as in BEIR and MTEB.

A question that other questions link to is a query and a document; every model would rank it first, and no judgment says
that this is right or wrong. The rule is that of mining (`pipeline.text.same_document`).
"""

import numpy as np

from pipeline.core.errors import UserError
from pipeline.evaluation.corpus import Corpus
from pipeline.evaluation.dataset import EvalDataset, count_skipped, drop_queries
from pipeline.text.same_document import SelfMatches


def exclude_self_matches(dataset: EvalDataset, corpus: Corpus) -> None:
    """Set the pairs of `dataset.excluded` by one pass over the corpus, and drop the judgments on them.

    Queries without a relevant document but themselves go too. All that is left out is counted.
    """
    matches = _find(dataset, corpus)
    judgments = 0
    for query, doc, _ in matches:
        judgments += dataset.qrels[query].pop(doc, None) is not None
    unanswered = {query for query in dataset.query_ids if not any(grade > 0 for grade in dataset.qrels[query].values())}
    drop_queries(dataset, unanswered)
    index_of = {query: index for index, query in enumerate(dataset.query_ids)}
    pairs = [(index_of[query], row) for query, _, row in matches if query in index_of]
    rows = np.array(pairs, np.int64).reshape(-1, 2)
    dataset.excluded = (rows[:, 0], rows[:, 1])
    count_skipped(
        dataset,
        document_is_query_itself=len(matches),
        judgment_of_query_itself=judgments,
        query_relevant_to_itself_alone=len(unanswered),
    )


def require_content(dataset: EvalDataset) -> None:
    """Raise UserError where nothing is left to evaluate."""
    if not (dataset.query_ids or dataset.triplets or dataset.scored_pairs):
        count = dataset.skipped.get("query_relevant_to_itself_alone", 0)
        raise UserError(f"all {count} queries have no relevant document but themselves; nothing is to evaluate")


def _find(dataset: EvalDataset, corpus: Corpus) -> list[tuple[str, str, int]]:
    """Query id, document id and row of each document that is the query itself, in the order of the corpus."""
    queries = SelfMatches(dataset.query_ids, dataset.texts[: len(dataset.query_ids)], dataset.qrels)
    triples = []
    for first, batch in corpus.batches(["doc_id", "text"]) if dataset.query_ids else ():
        docs, texts = batch.column("doc_id").to_pylist(), batch.column("text").to_pylist()
        triples += [(query, docs[index], first + index) for query, index in queries.find(docs, texts)]
    return triples
