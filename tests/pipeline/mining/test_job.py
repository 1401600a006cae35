"""Mining: exclusion and exact search without Ray; the job on a real model, whatever the number of actors."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.core import schema
from pipeline.core.config import validate
from pipeline.core.errors import UserError
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.mining.candidates import exact_candidates, score_candidates
from pipeline.mining.config import MineConfig
from pipeline.mining.exclusions import (
    NO_KEYS,
    AnchorBlock,
    AnchorKeys,
    Exclude,
    find_positions,
    group_positives,
    known_positives,
    names_of,
)
from pipeline.mining.job import run
from pipeline.mining.plan import group_shards
from pipeline.storage import shards
from pipeline.storage.artifact import Artifact, Draft
from pipeline.storage.vectors import l2_normalize, vectors_table
from pipeline.text.same_document import id_keys, text_keys
from tests.support import zoo
from tests.support.mining import DOCS, reranker_directory, write_mining_data


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return write_mining_data(str(tmp_path_factory.mktemp("mine") / "data"))


def encoded(folder: Path, vectors: np.ndarray, texts: list[str], clusters: list[str | None], cuts: list[int]):
    """Write an encoded corpus cut at rows; returns its files."""
    files = []
    for start, end in itertools.pairwise([0, *cuts, len(vectors)]):
        table = vectors_table(
            pa.chunked_array([[f"d{row}" for row in range(start, end)]]), vectors[start:end], "float16"
        )
        keys = {
            "text_key": text_keys(texts[start:end]),
            "id_key": id_keys([f"d{row}" for row in range(start, end)]),
            "cluster_key": id_keys(clusters[start:end]),
            "category_key": id_keys([f"k{row % 7}" for row in range(start, end)]),
            "group_key": np.zeros(end - start, np.uint64),
            "title_key": np.zeros(end - start, np.uint64),
        }
        for name, column in keys.items():
            table = table.append_column(name, pa.array(column))
        tags = [id_keys([f"t{row % 2}", f"t{row % 3 + 2}"]).tolist() for row in range(start, end)]
        table = table.append_column("tag_keys", pa.array(tags, pa.list_(pa.uint64())))
        shards.commit(str(folder), f"part-{len(cuts)}-{start:03d}", table, {})
        files.append(str(folder / f"part-{len(cuts)}-{start:03d}.parquet"))
    return files


def find(block: AnchorBlock, files: list[str], positives: AnchorKeys, bound: AnchorKeys, exclude: Exclude, k: int):
    positions = find_positions(block, files, positives, bound, exclude)
    return score_candidates(block, files, exact_candidates(block, files, k, positions.excluded).rows, positions)


def test_search_equals_brute_force_with_ties_and_exclusions_for_every_cut(tmp_path: Path):
    rng = np.random.default_rng(3)
    corpus = l2_normalize(rng.normal(size=(300, 16)).astype(np.float32)).astype(np.float16)
    corpus[100:130] = corpus[5]  # thirty-one equal documents: ties across every cut
    anchors = l2_normalize(rng.normal(size=(12, 16)).astype(np.float32)).astype(np.float16)
    anchors[0] = corpus[5]
    texts = [f"text {row % 290}" for row in range(300)]  # rows 290.. read like rows 0..
    clusters = [f"c{row // 4}" if row < 40 else None for row in range(300)]
    positives = [5, 1, 292, 3, 299, 17, 120, 7, 40, 41, 42, 43]
    block = AnchorBlock(
        ids=[f"q{row}" for row in range(12)],
        vectors=anchors.astype(np.float32),
        text_keys=text_keys(["Text  200", *(f"question {row}" for row in range(11))]),
        pair_anchor=np.arange(12),
        positive_ids=[f"d{row}" for row in positives[:-1]] + ["absent"],
        positive_keys=text_keys([texts[row] for row in positives]),
        groups=[None] * 12,
    )
    keys = AnchorKeys(np.arange(12), id_keys(block.positive_ids))
    products = anchors.astype(np.float64) @ corpus.astype(np.float64).T
    twins = corpus.astype(np.float64) @ corpus.astype(np.float64).T
    expected = []
    for row, positive in enumerate(positives):
        near = set(range(4 * (positive // 4), 4 * (positive // 4) + 4)) if positive < 40 and row < 11 else set()
        same = {at for at in range(300) if texts[at] == texts[positive] or (row == 0 and at == 200)}
        order = [at for at in np.lexsort((np.arange(300), -products[row])) if at not in near | same]
        expected.append([f"d{at}" for at in order[:20]])
    for cuts in ([], [7], [5, 100, 110, 299]):
        files = encoded(tmp_path, corpus, texts, clusters, cuts)
        candidates = find(block, files, keys, NO_KEYS, Exclude(), 20)
        assert candidates.doc_ids == expected
        scores = [products[row, int(name[1:])] for row, names in enumerate(expected) for name in names]
        assert np.array_equal(candidates.scores, np.array(scores).astype(np.float32))
        similar = [twins[positives[row], int(name[1:])] for row, names in enumerate(expected[:-1]) for name in names]
        assert np.array_equal(candidates.positive_similarity[: len(similar)], np.array(similar).astype(np.float32))
        assert np.isnan(candidates.positive_similarity[len(similar) :]).all()
        assert np.array_equal(
            candidates.positive_scores[:-1], products[np.arange(11), positives[:-1]].astype(np.float32)
        ) and np.isnan(candidates.positive_scores[-1])


def test_more_candidates_asked_than_the_corpus_has(tmp_path: Path):
    corpus = np.eye(3, 4, dtype=np.float16)
    files = encoded(tmp_path, corpus, ["a", "b", "c"], [None] * 3, [1])
    block = AnchorBlock(
        ["q"], np.ones((1, 4), np.float32), text_keys(["q"]), np.array([0]), ["d1"], text_keys(["b"]), [None]
    )
    candidates = find(block, files, AnchorKeys(np.array([0]), id_keys(["d1"])), NO_KEYS, Exclude(), 9)
    assert candidates.doc_ids == [["d0", "d2"]] and len(candidates.scores) == 2


def test_an_anchor_is_no_candidate_of_itself(tmp_path: Path):
    """A document with the id of the anchor is the anchor, whatever it reads like."""
    files = encoded(tmp_path, np.eye(3, 4, dtype=np.float16), ["a", "b", "c"], [None] * 3, [])
    block = AnchorBlock(
        ["d2"], np.ones((1, 4), np.float32), text_keys(["a question"]), np.array([0]), ["d1"], text_keys(["b"]), [None]
    )
    positives = AnchorKeys(np.array([0]), id_keys(["d1"]))
    assert find(block, files, positives, NO_KEYS, Exclude(), 3).doc_ids == [["d0"]]


def test_known_positives_come_from_every_split_and_only_from_relevance_above_zero(data: str):
    block = AnchorBlock(
        ["q1", "q0", "q21"], np.zeros((3, 4), np.float32), text_keys(["", "", ""]), np.array([0, 1, 2]), [], [], []
    )
    artifact = Artifact.open(data, "build")
    positives = known_positives(names_of(block, [], []), artifact.files("pairs"), artifact.files("qrels"))
    owned = {(int(owner), int(key)) for owner, key in zip(positives.anchors, positives.keys, strict=True)}
    names = [(0, "d08"), (0, "d09"), (1, "d00"), (1, "d03"), (2, "d01")]
    assert owned == {(owner, int(id_keys([name])[0])) for owner, name in names}


def test_siblings_are_the_positives_of_the_same_group(data: str):
    block = AnchorBlock(
        ["q4"], np.zeros((1, 4), np.float32), text_keys([""]), np.array([0]), ["d32"], text_keys([""]), ["g1"]
    )
    positives = group_positives(block, Artifact.open(data, "build").files("pairs"))
    assert set(positives.keys.tolist()) == set(id_keys(["d24", "d32", "d40"]).tolist())


def test_blocks_keep_order_and_never_split_a_shard():
    plan = [shards.Shard(index, "f", 0, rows, 0, str(index)) for index, rows in enumerate([4, 4, 9, 1, 1])]
    assert [[shard.index for shard in block] for block in group_shards(plan, 8)] == [[0, 1], [2], [3, 4]]


def settings(data: str, out: Path, **more) -> MineConfig:
    base = {
        "data": data,
        "out": str(out),
        "encoder": {"layers": 2},
        "top_k": 12,
        "rule": {"num_negatives": 4, "max_percentage": 0.98},
        "rows_per_shard": 7,
    }
    return validate(MineConfig, base | more)


@pytest.mark.ray
def test_mined_negatives_are_right_and_the_same_for_every_number_of_actors_and_block_size(
    data: str, tmp_path: Path, minilm: str, ray_session: None, capfd: pytest.CaptureFixture[str]
):
    first = run(settings(data, tmp_path / "one", num_actors=1))
    second = run(settings(data, tmp_path / "two", num_actors=2, block_rows=14))
    for table in ("candidates", "triplets"):
        assert first.read(table).equals(second.read(table))
    assert first.manifest.dropped == {"empty_anchor": 1, "empty_document": 1, "other_split": 1}
    notes = first.manifest.notes
    assert notes["encoder"] == Encoder.load(validate_encoder(minilm), "cpu").identity
    triplets = first.read("triplets").to_pylist()
    assert [row["anchor_id"] for row in triplets] == [f"q{n}" for n in range(20)] + ["q0", "q20"]
    assert sum(notes["negatives_per_row"].values()) == len(triplets) == 22
    assert notes["negatives_per_row"] == {
        str(n): c
        for n, c in sorted({n: [len(r["negatives"]) for r in triplets].count(n) for n in range(5)}.items())
        if c
    }
    assert triplets[-1]["negatives"] == [] and notes["positive_not_in_corpus"] == 1
    check_against_brute_force(first, minilm)
    assert not (tmp_path / "one" / ".work").exists()

    capfd.readouterr()
    before = (tmp_path / "one" / "manifest.json").stat().st_mtime_ns
    run(settings(data, tmp_path / "one", num_actors=2, block_rows=1))
    assert "already done" in capfd.readouterr().err
    assert (tmp_path / "one" / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="another setting of rule"):
        run(settings(data, tmp_path / "one", rule={"num_negatives": 2}))

    again = run(settings(data, tmp_path / "again", candidates=str(tmp_path / "one"), rule={"num_negatives": 2}))
    assert again.read("candidates").equals(first.read("candidates"))
    assert max(len(row) for row in again.read("triplets")["negatives"].to_pylist()) == 2
    with pytest.raises(UserError, match="another setting of rows_per_shard; only rule and cross_encoder can change"):
        run(settings(data, tmp_path / "odd", candidates=str(tmp_path / "one"), rows_per_shard=5))


@pytest.mark.ray
def test_reranked_fused_and_indexed_candidates_resume_and_are_the_same_for_every_number_of_actors(
    data: str, tmp_path: Path, minilm: str, ray_session: None
):
    pytest.importorskip("faiss", reason="the extra [ann] is not installed")
    cross = {"model": reranker_directory(tmp_path / "reranker", minilm), "dtype": "float32", "top": 9}
    more = {
        "lexical": {}, "cross_encoder": cross, "cache": str(tmp_path / "cache"),
        "index": {"type": "hnsw"},
        "rule": {"num_negatives": 3, "max_percentage": None, "max_cross_score": 0.9, "max_lexical_percentage": 2.0},
    }  # fmt: skip
    first = run(settings(data, tmp_path / "one", num_actors=1, **more))
    notes = first.manifest.notes
    assert notes["index_recall"] == 1.0 and notes["cross_encoder"]["top"] == "9"
    for row in first.read("candidates").to_pylist():
        scored = [candidate["cross_score"] for candidate in row["candidates"]]
        assert None not in scored[:9] and set(scored[9:]) == {None} and row["positive_cross_score"] is not None
        assert all(candidate["lexical_score"] is not None for candidate in row["candidates"])
    names = [row["candidates"][0]["doc_id"] for row in first.read("candidates").to_pylist()]
    assert len(set(names)) > 3

    # Killed before its end: what was committed stays as it is, the rest is done again, vectors come from the cache.
    vectors = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    (tmp_path / "two" / "manifest.json").unlink()
    done = sorted((tmp_path / "two" / "triplets").iterdir())
    assert len(done) == 4
    for path in done[2:]:
        path.unlink()
    untouched = {path.name: path.stat().st_mtime_ns for path in done[:2]}
    second = run(settings(data, tmp_path / "two", num_actors=4, **more))
    for table in ("candidates", "triplets", "tuples"):
        assert first.read(table).equals(second.read(table))
    assert untouched.items() <= {path.name: path.stat().st_mtime_ns for path in done}.items()
    assert vectors == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}


def test_a_model_made_for_the_dot_product_mines_by_it(data: str, tmp_path: Path):
    pytest.importorskip("sentence_transformers")
    model = {"model": zoo.make("nomic_bert, truncated, dot", tmp_path), "dtype": "float32", "backend": "torch"}
    mined = run(settings(data, tmp_path / "out", encoder=model, rule={"num_negatives": 4, "max_percentage": None}))
    encoder = Encoder.load(EncoderConfig(**model), "cpu")
    documents = {doc["doc_id"]: doc["text"] for doc in DOCS if doc["text"].strip()}
    vectors = encoder.encode(list(documents.values()), "document").astype(np.float16).astype(np.float64)
    lengths, other_order = np.linalg.norm(vectors, axis=1), 0
    assert lengths.max() > 1.01 * lengths.min()
    for row, triplet in zip(mined.read("candidates").to_pylist(), mined.read("triplets").to_pylist(), strict=True):
        anchor = encoder.encode([triplet["anchor"]], "query").astype(np.float16).astype(np.float64)[0]
        dots = dict(zip(documents, vectors @ anchor, strict=True))
        cosines = dict(zip(documents, vectors @ anchor / lengths, strict=True))
        names = [candidate["doc_id"] for candidate in row["candidates"]]
        assert [candidate["score"] for candidate in row["candidates"]] == pytest.approx([dots[name] for name in names])
        assert names == sorted(names, key=lambda name: -dots[name])
        other_order += names != sorted(names, key=lambda name: -cosines[name])
    assert other_order, "the two similarities rank alike here: this test shows nothing"


def check_against_brute_force(artifact: Artifact, minilm: str) -> None:
    """Every candidate list is the exact ranking of what is allowed, and every negative what the rule says."""
    encoder = Encoder.load(validate_encoder(minilm), "cpu")
    docs = [doc for doc in DOCS if doc["text"].strip()]
    texts = {doc["doc_id"]: doc["text"] for doc in DOCS}
    corpus = (
        l2_normalize(encoder.encode([doc["text"] for doc in docs], "document")).astype(np.float16).astype(np.float64)
    )
    excluded = {
        "q0": {"d00", "d03", "copy", "near"},
        "q1": {"d08", "d09"},
        "q8": {"d00", "copy", "near"},
        "q16": {"d00", "copy", "near"},
    }
    for row, triplet in zip(
        artifact.read("candidates").to_pylist(), artifact.read("triplets").to_pylist(), strict=True
    ):
        anchor = l2_normalize(encoder.encode([triplet["anchor"]], "query")).astype(np.float16).astype(np.float64)[0]
        barred = excluded.get(row["anchor_id"], set()) | {row["positive_id"]}
        scores = {
            doc["doc_id"]: float(v @ anchor) for doc, v in zip(docs, corpus, strict=True) if doc["doc_id"] not in barred
        }
        ranked = sorted(scores.values(), reverse=True)[:12]
        names = [candidate["doc_id"] for candidate in row["candidates"]]
        assert not barred & set(names) and len(set(names)) == len(names) == 12
        assert np.allclose([candidate["score"] for candidate in row["candidates"]], ranked, atol=4e-3)
        assert np.allclose([scores[name] for name in names], ranked, atol=4e-3)
        twins = [name for name in names if name.startswith("twin")]
        assert twins == sorted(twins)
        if row["positive_id"] == "gone":
            assert row["positive_score"] is None
            continue
        assert row["positive_score"] == pytest.approx(
            float(corpus[[d["doc_id"] for d in docs].index(row["positive_id"])] @ anchor), abs=4e-3
        )
        allowed = [
            (candidate["doc_id"], candidate["score"], rank)
            for rank, candidate in enumerate(row["candidates"], 1)
            if candidate["score"] <= row["positive_score"] * 0.98
        ]
        assert [
            (negative["doc_id"], negative["score"], negative["rank"]) for negative in triplet["negatives"]
        ] == allowed[:4]
        assert all(negative["text"] == texts[negative["doc_id"]] for negative in triplet["negatives"])
        assert all("of positive" in negative["reason"] for negative in triplet["negatives"])


def validate_encoder(model: str) -> EncoderConfig:
    return EncoderConfig.model_validate({"model": model, "layers": 2})


def test_missing_data_and_data_without_pairs_are_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"no such directory; run `tripletail build` first"):
        run(settings(str(tmp_path / "none"), tmp_path / "out"))
    draft = Draft(str(tmp_path / "data"), "build", {}, {})
    row = {"title": "", "tags": [], "source": "t", **DOCS[0]}
    draft.write("corpus", pa.Table.from_pylist([row], schema=schema.TABLES["corpus"]))
    draft.finish(["corpus"])
    with pytest.raises(UserError, match="has no pairs to mine for; it holds corpus"):
        run(settings(str(tmp_path / "data"), tmp_path / "out"))
