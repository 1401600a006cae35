"""Dumps of several Stack Exchange sites under one pattern: their numbers mean different posts."""

from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from tests.support.corpora import build, inline, table

__all__ = ["inline"]


def write_site(folder: Path, *, links: bool = False) -> None:
    """Question 1 with the accepted answer 2, and question 3, which repeats it."""
    folder.mkdir()
    rows = [f'<row Id="1" PostTypeId="1" AcceptedAnswerId="2" Title="{folder.name}?" />']
    rows += [f'<row Id="2" PostTypeId="2" ParentId="1" Score="4" Body="of {folder.name}" />']
    rows += [f'<row Id="3" PostTypeId="1" Title="{folder.name} again?" />']
    (folder / "Posts.xml").write_text("<posts>\n" + "\n".join(rows) + "\n</posts>\n")
    if links:
        link = '<row Id="1" PostId="3" RelatedPostId="1" LinkTypeId="3" />'
        (folder / "PostLinks.xml").write_text(f"<postlinks>\n{link}\n</postlinks>\n")


def test_each_site_answers_its_own_questions(inline: None, tmp_path: Path):
    write_site(tmp_path / "coffee", links=True)
    write_site(tmp_path / "tea")
    source = {"type": "stackexchange", "path": "*/Posts.xml", "links": "*/PostLinks.xml", "prefix": "se-"}
    artifact = build({"root": str(tmp_path), "sources": [source]}, tmp_path / "run")
    assert sorted((row["query_id"], row["doc_id"]) for row in table(artifact, "qrels")) == [
        ("se-coffee-q1", "se-coffee-a2"),
        ("se-coffee-q3", "se-coffee-q1"),
        ("se-tea-q1", "se-tea-a2"),
    ]
    pairs = sorted((row["anchor"], row["positive"]) for row in table(artifact, "pairs"))
    assert pairs == [("coffee again?", "coffee?"), ("coffee?", "of coffee"), ("tea?", "of tea")]


def test_ids_of_one_site_have_no_folder(inline: None, tmp_path: Path):
    write_site(tmp_path / "coffee")
    source = {"type": "stackexchange", "path": "*/Posts.xml"}
    artifact = build({"root": str(tmp_path), "sources": [source]}, tmp_path / "run")
    assert [(row["query_id"], row["doc_id"]) for row in table(artifact, "qrels")] == [("q1", "a2")]


def test_links_without_posts_are_refused(inline: None, tmp_path: Path):
    for name in ("coffee", "tea", "meta"):
        write_site(tmp_path / name, links=True)
    source = {"type": "stackexchange", "path": ["tea/Posts.xml", "coffee/Posts.xml"], "links": "*/PostLinks.xml"}
    with pytest.raises(UserError, match=r"meta/PostLinks.xml lies in no folder of posts"):
        build({"root": str(tmp_path), "sources": [source]}, tmp_path / "run")


def test_two_sites_in_one_folder_are_refused(inline: None, tmp_path: Path):
    for name in ("coffee", "tea"):
        write_site(tmp_path / name)
        (tmp_path / name / "Posts.xml").rename(tmp_path / f"{name}.xml")
    with pytest.raises(UserError, match=r"id '[aq][12]' of source 'stackexchange' has two texts"):
        build({"root": str(tmp_path), "sources": [{"type": "stackexchange", "path": "*.xml"}]}, tmp_path / "run")
