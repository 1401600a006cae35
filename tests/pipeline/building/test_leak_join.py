"""Evaluation texts joined by bucket: each home finds what a look-up in all of them at once finds."""

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.building import leak_join
from pipeline.building.decontamination import (
    EvaluationIndex,
    LeakConfig,
    evaluation_texts,
    find_leaks,
    joined_pair,
    pair_keys,
    text_keys,
)
from pipeline.building.leak_join import Kind, LeakJoin
from pipeline.storage.shuffle import Shuffle

WORDS = [f"w{number}" for number in range(40)]
BUCKETS = 3


def strings(texts: list[str]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(texts, pa.string())])


def corpus(seed: int) -> tuple[list[str], list[tuple[str, str]], list[list[tuple[str, str]]]]:
    """Evaluation texts of few families, labelled pairs, and training rows by home that repeat some, equal or near."""
    draw = random.Random(seed)
    bases = [draw.choices(WORDS, k=draw.choice([1, 4, 30])) for _ in range(4)]

    def near(words: list[str]) -> str:
        changed = [draw.choice(WORDS) if draw.random() < 0.02 else word for word in words]
        text = " ".join(changed)
        return text.upper() if draw.random() < 0.2 else text

    def text() -> str:
        return near(draw.choice(bases)) if draw.random() < 0.7 else " ".join(draw.choices(WORDS, k=draw.randint(0, 90)))

    queries = [text() for _ in range(draw.choice([0, 5, 60]))]
    labelled = [(text(), text()) for _ in range(draw.choice([0, 4]))]
    homes = [[(text(), text()) for _ in range(draw.choice([0, 10]))] for _ in range(BUCKETS)]
    return queries, labelled, homes


def joined(rows: list[tuple[str, str]]) -> pa.Array:
    return joined_pair(*(strings([row[side] for row in rows]) for side in (0, 1)))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), near=st.booleans(), bits=st.sampled_from([1 << 16, 64]))
def test_a_home_finds_what_a_look_up_in_all_texts_finds(tmp_path_factory, seed: int, near: bool, bits: int):
    """Also where the filter is so small that it lets almost everything through."""
    folder, config = tmp_path_factory.mktemp("staging"), LeakConfig(near=near)
    queries, labelled, homes = corpus(seed)
    origins = [("test", "dev")[number % 2] for number in range(len(queries))]
    texts = evaluation_texts(pa.array(queries, pa.string()), origins, config)
    pairs = evaluation_texts(joined(labelled), ["test"] * len(labelled), config)
    answers = text_keys(pa.array([row[1] for rows in homes for row in rows[:3]], pa.string()))
    relevant = np.unique(pair_keys(np.resize(texts["key"].to_numpy(), len(answers)), answers)) if queries else answers
    join = LeakJoin(Shuffle(str(folder), BUCKETS), config)
    half = len(queries) // 2
    for part, rows in enumerate([texts.slice(0, half), texts.slice(half)]):
        join.add_texts(Kind.QUERY, f"{part:05d}", rows)
    join.add_texts(Kind.LABELLED_PAIR, "00000", pairs)
    join.add_keys(Kind.RELEVANT_PAIR, "00000", relevant)
    join.add_keys(Kind.RELEVANT_DOCUMENT, "00000", answers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leak_join, "MIN_BITS", bits)
        patch.setattr(leak_join, "MAX_BITS", bits)
        join.summarise()
    summary = join.read_summary()
    sides = [tuple(strings([row[side] for row in rows]) for side in (0, 1)) for rows in homes]
    for home, (left, right) in enumerate(sides):
        join.ask(home, f"pairs-{home:05d}", left, right, summary)
    for bucket in range(BUCKETS):
        join.match_bands(bucket, f"{bucket:05d}")
    distinct = [join.match_texts(bucket, f"{bucket:05d}") for bucket in range(BUCKETS)]
    assert sum(counts[Kind.QUERY] for counts in distinct) == len(set(texts["key"].to_pylist()))
    everything = EvaluationIndex(texts, config), EvaluationIndex(pairs, config)
    for home, (left, right) in enumerate(sides):
        found = join.evaluation_of(home, summary)
        expected = find_leaks(left, right, *everything, relevant)
        assert find_leaks(left, right, found.queries, found.pairs, found.relevant, found.near) == expected
        shared = np.isin(text_keys(right), np.unique(answers))
        assert (np.isin(text_keys(right), found.documents) == shared).all()


def test_a_task_loads_what_it_compares_alone(tmp_path: Path):
    config, join = LeakConfig(), LeakJoin(Shuffle(str(tmp_path), 2), LeakConfig())
    draw = random.Random(1)
    texts = [" ".join(draw.choices(WORDS, k=30)) for _ in range(500)]
    join.add_texts(Kind.QUERY, "00000", evaluation_texts(pa.array(texts), ["test"] * 500, config))
    join.summarise()
    join.ask(1, "pairs-00001", strings([texts[7], "a new text of ours"]), strings(["x", "y"]), join.read_summary())
    for bucket in range(2):
        join.match_bands(bucket, f"{bucket:05d}")
    for bucket in range(2):
        join.match_texts(bucket, f"{bucket:05d}")
    assert join.evaluation_of(1, join.read_summary()).queries.rows["text"].to_pylist() == [texts[7]]
    assert len(join.evaluation_of(0, join.read_summary()).queries.rows) == 0


def test_a_relevant_pair_the_other_way_round_is_found(tmp_path: Path):
    """A row that asks with the document and answers with the query is a leaked judgment, not a mere query."""
    config, join = LeakConfig(near=False), LeakJoin(Shuffle(str(tmp_path), 2), LeakConfig(near=False))
    query, document = strings(["what is red"]), strings(["a tomato"])
    join.add_texts(Kind.QUERY, "00000", evaluation_texts(query, ["test"], config))
    join.add_keys(Kind.RELEVANT_PAIR, "00000", pair_keys(text_keys(query), text_keys(document)))
    join.summarise()
    join.ask(1, "pairs-00001", document, query, join.read_summary())
    for bucket in range(2):
        join.match_bands(bucket, f"{bucket:05d}")
    for bucket in range(2):
        join.match_texts(bucket, f"{bucket:05d}")
    found = join.evaluation_of(1, join.read_summary())
    assert find_leaks(document, query, found.queries, found.pairs, found.relevant, found.near)[0] == ["leaked_judgment"]


def test_of_texts_with_one_band_the_first_few_are_candidates():
    at, row = leak_join._meet(np.array([3, 5, 5, 5, 9], np.uint64), np.array([5, 9, 4], np.uint64), 2)
    assert (at.tolist(), row.tolist()) == ([0, 0, 1], [1, 2, 4])
