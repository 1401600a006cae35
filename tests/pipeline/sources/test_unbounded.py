"""Small files that unpack to any size, and XML that refers to itself: read in bounded memory, refused or counted."""

import bz2
import gzip
import lzma
import resource
from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.sources import google_merchant
from pipeline.sources.google_merchant import GoogleMerchant
from pipeline.sources.stackexchange import StackExchange

LAUGHS = """<?xml version="1.0"?>
<!DOCTYPE lolz [<!ENTITY a "lol lol lol lol lol lol lol lol lol lol">
{entities}]>
""".format(
    entities="\n".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghi", "bcdefghij", strict=True))
)
FEED = "<rss><channel>{items}</channel></rss>"
ITEM = "<item><id>{n}</id><title>mug {text}</title><description>holds tea</description></item>"
OPENERS = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}


def parsed(source, root: Path):
    """Counts of rows and drops of all blocks."""
    rows, dropped = 0, {}
    for block in source.blocks(str(root), 0, 1 << 20):
        for part in source.parse(block):
            rows += part.tally.counts["rows"]
            for reason, count in part.tally.dropped.items():
                dropped[reason] = dropped.get(reason, 0) + count
    return rows, dropped


@pytest.mark.parametrize(
    ("packed", "filler"), [("gzip", "<x>a</x>"), ("gzip", "<!-- c -->"), ("bzip2", " "), ("xz", " ")]
)
def test_a_feed_whose_item_never_ends_is_refused_in_bounded_memory(packed, filler, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(google_merchant, "LONGEST_ITEM", 1 << 20)
    piece = (filler * (1 << 20))[: (1 << 20) // len(filler) * len(filler)].encode()
    with OPENERS[packed](tmp_path / "feed.xml", "wb") as file:
        file.write(b"<rss><channel>" + ITEM.format(n=1, text="one").encode() + b"<item><id>2</id>")
        for _ in range(12):
            file.write(piece)
    assert (tmp_path / "feed.xml").stat().st_size < 1 << 17, "12 MiB in less than an eighth of one"
    source = GoogleMerchant(type="google_merchant", path="feed.xml")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="1 MiB without the end of an item"):
        parsed(source, tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10, "KiB, of the parser too"


def test_many_items_are_no_item_that_never_ends(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(google_merchant, "LONGEST_ITEM", 1 << 20)
    items = "".join(ITEM.format(n=n, text="word " * 200) for n in range(4000))
    (tmp_path / "feed.xml").write_text(FEED.format(items=items))
    assert parsed(GoogleMerchant(type="google_merchant", path="feed.xml"), tmp_path)[0] == 4000


def test_entities_of_a_feed_do_not_unfold(tmp_path: Path):
    (tmp_path / "feed.xml").write_text(LAUGHS + FEED.format(items=ITEM.format(n=1, text="&j;")))
    source = GoogleMerchant(type="google_merchant", path="feed.xml")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        rows, _ = parsed(source, tmp_path)
        assert rows == 1
    except UserError as error:
        assert "not readable as XML" in str(error)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


def test_no_file_of_this_machine_comes_in_by_an_entity(tmp_path: Path):
    (tmp_path / "secret").write_text("the secret")
    outside = f'<!DOCTYPE rss [<!ENTITY f SYSTEM "file://{tmp_path}/secret">]>'
    (tmp_path / "feed.xml").write_text(outside + FEED.format(items=ITEM.format(n=1, text="&f;")))
    source = GoogleMerchant(type="google_merchant", path="feed.xml")
    texts = []
    for block in source.blocks(str(tmp_path), 0, 1 << 20):
        texts += [str(part.records) if hasattr(part, "records") else str(vars(part)) for part in source.parse(block)]
    assert texts and "the secret" not in "".join(texts)


def test_a_post_that_refers_to_entities_is_one_unreadable_row(tmp_path: Path):
    good = '<row Id="1" PostTypeId="1" Title="how?" Body="so" AcceptedAnswerId="2" Score="1" Tags="" />'
    answer = '<row Id="2" PostTypeId="2" ParentId="1" Body="thus" Score="4" />'
    bad = '<row Id="3" PostTypeId="1" Title="&j;" Body="b" Score="1" Tags="" />'
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<posts>", good, answer, bad, "</posts>"]
    (tmp_path / "Posts.xml").write_text("\n".join(lines))
    rows, dropped = parsed(StackExchange(type="stackexchange", path="Posts.xml"), tmp_path)
    assert rows == 3 and dropped == {"unreadable_row": 1}
