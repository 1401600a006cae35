"""Two small sites of Stack Exchange as they were dumped: coffee as its Posts.xml, mathematics educators as tables."""

import html
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
from lxml import etree

from .corpus import (
    DOCUMENT,
    JUDGMENT,
    PAIR,
    QUERY,
    Corpus,
    Outputs,
    github,
    rows_table,
    split_tables,
)
from .splits import read_splits

QUERY_WITH_BODY = QUERY.append(pa.field("body", pa.string()))
LICENCE = "CC BY-SA 3.0"
TAG = re.compile(r"<[^>]+>")
LINE_BREAK = re.compile(r"<br\s*/?>")
FIRST_TAG = re.compile(r"[^<>|]+")
MIN_GOOD_SCORE = 3


def copy_posts(folder: Path) -> Outputs:
    """Leave the dump as it is: the recipe reads it as a user reads their own."""
    return {"Posts.xml": folder / "Posts.xml"}


def prepare_matheducators(folder: Path) -> Outputs:
    """Make a corpus of the answers, and grades from votes: 3 accepted, 2 well voted, 0 voted down, else 1."""
    posts = read_posts(folder / "Posts.xml")
    splits = read_splits("matheducators")
    answers = [post for post in posts.values() if post["PostTypeId"] == "2" and post["ParentId"] in posts]
    judgments = [judge(answer, posts[answer["ParentId"]], splits) for answer in answers]
    asked = {row["query_id"] for row in judgments}
    queries = [query(post, splits) for post in posts.values() if post["PostTypeId"] == "1"]
    queries = [row for row in queries if row["query_id"] in asked]
    titles = {row["query_id"]: row["text"] for row in queries}
    documents = [document(answer, posts[answer["ParentId"]]) for answer in answers]
    pairs = [
        {"anchor": titles[row["query_id"]], "positive": text["text"], "split": row["split"]}
        for row, text in zip(judgments, documents, strict=True)
        if row["relevance"] >= 2
    ]
    return {
        "corpus.parquet": rows_table(documents, DOCUMENT),
        **split_tables("queries", queries, QUERY_WITH_BODY),
        **split_tables("qrels", judgments, JUDGMENT),
        **split_tables("pairs", pairs, PAIR),
    }


def read_posts(path: Path) -> dict[str, dict[str, str]]:
    """Read the attributes of every post, by its id."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True)
    return {row.get("Id"): dict(row.attrib) for row in etree.parse(path, parser).getroot().iter("row")}


def query(question: dict[str, str], splits: dict[int, str]) -> dict[str, Any]:
    """Make a query of a question: its title, and its body beside it."""
    return {
        "query_id": f"q{question['Id']}",
        "text": question["Title"],
        "body": plain_text(question["Body"]),
        "split": splits.get(int(question["Id"]), "train"),
    }


def document(answer: dict[str, str], question: dict[str, str]) -> dict[str, Any]:
    """Make a document of an answer; its category is the first tag of its question."""
    tag = FIRST_TAG.search(question.get("Tags", ""))
    return {
        "doc_id": f"a{answer['Id']}",
        "title": "",
        "text": plain_text(answer["Body"]),
        "category": tag.group() if tag else None,
    }


def judge(answer: dict[str, str], question: dict[str, str], splits: dict[int, str]) -> dict[str, Any]:
    """Grade an answer by what the site's users made of it."""
    score = int(answer["Score"])
    grade = 3 if question.get("AcceptedAnswerId") == answer["Id"] else 2 if score >= MIN_GOOD_SCORE else int(score >= 0)
    split = splits.get(int(question["Id"]), "train")
    return {"query_id": f"q{question['Id']}", "doc_id": f"a{answer['Id']}", "relevance": grade, "split": split}


def plain_text(markup: str) -> str:
    """Take the tags out of a body; blank lines between its paragraphs go too."""
    return re.sub(r"\n{2,}", "\n", html.unescape(TAG.sub("", LINE_BREAK.sub("\n", markup)))).strip()


COFFEE = Corpus(
    name="coffee",
    folder="formats/stackexchange",
    task="question to answer, as a dump",
    origin="https://github.com/Yoav-Shafir/Elasticsearch-Coffee-Search-Engine-JS",
    licence=LICENCE,
    note="coffee.stackexchange.com as dumped in 2015; attribute authors and site",
    downloads=(
        github(
            "Yoav-Shafir/Elasticsearch-Coffee-Search-Engine-JS",
            "97e93c92aaa379fed6d0ee9be94b2024371d6aba",
            "Posts.xml",
            "b8bef6064d18368751c1dfd8745ac4432956ec5e02c158535fada50b644ebe9c",
            759_159,
        ),
    ),
    prepare=copy_posts,
)

MATHEDUCATORS = Corpus(
    name="matheducators",
    folder="qa/stackexchange_matheducators",
    task="question to answers, graded",
    origin="https://github.com/jrfoster/spark-intro",
    licence=LICENCE,
    note="matheducators.stackexchange.com as dumped in 2014; attribute authors and site",
    downloads=(
        github(
            "jrfoster/spark-intro",
            "d242829803d27f4fca6a03065fd85749f505dbef",
            "Posts.xml",
            "9dde5ea5bf6bed7f7b75dd9581a97005c271ee97d0ca1cb42757076fe68bee50",
            3_471_524,
        ),
    ),
    prepare=prepare_matheducators,
)
