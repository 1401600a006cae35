"""MedQuAD: medical questions and answers of the U.S. National Institutes of Health, a topic a file."""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lxml import etree

from .corpus import DOCUMENT, JUDGMENT, PAIR, QUERY, Corpus, Download, Outputs, rows_table, split_tables
from .splits import read_splits

COMMIT = "577bd37b96c02d1833b2c9eed2de9f96964e96cb"
HELD_OUT_FIRST = ("unused", "dev", "train")


class Entry(NamedTuple):
    """One question with its answer, as a file of the archive holds it."""

    answer_id: str
    topic: str
    kind: str
    question: str
    answer: str


def prepare(folder: Path) -> Outputs:
    """Make a corpus of the answers, each once, and of the questions, each once, with the answers that they have."""
    entries = [entry for entry in read_entries(folder / "medquad.tar.gz") if entry.answer]
    documents = merge_answers(entries)
    answer_ids = {document["text"]: document["doc_id"] for document in documents}
    queries, judgments = judge(entries, answer_ids, read_splits("medquad"))
    texts = {answer_id: text for text, answer_id in answer_ids.items()}
    questions = {query["query_id"]: query["text"] for query in queries}
    pairs = [
        {"anchor": questions[row["query_id"]], "positive": texts[row["doc_id"]], "split": row["split"]}
        for row in judgments
    ]
    return {
        "corpus.parquet": rows_table(documents, DOCUMENT),
        **split_tables("queries", queries, QUERY),
        **split_tables("qrels", judgments, JUDGMENT),
        **split_tables("pairs", pairs, PAIR),
    }


def read_entries(archive: Path) -> Iterator[Entry]:
    """Read the question-answer pairs of the archive, by number of their collection and by file name."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True)
    with tarfile.open(archive) as tar:
        files = {tuple(name.split("/")[-2:]): name for name in tar.getnames() if name.endswith(".xml")}
        for collection, file in sorted(files, key=lambda key: (int(key[0].split("_")[0]), key[1])):
            member = tar.extractfile(files[collection, file])
            assert member is not None, "a name that ends in .xml is a file"
            document = etree.fromstring(member.read(), parser)
            topic = (document.findtext("Focus") or "").strip()
            for pair in document.iter("QAPair"):
                question = pair.find("Question")
                yield Entry(
                    f"{collection.split('_')[0]}-{question.get('qid')}",
                    topic,
                    question.get("qtype"),
                    " ".join((question.text or "").split()),
                    " ".join((pair.findtext("Answer") or "").split()),
                )


def merge_answers(entries: list[Entry]) -> list[dict[str, Any]]:
    """Keep the first of equal answers; an id that another answer has already is told apart by the entry's number."""
    documents: dict[str, dict[str, Any]] = {}
    used: set[str] = set()
    for number, entry in enumerate(entries):
        if entry.answer not in documents:
            doc_id = entry.answer_id if entry.answer_id not in used else f"{entry.answer_id}-b{number}"
            used.add(doc_id)
            documents[entry.answer] = {
                "doc_id": doc_id,
                "title": entry.topic,
                "text": entry.answer,
                "category": entry.kind,
            }
    return list(documents.values())


def judge(
    entries: list[Entry], answer_ids: dict[str, str], topic_splits: dict[int, str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Number the questions, and pair each with its answers; an answer counts in its most held-out split."""
    topics: dict[str, int] = {}
    queries: dict[str, dict[str, Any]] = {}
    judgments: dict[tuple[str, str], dict[str, Any]] = {}
    answer_splits: dict[str, str] = {}
    for entry in entries:
        topic = topics.setdefault(entry.topic.lower(), len(topics))
        query = queries.setdefault(
            entry.question.lower(),
            {
                "query_id": f"q{len(queries):05d}",
                "text": entry.question,
                "split": topic_splits.get(topic, "train"),
            },
        )
        doc_id = answer_ids[entry.answer]
        answer_splits[doc_id] = min(query["split"], answer_splits.get(doc_id, "train"), key=HELD_OUT_FIRST.index)
        judgments[query["query_id"], doc_id] = {
            "query_id": query["query_id"],
            "doc_id": doc_id,
            "relevance": 1,
            "split": query["split"],
        }
    kept = [row for row in judgments.values() if row["split"] == answer_splits[row["doc_id"]]]
    answered = {row["query_id"] for row in kept}
    return [query for query in queries.values() if query["query_id"] in answered], kept


MEDQUAD = Corpus(
    name="medquad",
    folder="qa/medquad",
    task="question to answer",
    origin="https://github.com/abachaa/MedQuAD",
    licence="CC BY 4.0",
    note="answers that the authors withheld for copyright are left out",
    downloads=(
        Download(
            "medquad.tar.gz",
            f"https://codeload.github.com/abachaa/MedQuAD/tar.gz/{COMMIT}",
            size=7_300_000,
            sha256="419b57555ac2daa27a91f4e1e77aedb8d0a802fc12224e83d2534f0fe3a375bf",
            unpacked=True,
        ),
    ),
    prepare=prepare,
)
