"""Prompts by source: what stands before the texts of a source in the tables, so that every later job sees the same.

They are put there when a table is written: duplicates, leaks and lexical negatives are found among the bare texts.
Where all sources share their prompts, those of the encoder (`encoder.prompts`) are simpler: the model then adds them.
"""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.schema import TABLES
from pipeline.sources.reading.record import Prompts

ROLES: dict[str, dict[str, str]] = {
    "corpus": {"text": "document"},
    "queries": {"text": "query"},
    "pairs": {"anchor": "query", "positive": "document"},
    "triplets": {"anchor": "query", "positive": "document"},
    "labelled": {"left": "query", "right": "query"},
}


def prompted(table: str, rows: pa.Table, prompts: Mapping[str, Prompts]) -> pa.Table:
    """Rows of a table, each text after the prompt that its row's source has for what it is."""
    if not prompts or table not in ROLES:
        return rows
    sources = rows["source"].to_pylist()
    for name, role in ROLES[table].items():
        rows = _set(rows, name, pc.binary_join_element_wise(_before(sources, role, prompts), rows[name], ""))
    if table == "triplets":
        before = _before(sources, "document", prompts).to_pylist()
        lists = rows["negatives"].to_pylist()
        found = [[one | {"text": b + one["text"]} for one in held] for b, held in zip(before, lists, strict=True)]
        rows = _set(rows, "negatives", pa.array(found, TABLES[table].field("negatives").type))
    return rows


def _before(sources: list[str], role: str, prompts: Mapping[str, Prompts]) -> pa.Array:
    return pa.array([getattr(prompts[source], role) if source in prompts else "" for source in sources], pa.string())


def _set(rows: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return rows.set_column(rows.schema.get_field_index(name), name, column)
