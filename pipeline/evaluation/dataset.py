"""What is asked of a model: queries with judgments, triplets, and pairs with gold scores, of one split."""

from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import UserError
from pipeline.storage.artifact import Artifact
from pipeline.storage.files import read_parquet

Document = tuple[str | None, str]  # id, text


@dataclass(frozen=True)
class Triplet:
    """An anchor (its place among the texts), a document that fits it and documents that do not."""

    anchor: int
    positive: Document
    negatives: list[Document]


@dataclass
class Questions:
    """Everything that one split asks; `texts` holds the queries first, in order, then the other query-side texts."""

    query_ids: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    judgments: dict[str, dict[str, int]] = field(default_factory=dict)
    triplets: list[Triplet] = field(default_factory=list)
    labelled: list[tuple[int, int, float]] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    _places: dict[str, int] = field(default_factory=dict)

    def place(self, text: str) -> int:
        """Index of a text among the query-side texts, which takes it in when it is new."""
        found = self._places.setdefault(text, len(self.texts))
        if found == len(self.texts):
            self.texts.append(text)
        return found


def read_questions(data: Artifact, split: str, max_queries: int | None, max_triplets: int) -> Questions:
    """Read what one split of the build artifact asks.

    Raises UserError naming the splits that there are when this one asks nothing.
    """
    questions = Questions()
    add_queries(questions, _split_rows(data, "queries", split), _split_rows(data, "qrels", split), max_queries)
    add_triplets(questions, _split_rows(data, "triplets", split, max_triplets))
    add_labelled(questions, _split_rows(data, "labelled", split))
    if not (questions.query_ids or questions.triplets or questions.labelled):
        raise UserError(f"split '{split}' of {data.path} {_why_empty(data, split, questions)}")
    return questions


def _split_rows(data: Artifact, table: str, split: str, limit: int | None = None) -> pa.Table | None:
    """Rows of one split, file by file, at most `limit`; None where the artifact lacks the table."""
    if not data.has(table):
        return None
    parts, rows = [], 0
    for name in data.files(table):
        found = read_parquet(name, table)
        found = found.filter(pc.equal(found["split"], split))
        parts.append(found if limit is None else found.slice(0, limit - rows))
        rows += len(parts[-1])
        if limit is not None and rows >= limit:
            break
    return pa.concat_tables(parts)


def _why_empty(data: Artifact, split: str, questions: Questions) -> str:
    counted = questions.skipped.get("query_without_relevant_document", 0)
    if counted:
        return f"has {counted} queries, none with a relevant document; there is nothing to measure"
    splits: set[str] = set()
    for table in ("queries", "triplets", "labelled"):
        if data.has(table):
            splits.update(str(name) for name in data.read(table, ["split"])["split"].unique().to_pylist())
    held = f"holds {', '.join(sorted(splits))}" if splits else "has no queries, triplets or labelled pairs"
    return f"has no queries; the artifact {held}; set `split`"


def add_queries(questions: Questions, queries: pa.Table | None, qrels: pa.Table | None, most: int | None) -> None:
    """Take the first `most` queries that have a relevant document, in table order; count the others."""
    if queries is None or qrels is None:
        return
    judgments: dict[str, dict[str, int]] = {}
    columns = (qrels[name].to_pylist() for name in ("query_id", "doc_id", "relevance"))
    for query, doc, grade in zip(*columns, strict=True):
        judgments.setdefault(query, {})[doc] = grade
    without = beyond = 0
    for query, text in zip(queries["query_id"].to_pylist(), queries["text"].to_pylist(), strict=True):
        if not any(grade > 0 for grade in judgments.get(query, {}).values()):
            without += 1
        elif most is not None and len(questions.query_ids) >= most:
            beyond += 1
        else:
            questions.query_ids.append(query)
            questions.texts.append(text)
            questions.judgments[query] = judgments[query]
    questions._places.update({text: place for place, text in reversed(list(enumerate(questions.texts)))})
    _count(questions, query_without_relevant_document=without, query_beyond_max_queries=beyond)


def add_triplets(questions: Questions, triplets: pa.Table | None) -> None:
    """Take triplets that have a negative; count the others."""
    if triplets is None:
        return
    without = 0
    for row in triplets.select(["anchor", "positive_id", "positive", "negatives"]).to_pylist():
        negatives = [(item["doc_id"], item["text"]) for item in row["negatives"] or [] if item["text"]]
        if not negatives:
            without += 1
            continue
        place = questions.place(row["anchor"])
        questions.triplets.append(Triplet(place, (row["positive_id"], row["positive"]), negatives))
    _count(questions, triplet_without_negative=without)


def add_labelled(questions: Questions, labelled: pa.Table | None) -> None:
    """Take pairs with a gold score; both sides count as queries, since neither is a document."""
    if labelled is None:
        return
    without = 0
    for left, right, score in zip(*(labelled[name].to_pylist() for name in ("left", "right", "score")), strict=True):
        if score is None:
            without += 1
        else:
            questions.labelled.append((questions.place(left), questions.place(right), score))
    _count(questions, labelled_pair_without_score=without)


def _count(questions: Questions, **reasons: int) -> None:
    questions.skipped.update({reason: count for reason, count in reasons.items() if count})
