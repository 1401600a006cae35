"""BM25 built by Ray tasks, the texts that it is built of, and searches in it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.core import schema
from pipeline.core.errors import UserError
from pipeline.search import bm25_tasks
from pipeline.search.bm25 import BM25Config
from pipeline.search.bm25_index import BM25Index
from pipeline.search.document_table import DocumentTable
from pipeline.search.documents import VectorDocuments
from pipeline.search.exact import TopK
from pipeline.search.systems import search_system
from pipeline.storage.artifact import Artifact, Draft

TEXTS = ["the cat sat", "the dog sat on the mat", "Cat, cat and dogs!", "x", "a red apple", "cats and apples", "sat"]


@pytest.mark.ray
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_an_index_of_any_number_of_shards_is_the_one_in_memory(ray_session: None, tmp_path: Path, rows: int):
    draft = Draft(str(tmp_path), "index", {}, {})
    files = [draft.write("documents", pa.table({"text": part}), n) for n, part in enumerate((TEXTS[:4], TEXTS[4:]))]
    config = BM25Config(k1=0.9)
    bm25_tasks.build(files, str(tmp_path / "bm25"), config, rows=rows, label="test")
    built, whole = BM25Index.load(str(tmp_path / "bm25")), BM25Index.of(TEXTS, config)
    assert built.size == len(TEXTS) and len(built.shards) == {1: 7, 3: 3, 100: 2}[rows] and built.config == config
    assert isinstance(built.shards[0].rows, np.memmap)
    for query in ("cats and a dog", "apple", "zebra"):
        assert built.scores(query).tolist() == whole.scores(query).tolist()


def vectors_of(folder: Path, ids: list[str], inputs: dict[str, str], columns: dict[str, list[str]]) -> Artifact:
    """An artifact of embed with vectors that nobody looks at, in two files."""
    draft = Draft(str(folder / "vectors"), "embed", {}, inputs)
    table = pa.table({"id": ids, "vector": [[1.0, 0.0]] * len(ids), **columns})
    draft.write("vectors", table.slice(0, 2), 0)
    draft.write("vectors", table.slice(2), 1)
    (folder / "vectors" / "config.json").write_text('{"text_column": "text"}')
    return draft.finish(["vectors"])


def corpus_of(folder: Path, ids: list[str], texts: list[str | None]) -> Artifact:
    draft = Draft(str(folder / "data"), "build", {}, {"made": "here"})
    for number, (name, text) in enumerate(zip(ids, texts, strict=True)):
        row = {"doc_id": name, "text": text, "title": "", "source": "s"}
        draft.write("corpus", pa.Table.from_pylist([row], schema=schema.TABLES["corpus"]), number)
    return draft.finish(["corpus"])


def test_texts_are_those_of_the_corpus_or_of_the_vectors(tmp_path: Path):
    data = corpus_of(tmp_path, list("abcde"), ["A", " ", "C", None, "E"])
    inputs = {"data": data.manifest.fingerprint}
    documents = VectorDocuments.with_texts(vectors_of(tmp_path, list("ace"), inputs, {}), data.path)
    parts = list(documents.parts(2))
    assert [part.to_pydict() for part in parts] == [
        {"id": ["a", "c"], "text": ["A", "C"]},
        {"id": ["e"], "text": ["E"]},
    ]
    copied = vectors_of(tmp_path, list("xyz"), {"input": "i"}, {"text": ["1", "2", "3"]})
    assert [table["text"].to_pylist() for table in VectorDocuments.with_texts(copied, "nowhere")] == [["1", "2"], ["3"]]


def test_texts_that_are_not_to_be_had_are_refused(tmp_path: Path):
    data = corpus_of(tmp_path, list("abc"), ["A", "B", "C"])
    inputs = {"data": data.manifest.fingerprint}
    with pytest.raises(UserError, match="holds no texts for BM25; embed with column `text` among `columns`"):
        VectorDocuments.with_texts(vectors_of(tmp_path, list("abc"), {"input": "i"}, {}), data.path)
    with pytest.raises(UserError, match=r"name in `data` what was embedded; .*data is another artifact"):
        VectorDocuments.with_texts(vectors_of(tmp_path, list("abc"), {"data": "other"}, {}), data.path)
    for ids in ("acb", "abcd"):
        documents = VectorDocuments.with_texts(vectors_of(tmp_path, list(ids), inputs, {}), data.path)
        with pytest.raises(UserError, match="its documents are not those of the corpus in their order"):
            list(documents)


def test_a_table_is_read_by_rows_over_files_and_groups(tmp_path: Path):
    draft = Draft(str(tmp_path), "index", {}, {})
    files = [draft.write("documents", pa.table({"id": range(n * 5, n * 5 + 5)}), n, group_rows=2) for n in range(3)]
    table = DocumentTable(files, ["id"])
    assert len(table.groups) == 9
    assert [row["id"] for row in table.take(np.array([14, 0, 7, 4, 7]))] == [14, 0, 7, 4, 7]
    assert table.take(np.array([], np.int64)) == []


def test_systems_of_a_search_by_name_and_by_settings():
    dense, lexical = TopK(np.float32([[3, 1]]), np.array([[5, 6]])), TopK(np.float32([[2, 1]]), np.array([[6, 7]]))
    ranked = {name: search_system(name).rank(dense, lexical, 2).rows.tolist() for name in ("dense", "bm25", "mix")}
    assert ranked == {"dense": [[5, 6]], "bm25": [[6, 7]], "mix": [[5, 6]]}
    assert search_system({"type": "mix", "weight": 2}).rank(dense, lexical, 2).rows.tolist() == [[6, 5]]
    assert not search_system("dense").lexical and not search_system("bm25").dense
    with pytest.raises(
        UserError, match=r"no system is called 'mixed'; did you mean mix\?; choose from bm25, dense, mix"
    ):
        search_system("mixed")
