"""CSV that a spreadsheet opens: no text in it is taken for a formula (CSV injection, OWASP)."""

import csv
import io
from collections.abc import Iterable, Sequence

_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # also in full width  # noqa: RUF001


def csv_text(head: Sequence[str], rows: Iterable[Sequence[str | float]]) -> str:
    r"""Write rows of texts and numbers as CSV, after a byte-order mark by which Excel knows UTF-8.

    >>> csv_text(["query", "score"], [["=1+1", -0.5]]).splitlines()[1]
    "'=1+1,-0.5"
    """
    text = io.StringIO()
    writer = csv.writer(text)
    for row in (head, *rows):
        writer.writerow([plain_text(cell) if isinstance(cell, str) else cell for cell in row])
    return "\ufeff" + text.getvalue()


def plain_text(text: str) -> str:
    """Put an apostrophe before a text that a spreadsheet would run as a formula, also behind blanks or line ends."""
    return f"'{text}" if text.lstrip().startswith(_FORMULA) or text.startswith(("\t", "\r", "\n")) else text
