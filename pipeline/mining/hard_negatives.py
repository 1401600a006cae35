"""Hard negatives by one call, with the arguments and the results of Sentence Transformers' `mine_hard_negatives`.

The search is exact and streams the corpus's vectors from disk: memory follows the block, not the corpus. `model` is a
SentenceTransformer, an `Encoder`, or the name of a model directory; `cross_encoder` is a CrossEncoder, a `Reranker`
or a name. Vectors are kept in `cache_folder` under keys of weights, tokenizer, prompt and texts.

    dataset = mine_hard_negatives(dataset, SentenceTransformer("path/to/model"), relative_margin=0.05)
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from pipeline.core.errors import UserError
from pipeline.core.progress import say
from pipeline.encoder.cross_encoder import CrossEncoderConfig, Reranker
from pipeline.mining.candidate_arrays import Bools, CandidateArrays, Floats, Rows
from pipeline.mining.registry import OUTPUT_FORMATS
from pipeline.mining.rules import SelectionRule, apply_rule
from pipeline.mining.threshold_rule import Strategy, ThresholdRule
from pipeline.mining.vector_cache import VectorFile, cached_vectors, process_pool, text_encoder
from pipeline.search.exact import TopK, pairwise_dot, top_k
from pipeline.search.faiss_index import import_faiss
from pipeline.text.normalize import hash64


@dataclass(frozen=True)
class TextPairs:
    """Distinct anchors [Q] and documents [N], and the distinct pairs [P] of them in the order of the anchors."""

    anchors: list[str]
    documents: list[str]
    pair_anchor: Rows  # [P]
    pair_document: Rows  # [P]
    max_rows_per_anchor: int  # in the data set

    @classmethod
    def from_rows(cls, anchors: list[str], positives: list[str], corpus: Sequence[str] | None) -> "TextPairs":
        """Pairs of a data set's rows; the documents are those of the corpus, then the positives."""
        documents = list(dict.fromkeys([*(corpus or []), *positives]))
        document_row = {text: row for row, text in enumerate(documents)}
        anchor_row = {text: row for row, text in enumerate(dict.fromkeys(anchors))}
        rows = np.array([anchor_row[text] for text in anchors], np.int64)
        distinct = dict.fromkeys(zip(rows.tolist(), (document_row[text] for text in positives), strict=True))
        pairs = np.array(list(distinct), np.int64).reshape(-1, 2)
        pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
        return cls(list(anchor_row), documents, pairs[:, 0], pairs[:, 1], int(np.bincount(rows).max()))

    def is_positive(self, rows: Rows) -> Bools:
        """Which candidate rows [Q, K] are positives of their anchor, or none at all (-1)."""
        keys = np.sort(self.pair_anchor * len(self.documents) + self.pair_document)
        cells = np.arange(len(rows))[:, None] * len(self.documents) + rows
        nearest = np.minimum(np.searchsorted(keys, cells), len(keys) - 1)
        positive: Bools = (keys[nearest] == cells) | (rows < 0)
        return positive


@dataclass(frozen=True)
class RankedCandidates:
    """Candidates [Q, K] of anchors, best first: rows of documents (-1: none), and scores."""

    rows: Rows
    scores: Floats


def mine_hard_negatives(
    dataset: Any,
    model: Any,
    anchor_column_name: str | None = None,
    positive_column_name: str | None = None,
    corpus: list[str] | None = None,
    cross_encoder: Any = None,
    range_min: int = 0,
    range_max: int | None = None,
    max_score: float | None = None,
    min_score: float | None = None,
    absolute_margin: float | None = None,
    relative_margin: float | None = None,
    num_negatives: int = 3,
    sampling_strategy: Literal["random", "top"] = "top",
    query_prompt_name: str | None = None,
    query_prompt: str | None = None,
    corpus_prompt_name: str | None = None,
    corpus_prompt: str | None = None,
    include_positives: bool = False,
    output_format: str = "triplet",
    output_scores: bool = False,
    batch_size: int = 32,
    faiss_batch_size: int = 16_384,
    use_faiss: bool = False,
    use_multi_process: list[str] | bool = False,
    verbose: bool = True,
    cache_folder: str | None = None,
    seed: int = 0,
) -> Any:
    """Add hard negatives to a `datasets.Dataset` of (anchor, positive) rows.

    Scores are exact cosines; margins are taken from an anchor's lowest positive; the range counts what the other
    conditions leave, as in Sentence Transformers. A row with too few candidates gives fewer triplets, or no n-tuple.
    `random` is a sample drawn by `seed`, the same on every machine. `faiss_batch_size` is the anchors searched at
    once; `use_faiss` searches with a flat FAISS index on the CPU, a piece of the corpus at a time, in place of our own
    exact search. `use_multi_process` (True, or a list of devices) encodes and reranks in Sentence Transformers' pool of
    processes. `include_positives` leaves positives among the candidates, and gives n-tuples.

    Raises UserError for settings that leave no room for `num_negatives`, for an unknown output format, and for
    `use_multi_process` with a model that has no such pool.
    """
    output_format = "n-tuple" if include_positives else output_format
    _check_format(output_format)
    if use_multi_process and isinstance(cross_encoder, str | Reranker):
        raise UserError("use_multi_process: needs Sentence Transformers' CrossEncoder as cross_encoder")
    names = _columns(dataset, anchor_column_name, positive_column_name)
    table = dataset.with_format("arrow").select_columns(list(dict.fromkeys(names)))[:]
    pairs = TextPairs.from_rows(table[names[0]].to_pylist(), table[names[1]].to_pylist(), corpus)
    bounded = any(bound is not None for bound in (absolute_margin, relative_margin, max_score))
    bounded = bounded or (cross_encoder is not None and min_score is not None)
    last = range_max
    if last is None:
        last = range_min + num_negatives * (10 if bounded else 1) + pairs.max_rows_per_anchor
    if not 0 <= range_min <= last - num_negatives or num_negatives < 1:
        raise UserError(
            f"range_min {range_min} and range_max {last} leave no room for num_negatives {num_negatives}; "
            "lower range_min or num_negatives, or raise range_max"
        )
    rule = ThresholdRule(
        num_negatives=num_negatives, max_percentage=None, relative_margin=relative_margin, max_score=max_score,
        absolute_margin=absolute_margin, min_score=min_score, skip_top=range_min, last_rank=last, window="allowed",
        strategy=Strategy.TOP if sampling_strategy == "top" else Strategy.SAMPLED, seed=seed,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, text_encoder(model, batch_size, use_multi_process) as encoder:
        path = Path(cache_folder or folder)
        path.mkdir(parents=True, exist_ok=True)
        documents = cached_vectors(path, pairs.documents, encoder, "document", corpus_prompt_name, corpus_prompt)
        anchors = cached_vectors(path, pairs.anchors, encoder, "query", query_prompt_name, query_prompt)
        search = _search_by_faiss if use_faiss else _search
        candidates = search(anchors, documents, last + pairs.max_rows_per_anchor, faiss_batch_size)
        positive_scores = _positive_scores(pairs, anchors, documents, faiss_batch_size)
    if cross_encoder is not None and (bounded or min_score is not None):
        candidates, positive_scores = _rerank(pairs, candidates, cross_encoder, batch_size, use_multi_process)
    rows = _select(pairs, candidates, positive_scores, rule, include_positives=include_positives)
    if verbose:
        _report(rows, num_negatives)
    return _convert(rows, names, output_format, num_negatives, scores=output_scores)


def _check_format(name: str) -> None:
    choices = [choice for choice, form in OUTPUT_FORMATS.items() if not form.json_lines]
    if name not in choices:
        raise UserError(f"output_format {name!r}: choose from {', '.join(choices)}")


def _columns(dataset: Any, anchor: str | None, positive: str | None) -> tuple[str, str]:
    """Names of the anchors' and positives' columns: those named, where the data set has them, else the first two."""
    existing = list(dataset.column_names)
    if len(existing) < 2 or not len(dataset):
        raise UserError(
            f"dataset: has {len(dataset)} rows of {', '.join(existing)}; it needs a column of anchors, one of "
            "positives, and rows"
        )
    names = [name if name in existing else existing[index] for index, name in enumerate((anchor, positive))]
    return str(names[0]), str(names[1])


def _search(anchors: VectorFile, documents: VectorFile, k: int, block: int) -> RankedCandidates:
    """The k nearest documents of each anchor by our exact search, positives included."""
    k = min(k, documents.count)
    parts = [top_k(queries, (part for _, part in documents.pieces()), k) for _, queries in anchors.pieces(block)]
    return RankedCandidates(np.concatenate([r for _, r in parts]), np.concatenate([s for s, _ in parts]))


def _search_by_faiss(anchors: VectorFile, documents: VectorFile, k: int, block: int) -> RankedCandidates:
    """The k nearest documents of each anchor by flat FAISS indexes of pieces of the corpus, positives included.

    Raises UserError where FAISS is not installed.
    """
    faiss = import_faiss()
    parts = []
    for _, queries in anchors.pieces(block):
        best = TopK.empty(len(queries), min(k, documents.count))
        for first, part in documents.pieces(max(k, block)):
            index = faiss.IndexFlatIP(documents.dim)
            index.add(part)
            scores, rows = index.search(queries, min(k, len(part)))
            best.merge(TopK(scores, rows + first))
        parts.append(best)
    return RankedCandidates(np.concatenate([p.rows for p in parts]), np.concatenate([p.scores for p in parts]))


def _positive_scores(pairs: TextPairs, anchors: VectorFile, documents: VectorFile, block: int) -> Floats:
    """Cosine of each pair [P]."""
    output = np.empty(len(pairs.pair_anchor), np.float32)
    for first, queries in anchors.pieces(block):
        inside = slice(*np.searchsorted(pairs.pair_anchor, [first, first + len(queries)]))
        anchor, row = pairs.pair_anchor[inside] - first, pairs.pair_document[inside]
        scores = np.empty(len(row), np.float32)
        for start, part in documents.pieces():
            at = np.flatnonzero((row >= start) & (row < start + len(part)))
            scores[at] = pairwise_dot(queries, part, anchor[at], row[at] - start)
        output[inside] = scores
    return output


def _rerank(
    pairs: TextPairs,
    candidates: RankedCandidates,
    cross_encoder: Any,
    batch_size: int,
    devices: list[str] | bool,
) -> tuple[RankedCandidates, Floats]:
    """Candidates with a cross-encoder's scores, in their order, and the pairs' scores [P]: all in one call."""
    anchor, column = np.nonzero(candidates.rows >= 0)
    row = candidates.rows[anchor, column]
    anchors, rows = np.concatenate([anchor, pairs.pair_anchor]), np.concatenate([row, pairs.pair_document])
    lefts, rights = [pairs.anchors[at] for at in anchors], [pairs.documents[at] for at in rows]
    scores = _cross_scores(cross_encoder, lefts, rights, batch_size, devices)
    grid = np.full(candidates.rows.shape, -np.inf, np.float32)
    grid[anchor, column] = scores[: len(anchor)]
    order = np.argsort(-grid, axis=1, kind="stable")
    reranked = RankedCandidates(
        np.take_along_axis(candidates.rows, order, axis=1), np.take_along_axis(grid, order, axis=1)
    )
    return reranked, np.asarray(scores[len(anchor) :], np.float32)


def _cross_scores(
    cross_encoder: Any, lefts: list[str], rights: list[str], batch_size: int, devices: list[str] | bool
) -> Any:
    """Scores [N] of pairs of texts by a Reranker, the name of one, or Sentence Transformers' CrossEncoder."""
    if isinstance(cross_encoder, str):
        cross_encoder = Reranker(CrossEncoderConfig(model=cross_encoder))
    if isinstance(cross_encoder, Reranker):
        return cross_encoder.score(lefts, rights)
    with process_pool(cross_encoder, devices) as pool:
        texts = list(zip(lefts, rights, strict=True))
        return np.asarray(cross_encoder.predict(texts, batch_size=batch_size, show_progress_bar=False, **pool))


def _select(
    pairs: TextPairs,
    candidates: RankedCandidates,
    positive_scores: Floats,
    rule: SelectionRule,
    *,
    include_positives: bool,
) -> pa.Table:
    """Rows (anchor, positive, positive_score, negatives) of the pairs, by the rule."""
    lowest = np.full(len(pairs.anchors), np.inf, np.float32)
    np.minimum.at(lowest, pairs.pair_anchor, positive_scores)
    scores = candidates.scores.copy()
    scores[candidates.rows < 0 if include_positives else pairs.is_positive(candidates.rows)] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")
    scores, rows = np.take_along_axis(scores, order, axis=1), np.take_along_axis(candidates.rows, order, axis=1)
    arrays = CandidateArrays.from_scores(scores, lowest)
    if rule.needs_keys:
        documents = np.fromiter((hash64(text) for text in pairs.documents), np.uint64, len(pairs.documents))
        anchors = np.fromiter((hash64(text) for text in pairs.anchors), np.uint64, len(pairs.anchors))
        arrays = replace(arrays, pair_keys=anchors, doc_keys=documents[rows])
    selected = apply_rule(rule, arrays).selected
    negatives = [
        [
            {"text": pairs.documents[rows[anchor, at]], "score": scores[anchor, at]}
            for at in np.flatnonzero(selected[anchor])
        ]
        for anchor in range(len(pairs.anchors))
    ]
    negative_type = pa.list_(pa.struct([("text", pa.string()), ("score", pa.float32())]))
    return pa.table(
        {
            "anchor": pa.array([pairs.anchors[at] for at in pairs.pair_anchor], pa.string()),
            "positive": pa.array([pairs.documents[at] for at in pairs.pair_document], pa.string()),
            "positive_score": pa.array(positive_scores),
            "negatives": pa.array(negatives, negative_type).take(pa.array(pairs.pair_anchor)),
        }
    )


def _report(rows: pa.Table, num_negatives: int) -> None:
    counts = np.array([len(row) for row in rows["negatives"].to_pylist()])
    fewer = f"{(counts < num_negatives).sum():,} rows have fewer than {num_negatives}, {(counts == 0).sum():,} none"
    say(f"mine_hard_negatives: {counts.sum():,} negatives for {len(counts):,} rows; {fewer}")


def _convert(rows: pa.Table, names: tuple[str, str], output_format: str, num_negatives: int, *, scores: bool) -> Any:
    """The rows as a data set in one of Sentence Transformers' formats, under the original data set's column names."""
    from datasets import Dataset

    table = OUTPUT_FORMATS[output_format].convert(rows, num_negatives, scores=scores)
    return Dataset(table.rename_columns([*names, *table.column_names[2:]]))
