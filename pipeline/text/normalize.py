"""Rules for one text: HTML to plain text, normal form, keys and stable hashes."""

import html
import re
import unicodedata
from functools import lru_cache

import lxml.html
import xxhash
from lxml import etree

_BLOCKS = frozenset(
    {"address", "article", "aside", "blockquote", "br", "dd", "div", "dl", "dt", "figure", "footer", "form", "h1"}
    | {"h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p", "pre", "section", "table"}
    | {"td", "th", "tr", "ul"}
)
_SILENT = frozenset({"script", "style", "template", "head", "noscript"})
_TAG = re.compile(
    r"</?(?:a|b|blockquote|br|code|dd|div|dl|dt|em|font|h[1-6]|hr|i|img|li|ol|p|pre|script|span|strong|style|sub|sup|"
    r"table|tbody|td|th|tr|u|ul)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
_CLOSING = re.compile(
    r"</(?:a|b|blockquote|code|dd|div|dl|dt|em|font|h[1-6]|i|li|ol|p|pre|script|section|span|strong|style|sub|sup|"
    r"table|tbody|td|th|thead|tr|u|ul)\s*>|<br\s*/?>",
    re.IGNORECASE,
)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-f]{1,6}|[a-z]{2,31}\d{0,2});", re.IGNORECASE)
_DROPPED = re.compile(
    "[\u0000-\u0008\u000e-\u001b\u007f-\u0084\u0086-\u009f\u00ad\u200b\u2060\ufeff\ufffe\uffff\ud800-\udfff]"
)
_OTHER_TEXT = ("<super>", "<sub>", "<fraction>", "<font>")  # forms of characters whose plain form reads otherwise
_UNKNOWN = re.compile("[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]")  # XML, and with it lxml, refuses these


def html_to_text(markup: str) -> str:
    """Plain text of HTML, with or without tags: block elements end a line, scripts and styles are left out."""
    if not _TAG.search(markup):
        return html.unescape(markup) if _ENTITY.search(markup) else markup
    markup = _DROPPED.sub("", markup)
    parser = lxml.html.HTMLParser()
    try:
        root = lxml.html.fragment_fromstring(markup, create_parent="div", parser=parser)
    except (etree.LxmlError, ValueError):
        return html.unescape(_TAG.sub(" ", markup))
    if any(error.type_name == "ERR_RESOURCE_LIMIT" for error in parser.error_log):  # what lies deeper was cut off
        return html.unescape(_TAG.sub(" ", markup))
    for element in root.iter():
        if not isinstance(element.tag, str) or element.tag in _SILENT:
            element.text = None
        elif element.tag in _BLOCKS:
            element.text = "\n" + _UNKNOWN.sub(" ", element.text or "")
            element.tail = "\n" + _UNKNOWN.sub(" ", element.tail or "")
    return str(root.xpath("string()"))


def looks_like_html(text: str) -> bool:
    """Whether a text holds a closing tag, a line break or an entity of HTML; a lone `<b>` may be anything."""
    return bool(_CLOSING.search(text) or _ENTITY.search(text))


def normalise(text: str) -> str:
    """One form of a text for storage: NFC, without control and invisible characters, runs of white space as one blank.

    Of the characters that have a compatible form, only those take it that read the same: letters of full width,
    ligatures, presentation forms, `...` in one character. Those that a reader would call another text stay:
    10\u207b\u00b3 is not 10-3, \u00bd is not 1\u20442, \u211d is no R. Keys of texts fold them too (`folded`).
    """
    text = _DROPPED.sub("", text)
    if not text.isascii() and not unicodedata.is_normalized("NFKC", text):
        forms = {ord(character): _readable(character) for character in set(text)}
        text = unicodedata.normalize("NFC", text.translate(forms))
    return " ".join(text.split())


@lru_cache(maxsize=1 << 14)
def _readable(character: str) -> str:
    """The compatible form of a character where it reads the same, else the character."""
    tag, *codes = unicodedata.decomposition(character).split() or [""]
    if not tag.startswith("<") or tag in _OTHER_TEXT:
        return character
    form = "".join(_readable(chr(int(code, 16))) for code in codes)
    return character if form.startswith(" ") and form.strip() else form  # \u00b4 is no blank with an accent


def folded(text: str) -> str:
    """Fold a normalised text for comparison: texts that differ in case or in the form of characters only are equal."""
    if not text.isascii() and not unicodedata.is_normalized("NFKC", text):
        text = " ".join(unicodedata.normalize("NFKC", text).split())
    return text.casefold()


def shorten(text: str, limit: int) -> str:
    """Cut a text to at most `limit` characters, at a blank where the second half has one."""
    if len(text) <= limit:
        return text
    blank = text.rfind(" ", limit // 2, limit + 1)
    return text[: blank if blank > 0 else limit].rstrip()


def key(text: str) -> bytes:
    """Return the 128-bit key of a normalised text; texts that differ in case or form of characters have the same."""
    return xxhash.xxh3_128_digest(folded(text).encode("utf-8", "replace"))


def hash64(*parts: object) -> int:
    """Return a 64-bit hash of the parts that is the same in every process, on every machine and Python."""
    return xxhash.xxh3_64_intdigest("\x1f".join(map(str, parts)).encode("utf-8", "replace"))


def stable_id(text: str) -> int:
    """Return the hash of a text as a non-negative 63-bit integer, which a signed column can hold."""
    return hash64(text) >> 1


def identifier(text: str) -> str:
    """Return an id that a table can hold: stripped, without what UTF-8 cannot encode, otherwise unchanged."""
    return text.strip().encode("utf-8", "ignore").decode()
