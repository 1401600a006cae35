"""Values into texts, ids, numbers and categories: what has a meaning is read, anything else is named, never coerced."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources.reading.values import (
    NULL_VALUES,
    UnusableValue,
    attribute_text,
    category_path,
    identifier,
    is_missing,
    lookup,
    number,
    shape,
    tags,
    text,
)


@pytest.mark.parametrize(
    ("value", "result"), [("a", "a"), (7, "7"), (2.5, "2.5"), (["a", None, "b"], "a b"), (None, ""), (math.nan, "")]
)
def test_texts(value: Any, result: str):
    assert text(value, "field") == result


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (True, "answer holds true or false, not a text"),
        ([1, 2], "answer holds a list of numbers, not a text"),
        ([["a"], ["b"]], "answer holds a list of lists of texts, not a text"),
        (b"a", "answer holds a value of type bytes, not a text"),
        (
            {"text": ["300 km"], "answer_start": [12]},
            "answer holds an object with text, answer_start, not a text; name the field inside it, as "
            "`fields: {positive: answer.text}`",
        ),
        (
            [{"votes": 3, "body": "Use the form."}],
            "answer holds a list of objects with votes, body, not a text; name the field inside it, as "
            "`fields: {positive: answer.body}`",
        ),
    ],
)
def test_what_is_no_text_is_named_with_the_way_to_mend_it(value: Any, message: str):
    with pytest.raises(UnusableValue) as raised:
        text(value, "answer", "positive")
    assert str(raised.value) == message


def test_fields_inside_objects():
    row = {"answers": {"text": ["a", "b"]}, "list": [{"body": "x"}, None, {"body": "y"}, {}], "a.b": "own name"}
    row["deep"] = {"one": [{"two": ["p"]}, {"two": ["q", "r"]}]}
    assert lookup(row, "answers.text") == ["a", "b"]
    assert lookup(row, "list.body") == ["x", None, "y", None]
    assert lookup(row, "deep.one.two") == ["p", "q", "r"]
    assert lookup(row, "a.b") == "own name"
    assert lookup(row, "nothing.body") is None
    with pytest.raises(UnusableValue, match=r"answers.text is a text, not an object with a field 'more'"):
        lookup({"answers": {"text": ["a"]}}, "answers.text.more")


def test_what_says_nothing():
    nothing = ["", "  ", None, math.nan, [], {}, [None, ""], {"text": [], "start": None}]
    assert all(is_missing(value) for value in nothing)
    assert not any(is_missing(value) for value in ["a", 0, False, [0], {"a": 1}, "nan"])
    assert all(is_missing(f" {value} ", NULL_VALUES) for value in NULL_VALUES)
    assert is_missing(["nan", None], NULL_VALUES) and not is_missing("nan bread", NULL_VALUES)


def test_ids_are_texts_or_numbers():
    assert [identifier(value, "id") for value in (" a ", 7, None, "\ud800x")] == ["a", "7", "", "x"]
    for wrong in (True, ["a"], {"$oid": "5f"}):
        with pytest.raises(UnusableValue, match=r"id holds .*, not an id"):
            identifier(wrong, "id")


@pytest.mark.parametrize(("value", "result"), [("1", 1.0), (" 2.5 ", 2.5), (True, 1.0), (0, 0.0)])
def test_numbers(value: Any, result: float):
    assert number(value, "score") == result


@pytest.mark.parametrize("value", ["yes", "", "nan", "inf", None, [1], {"a": 1}])
def test_what_is_no_number_is_named(value: Any):
    with pytest.raises(UnusableValue, match=r"score is .*, not a number; say what it counts by `grades`"):
        number(value, "score")


@pytest.mark.parametrize(
    "value",
    [
        "Home > Kitchen",
        "Home>Kitchen",
        ["Home", "Kitchen"],
        [["Home", "Kitchen"], ["Gifts"]],
        '["Home >> Kitchen"]',
        ["Home > Kitchen", "Sale"],
        {"lvl0": "Home", "lvl1": "Home > Kitchen"},
        {"lvl0": ["Home"], "lvl1": ["Home > Kitchen", "Home > Gifts"]},
        [None, "Home", " Kitchen "],
        "['Home', 'Kitchen']",
        "[['Home', 'Kitchen'], ['Gifts']]",
        '{"lvl0": "Home", "lvl1": "Home > Kitchen"}',
        ["Home", "Home > Kitchen"],
        ["Home > Kitchen", "Home", None],
        "Home > Kitchen, Home > Gifts",
        "Home, Home > Kitchen"[6:],
    ],
)
def test_categories_are_one_path(value: Any):
    assert category_path(value, ">") == "Home > Kitchen"


@pytest.mark.parametrize(
    "path",
    [
        "Food, Beverages & Tobacco > Beverages",
        "Electronics > Print, Copy, Scan & Fax > Printers",
        "Toys > Dolls, Playsets & Figures > Dolls",
        "Coffee, tea",
        "[Sale] > Mugs",
    ],
)
def test_a_comma_in_a_level_is_no_end_of_a_path(path: str):
    assert category_path(path, ">") == path


def test_markup_in_a_list_of_levels_makes_it_no_list_of_paths():
    assert category_path(["Gifts", "Cards", "</span></span>"], ">") == "Gifts > Cards > </span></span>"


def test_a_field_of_categories_holds_several():
    assert category_path("Clothing > Tops > Hoodies, Sale", ">", several=True) == "Clothing > Tops > Hoodies"
    assert category_path("Salt\\, pepper > Mills, Sale", ">", several=True) == "Salt, pepper > Mills"
    assert category_path("Kitchen, Home", ">", several=True) == "Kitchen, Home"


def test_an_array_as_numpy_prints_it_is_named():
    with pytest.raises(UnusableValue, match="an array as NumPy prints it"):
        category_path("['Home' 'Kitchen']", ">")
    with pytest.raises(UnusableValue, match="an array as NumPy prints it"):
        tags("['a' 'b']")
    assert tags("['tea', 'red']") == ["tea", "red"]


@pytest.mark.parametrize(
    ("value", "kind"), [({"id": 3, "name": "Kitchen"}, "an object"), ([{"name": "a"}], "a list of")]
)
def test_categories_of_other_shapes_are_named(value: Any, kind: str):
    with pytest.raises(
        UnusableValue, match=rf"category holds {kind} .*, not a path; name the field inside it, as .*name"
    ):
        category_path(value, ">")
    assert category_path([], ">") is None


def test_tags():
    assert tags('["tea", "red"]') == tags(["tea", " red "]) == tags("tea, red") == ["tea", "red"]
    with pytest.raises(UnusableValue, match="tags hold a list of objects with name, not texts"):
        tags([{"name": "tea"}])


def test_attributes():
    value = {"size": "L", "none": None, "parts": ["a", "b"], "organic": True, "box": {"w": 2, "h": 3}}
    assert attribute_text(value) == "size: L; parts: a b; organic: yes; box: w 2, h 3"
    assert attribute_text("colour: red") == "colour: red" and attribute_text(None) == ""


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)


@given(value=VALUES)
def test_a_value_is_read_or_named_and_nothing_of_its_shape_gets_into_the_text(value: Any):
    for rule in (text, identifier):
        try:
            result = rule(value, "field")
        except UnusableValue as problem:
            assert shape(value) in str(problem)
        else:
            assert isinstance(result, str) and not isinstance(value, dict | bytes | bool)
