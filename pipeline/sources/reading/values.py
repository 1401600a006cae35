"""Conversion of JSON, Arrow and CSV values into what a role needs: a text, several texts, an id, a number, a path.

Nothing is coerced. A text is a string, a number or a list of strings; an object counts only where the recipe names a
field inside it (`answers.text`). Anything else raises `UnusableValue`, which names the shape and the way to mend it.
"""

import ast
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal
from typing import Any

from pipeline.text.normalize import normalise

NULL_VALUES = (
    *("\\N", "NULL", "Null", "null", "NaN", "nan", "NaT", "None", "N/A", "n/a", "#N/A", "<NA>", "<null>", "(null)"),
    *("undefined", "#VALUE!", "#REF!", "#NAME?", "#DIV/0!", "No Answer Present.", "[]", "{}"),
)
SHORT = 24  # bytes: longer texts are not looked up among the null values
SHAPE_DEPTH = 3
LONGEST_LITERAL = 100_000  # characters of a list as Python writes it
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")
_LIST_COMMA = re.compile(r"(?<!\\),")  # a comma inside an item is written as `\,`
_NUMPY_ITEMS = re.compile(r"['\"]\s+['\"]")  # of ['Home' 'Kitchen']
_PRINTED_OBJECT = re.compile(r"\[?\{'\w+': .*\barray\(", re.DOTALL)  # of {'text': array(['a'], dtype=object)}


class UnusableValue(ValueError):
    """A value is of a shape that its role cannot take."""


def lookup(row: Mapping[str, Any], name: str) -> Any:
    """Return the value of a field; `answers.text` is `text` inside the object, or inside each object, of `answers`.

    A field whose own name holds the dot comes first. Lists of objects give a list, lists inside them are joined to it;
    a string that writes an object or a list, as a cell of a table does, is read as one.
    Raises UnusableValue where something stands in the way that is no object.
    """
    if name in row or "." not in name:
        return row.get(name)
    head, *path = name.split(".")
    value = row.get(head)
    for depth, part in enumerate(path):
        value = _inside(value, part, ".".join([head, *path[:depth]]))
    return value


def _inside(value: Any, name: str, path: str) -> Any:
    value = decoded(value)
    if value is None:
        return None
    if isinstance(value, Mapping):
        return value.get(name)
    if not isinstance(value, list | tuple):
        raise UnusableValue(f"{path} is {shape(value)}, not an object with a field {name!r}")
    inner = [_inside(item, name, path) for item in value]
    if any(isinstance(item, list | tuple) for item in inner):
        return [part for item in inner for part in (item if isinstance(item, list | tuple) else [item])]
    return inner


def is_missing(value: Any, null_values: Collection[str] = ()) -> bool:
    """Whether a value says nothing: null, NaN, blank, one of `null_values`, or a list or object of nothing else."""
    if isinstance(value, str):
        text = value.strip()
        return not text or (len(text) <= SHORT and text in null_values)
    if value is None:
        return True
    if isinstance(value, Mapping):
        return all(is_missing(item, null_values) for item in value.values())
    if isinstance(value, list | tuple):
        return all(is_missing(item, null_values) for item in value)
    return isinstance(value, float | Decimal) and math.isnan(value)


def is_number(value: Any) -> bool:
    """Whether a value is a number; true and false are none."""
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def text(value: Any, name: str, role: str = "") -> str:
    """Return the text of a string, a number or a list of strings, which are joined by blanks; '' for null.

    Raises UnusableValue for any other shape; `name` is the field that holds the value, `role` what it is read for.
    """
    if isinstance(value, str):
        return value
    if value is None or value != value:
        return ""
    if is_number(value):
        return str(value)
    if isinstance(value, list | tuple) and all(item is None or isinstance(item, str) for item in value):
        return " ".join(filter(None, value))
    raise UnusableValue(f"{name} holds {shape(value)}, not a text{mend(value, name, role)}")


def check_no_list(value: str, name: str, role: str) -> None:
    """Raise UnusableValue for a text that writes a list of texts or an object, as cells of tables often do.

    Numbers in brackets, as of a footnote, are a text.
    """
    content = decoded(value) if value.lstrip()[:1] in ("[", "{") else value
    if isinstance(content, list) and not any(isinstance(item, str | list | Mapping) for item in content):
        return
    if content and isinstance(content, list | Mapping):
        how = mend(content, name, role) or f"; `decode: [{name}]` reads it"
        raise UnusableValue(
            f"{name} holds {shape(content)}, written as one text{how}; `decode: []` takes such texts as they are"
        )


def identifier(value: Any, name: str, role: str = "") -> str:
    """Return an id, which is a string or a number, without white space around it; '' for null."""
    if value is None or value != value:
        return ""
    if not (isinstance(value, str) or is_number(value)):
        raise UnusableValue(f"{name} holds {shape(value)}, not an id{mend(value, name, role)}")
    return str(value).strip().encode("utf-8", "ignore").decode()


def number(value: Any, name: str) -> float:
    """Return a number, also one written as text; true is 1 and false is 0. Raises UnusableValue for anything else."""
    if isinstance(value, str | bool) or is_number(value):
        try:
            result = float(value)
        except (ValueError, OverflowError):
            result = math.nan
        if math.isfinite(result):
            return result
    if isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value.strip()):
        raise UnusableValue(f"{name} is {value.strip()!r}, with a comma; write numbers with a point, as 0.5")
    content = repr(value) if isinstance(value, str) else shape(value)
    raise UnusableValue(f"{name} is {content[:60]}, not a number; say what it counts by `grades`, as {{yes: 1, no: 0}}")


def items(value: Any) -> list[Any]:
    """Return a list as it is, nothing for null, and any other value as a list of one."""
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def attribute_text(value: Any, name: str = "attributes") -> str:
    """Return attributes as 'name: value; ...': those of an object, or a text as it is. Empty ones are left out."""
    if not isinstance(value, Mapping):
        return text(value, name)
    return "; ".join(f"{key}: {part}" for key, item in value.items() if (part := _attribute(item, f"{name}.{key}")))


def _attribute(value: Any, name: str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {part}" for key, item in value.items() if (part := _attribute(item, f"{name}.{key}")))
    if isinstance(value, list | tuple):
        return " ".join(filter(None, (_attribute(item, name) for item in value)))
    return text(value, name, "attributes")


def category_path(value: Any, separator: str, *, several: bool = False) -> str | None:
    """Return a category as 'a > b > c'; of several paths the first, as deep as another goes on with it.

    Taken are one path as a string, its levels as a list, several paths as a list of strings of which one holds the
    separator, as a list of lists, or as a string with commas, any of these as JSON or as a literal of Python in a
    string, and levels as an object (`lvl0`, `lvl1` ...: the deepest). A comma parts paths that all begin alike, and any
    in a field that holds `several` categories; elsewhere it is part of a level, as in `Food, Beverages`. Raises
    UnusableValue for other shapes.
    """
    value = decoded(value)
    if isinstance(value, Mapping):
        value = decoded(_deepest_level(value))
    if isinstance(value, list | tuple):
        parts = [part for part in value if not is_missing(part)]
        if any(isinstance(part, list | tuple) or _is_path(part, separator) for part in parts):
            return _first_path([category_path(part, separator) for part in parts])
        return _joined(text(part, "category") if _is_scalar(part) else _refuse_category(value) for part in parts)
    whole = text(value, "category")
    if separator not in whole or "," not in whole:
        return _joined(whole.split(separator))
    paths = [_joined(part.replace("\\,", ",").split(separator)) for part in _LIST_COMMA.split(whole)]
    alike = len({(path or "").split(" > ")[0].casefold() for path in paths}) == 1 and all(
        path and " > " in path for path in paths
    )
    return _first_path(paths) if several or alike else _joined(whole.split(separator))


def holds_several(field: str) -> bool:
    """Whether a field of categories holds several of them by its name, as `categories` does."""
    return field.lower().endswith(("ies", "paths"))


def _is_path(part: Any, separator: str) -> bool:
    """Whether an item of a list is a path by itself; what is left of markup, as `</span>`, is none."""
    return isinstance(part, str) and separator in part and not part.lstrip().startswith("<")


def _joined(levels: Iterable[str]) -> str | None:
    return " > ".join(filter(None, map(normalise, levels))) or None


def _first_path(paths: list[str | None]) -> str | None:
    """The first of several paths; where another goes on with it (Home, then Home > Kitchen), the deepest such."""
    path = next(filter(None, paths), None)
    for longer in filter(None, paths):
        if path and longer.startswith(f"{path} > "):
            path = longer
    return path


def _deepest_level(value: Mapping[str, Any]) -> Any:
    levels = sorted(name for name in value if name.rstrip("0123456789") in ("lvl", "level") and name[-1].isdigit())
    if not levels or len(levels) < len(value):
        _refuse_category(value)
    filled = [value[name] for name in levels if not is_missing(value[name])]
    return filled[-1] if filled else None


def _refuse_category(value: Any) -> str:
    raise UnusableValue(f"category holds {shape(value)}, not a path{mend(value, 'category', 'category')}")


def tags(value: Any) -> list[str]:
    """Return tags from a list, a list as JSON in a string, or a string with commas; raises UnusableValue for others."""
    value = decoded(value)
    if not isinstance(value, list | tuple):
        value = text(value, "tags").split(",")
    if not all(_is_scalar(item) for item in value):
        raise UnusableValue(f"tags hold {shape(value)}, not texts{mend(value, 'tags', 'tags')}")
    return [tag for tag in (normalise(text(item, "tags")) for item in value) if tag]


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str) or is_number(value)


def decoded(value: Any) -> Any:
    """The list or object that a string writes as JSON or as Python writes it; any other value as it is.

    Raises UnusableValue for an array as NumPy writes it, in which nothing parts the items.
    """
    if not isinstance(value, str) or (ends := value.strip())[:1] + ends[-1:] not in ("[]", "{}"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    if (ends[:2] in ("['", '["') and _NUMPY_ITEMS.search(ends)) or _PRINTED_OBJECT.match(ends):
        raise UnusableValue(f"{ends[:40]!r} is an array as NumPy prints it, not a list; write lists as JSON")
    try:
        literal = ast.literal_eval(ends) if len(ends) <= LONGEST_LITERAL else value
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value
    return literal if isinstance(literal, list | dict) else value


def shape(value: Any, depth: int = SHAPE_DEPTH) -> str:
    """Describe the shape of a value for a message: 'a list of objects with body, votes'."""
    if isinstance(value, Mapping):
        names = ", ".join(list(map(str, value))[:5])
        return f"an object with {names}" if names else "an empty object"
    if isinstance(value, list | tuple):
        kinds = list(dict.fromkeys(shape(item, depth - 1) for item in value if item is not None)) if depth else []
        return f"a list of {' and '.join(_plural(kind) for kind in kinds[:3])}" if kinds else "a list"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, str):
        return "a text"
    return "a number" if is_number(value) else f"a value of type {type(value).__name__}"


def _plural(kind: str) -> str:
    word = kind.removeprefix("an ").removeprefix("a ")
    head, space, rest = word.partition(" ")
    return word if kind in ("null", "true or false") else f"{head}s{space}{rest}"


def mend(value: Any, name: str, role: str) -> str:
    """Return the end of a message that shows how to name a field inside the objects of a value."""
    field = text_field(value)
    return f"; name the field inside it, as `fields: {{{role or name}: {name}.{field}}}`" if field else ""


def text_field(value: Any) -> str | None:
    """Return the field of an object, or of the first object of a list, that seems to hold a text; None without one."""
    inner = next((item for item in items(value) if isinstance(item, Mapping)), None)
    if not inner:
        return None
    texts = [key for key, item in inner.items() if isinstance(item, str) or (isinstance(item, list) and item)]
    return str(max(texts or list(inner), key=lambda key: (key == "text", len(str(inner[key])))))
