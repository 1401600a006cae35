"""How numbers and texts are written: no zero before the point, p-values, counts, shortened texts."""

import re
from collections.abc import Mapping
from typing import Any

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def decimal(value: float, digits: int = 3) -> str:
    """Write a share as .512; 1.000 and values below 0 keep their own form."""
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        return "0." + "0" * digits
    return text.replace("0.", ".", 1) if abs(float(text)) < 1 else text


def signed(value: float) -> str:
    """Write a difference with its sign: +.111."""
    return ("" if value < 0 else "+") + decimal(value)


def p_value(value: float) -> str:
    """Write a p-value: 0.0002, 0.031, or < 0.0001."""
    if value < 0.0001:
        return "< 0.0001"
    return f"{value:.4f}" if value < 0.01 else f"{value:.3f}"


def p_equals(value: float) -> str:
    """Write a p-value for a sentence: = 0.031, or < 0.0001."""
    text = p_value(value)
    return text if text.startswith("<") else f"= {text}"


def count(value: int) -> str:
    """Write a count with thousands apart."""
    return f"{value:,}"


def layers(scores: Mapping[str, Any]) -> str:
    """Write how many layers a model has, "3 of 6 layers" or "6 layers"; empty where its scores do not say."""
    kept, whole = scores.get("layers"), scores.get("of")
    if not kept:
        return ""
    return f"{kept} of {whole} layers" if kept != whole else f"{kept} layer{'s' if kept > 1 else ''}"


def with_layers(model: str, scores: Mapping[str, Any]) -> str:
    """Write a model's name and how many layers it has, such as "tuned, 3 of 6 layers"; the name alone without."""
    return ", ".join(filter(None, [model, layers(scores)]))


def reason(key: str) -> str:
    """Write the key of a counted reason as words."""
    return key.replace("_", " ")


def shorten(text: str, limit: int = 240) -> str:
    """One line of at most `limit` characters, cut between words."""
    line = " ".join(text.split())
    if len(line) <= limit:
        return line
    return line[: limit - 3].rsplit(" ", 1)[0] + " ..."


def printable(text: str) -> str:
    """Text without control characters: no escape sequence reaches a terminal, nothing turns the direction of text."""
    return _CONTROL.sub("\ufffd", text)
