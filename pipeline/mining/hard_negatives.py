"""Hard negatives by one call, with the arguments and the results of Sentence Transformers' `mine_hard_negatives`.

Exact search that streams the corpus's vectors from disk: memory follows the block, not the corpus. `model` is a
SentenceTransformer, an `Encoder`, or the name of a model directory; `cross_encoder` is a CrossEncoder, a `Reranker`
or a name. Vectors are kept in `cache_folder` under keys of weights, tokenizer, prompt and texts.
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
from pipeline.mining.candidate_arrays import Cells, Floats, Rows
from pipeline.mining.output_formats import labelled_lists, labelled_pairs, n_tuples, tuples
from pipeline.mining.reranker import CrossConfig, Reranker
from pipeline.mining.rules import Rule, Strategy, choose
from pipeline.mining.vector_cache import Vectors, encoder, stored
from pipeline.search.exact import dots, top_k
from pipeline.text.normalize import hash64

Format = Literal["triplet", "n-tuple", "labeled-pair", "labeled-list"]


@dataclass(frozen=True)
class Asked:
    """Distinct anchors [Q] and documents [N], and the distinct pairs [P] of them in the order of the anchors."""

    anchors: list[str]
    documents: list[str]
    owner: Rows  # [P]
    positive: Rows  # [P]
    most: int  # rows of the data set that share an anchor


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
    output_format: Format = "triplet",
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

    Scores are cosines, exact; margins are taken from an anchor's lowest positive; the range counts what the other
    conditions leave, as the peer's does. A row with too few candidates gives fewer triplets, or no n-tuple. `random`
    is a sample drawn by `seed`, the same on every machine. `faiss_batch_size` is the anchors searched at once; with
    `use_faiss` the search is the same exact one. `include_positives` leaves positives among the candidates, and gives
    n-tuples. Several processes are the job's (`scripts.mine`), not this call's.

    Raises UserError on settings that leave no room for `num_negatives`.
    """
    if use_multi_process:
        say("mine_hard_negatives: encodes in this process; several are what `python -m scripts.mine` is for")
    output_format = "n-tuple" if include_positives else output_format
    names = _columns(dataset, anchor_column_name, positive_column_name)
    rows = dataset.with_format("arrow").select_columns(list(dict.fromkeys(names)))[:]
    asked = _asked(rows[names[0]].to_pylist(), rows[names[1]].to_pylist(), corpus)
    bounded = any(one is not None for one in (absolute_margin, relative_margin, max_score))
    bounded = bounded or (cross_encoder is not None and min_score is not None)
    last = range_max if range_max is not None else range_min + num_negatives * (10 if bounded else 1) + asked.most
    if not 0 <= range_min <= last - num_negatives or num_negatives < 1:
        raise UserError(
            f"range_min {range_min} and range_max {last} leave no room for num_negatives {num_negatives}; "
            "lower range_min or num_negatives, or raise range_max"
        )
    rule = Rule(
        num_negatives=num_negatives, max_percentage=None, relative_margin=relative_margin, max_score=max_score,
        absolute_margin=absolute_margin, min_score=min_score, skip_top=range_min, last_rank=last, window="allowed",
        strategy=Strategy.TOP if sampling_strategy == "top" else Strategy.SAMPLED, seed=seed,
    )  # fmt: skip
    encode = encoder(model, batch_size)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(cache_folder or folder)
        place.mkdir(parents=True, exist_ok=True)
        documents = stored(place, asked.documents, encode, "document", corpus_prompt_name, corpus_prompt)
        anchors = stored(place, asked.anchors, encode, "query", query_prompt_name, query_prompt)
        found, positive = _searched(asked, anchors, documents, last + asked.most, faiss_batch_size)
    if cross_encoder is not None and (bounded or min_score is not None):
        found, positive = _reranked(asked, found, _scorer(cross_encoder, batch_size))
    table = _rows(asked, found, positive, rule, spare=include_positives)
    if verbose:
        _tell(table, num_negatives)
    return _shaped(table, names, output_format, num_negatives, output_scores)


def _columns(dataset: Any, anchor: str | None, positive: str | None) -> tuple[str, str]:
    held = list(dataset.column_names)
    if len(held) < 2 or not len(dataset):
        raise UserError(f"dataset: has {len(dataset)} rows of {', '.join(held)}; wanted anchors and positives")
    named = [name if name in held else held[place] for place, name in enumerate((anchor, positive))]
    return str(named[0]), str(named[1])


def _asked(anchors: list[str], positives: list[str], corpus: Sequence[str] | None) -> Asked:
    documents = list(dict.fromkeys([*(corpus or []), *positives]))
    place = {text: row for row, text in enumerate(documents)}
    distinct = {text: row for row, text in enumerate(dict.fromkeys(anchors))}
    owner = np.array([distinct[text] for text in anchors], np.int64)
    pairs = dict.fromkeys(zip(owner.tolist(), (place[text] for text in positives), strict=True))
    given = np.array(list(pairs), np.int64).reshape(-1, 2)
    given = given[np.argsort(given[:, 0], kind="stable")]
    return Asked(list(distinct), documents, given[:, 0], given[:, 1], int(np.bincount(owner).max()))


@dataclass(frozen=True)
class _Found:
    """Candidates [Q, K] of anchors: rows of documents (-1: none) and scores."""

    rows: Rows
    scores: Floats


def _searched(asked: Asked, anchors: Vectors, documents: Vectors, k: int, block: int) -> tuple[_Found, Floats]:
    """The k nearest of each anchor, its positives among them, and the scores of the pairs [P]."""
    parts = []
    for _, queries in anchors.pieces(block):
        parts.append(top_k(queries, (part for _, part in documents.pieces()), min(k, documents.count)))
    positive = np.empty(len(asked.owner), np.float32)
    for first, queries in anchors.pieces(block):
        near = slice(*np.searchsorted(asked.owner, [first, first + len(queries)]))
        owner, row = asked.owner[near] - first, asked.positive[near]
        found = np.empty(len(row), np.float32)
        for start, part in documents.pieces():
            at = np.flatnonzero((row >= start) & (row < start + len(part)))
            found[at] = dots(queries, part, owner[at], row[at] - start)
        positive[near] = found
    return _Found(np.concatenate([r for _, r in parts]), np.concatenate([s for s, _ in parts])), positive


def _scorer(cross_encoder: Any, batch_size: int) -> Any:
    if isinstance(cross_encoder, str):
        cross_encoder = Reranker(CrossConfig(model=cross_encoder))
    if isinstance(cross_encoder, Reranker):
        return cross_encoder.score
    return lambda lefts, rights: np.asarray(
        cross_encoder.predict(list(zip(lefts, rights, strict=True)), batch_size=batch_size, show_progress_bar=False)
    )


def _reranked(asked: Asked, found: _Found, score: Any) -> tuple[_Found, Floats]:
    """Candidates with a reranker's scores, in their order, and the pairs' [P]: all asked in one batch of pairs."""
    owner, place = np.nonzero(found.rows >= 0)
    row = found.rows[owner, place]
    owners, rows = np.concatenate([owner, asked.owner]), np.concatenate([row, asked.positive])
    scores = score([asked.anchors[at] for at in owners], [asked.documents[at] for at in rows])
    grid = np.full(found.rows.shape, -np.inf, np.float32)
    grid[owner, place] = scores[: len(owner)]
    order = np.argsort(-grid, axis=1, kind="stable")
    ordered = _Found(np.take_along_axis(found.rows, order, axis=1), np.take_along_axis(grid, order, axis=1))
    return ordered, np.asarray(scores[len(owner) :], np.float32)


def _rows(asked: Asked, found: _Found, positive: Floats, rule: Rule, *, spare: bool) -> pa.Table:
    """Rows (anchor, positive, positive_score, negatives) of the pairs, by the rule."""
    lowest = np.full(len(asked.anchors), np.inf, np.float32)
    np.minimum.at(lowest, asked.owner, positive)
    scores = found.scores.copy()
    scores[found.rows < 0 if spare else _known(asked, found.rows)] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")
    scores, rows = np.take_along_axis(scores, order, axis=1), np.take_along_axis(found.rows, order, axis=1)
    cells = Cells.of_scores(scores, lowest)
    if rule.strategy is not Strategy.TOP:
        keys = np.fromiter((hash64(text) for text in asked.documents), np.uint64, len(asked.documents))
        anchors = np.fromiter((hash64(text) for text in asked.anchors), np.uint64, len(asked.anchors))
        cells = replace(cells, pair_keys=anchors, doc_keys=keys[rows])
    taken = choose(cells, rule).taken
    negatives = [
        [
            {"text": asked.documents[rows[anchor, at]], "score": scores[anchor, at]}
            for at in np.flatnonzero(taken[anchor])
        ]
        for anchor in range(len(asked.anchors))
    ]
    kind = pa.list_(pa.struct([("text", pa.string()), ("score", pa.float32())]))
    return pa.table(
        {
            "anchor": pa.array([asked.anchors[at] for at in asked.owner], pa.string()),
            "positive": pa.array([asked.documents[at] for at in asked.positive], pa.string()),
            "positive_score": pa.array(positive),
            "negatives": pa.array(negatives, kind).take(pa.array(asked.owner)),
        }
    )


def _known(asked: Asked, rows: Rows) -> Any:
    """Which candidates [Q, K] are positives of their anchor, or none at all."""
    keys = np.sort(asked.owner * len(asked.documents) + asked.positive)
    cells = np.arange(len(rows))[:, None] * len(asked.documents) + rows
    place = np.minimum(np.searchsorted(keys, cells), len(keys) - 1)
    return (keys[place] == cells) | (rows < 0)


def _tell(table: pa.Table, wanted: int) -> None:
    counts = np.array([len(row) for row in table["negatives"].to_pylist()])
    fewer = f"{(counts < wanted).sum():,} rows have fewer than {wanted}, {(counts == 0).sum():,} of them none"
    say(f"mine_hard_negatives: {counts.sum():,} negatives for {len(counts):,} rows; {fewer}")


def _shaped(table: pa.Table, names: tuple[str, str], form: Format, count: int, scores: bool) -> Any:
    """The data set in one of the peer's formats, under the data set's own names."""
    from datasets import Dataset

    if form == "triplet":
        made = tuples(table, scores=scores)
    elif form == "n-tuple":
        made = n_tuples(table, count, scores=scores)
    elif form == "labeled-list":
        made = labelled_lists(table, scores=scores)
    elif form == "labeled-pair":
        made = labelled_pairs(table, scores=scores)
    else:
        raise UserError(f"output_format {form!r}: choose from triplet, n-tuple, labeled-pair, labeled-list")
    return Dataset(made.rename_columns([*names, *made.column_names[2:]]))
