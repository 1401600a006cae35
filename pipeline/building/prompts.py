"""Prompts by source: they are put before the texts of a source in the tables, so that every later job sees the same.

This happens when a table is written: duplicates, leaks and lexical negatives are found among the texts without prompts.
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


def with_prompts(table: str, rows: pa.Table, prompts: Mapping[str, Prompts]) -> pa.Table:
    """Rows of a table with, before each text, the prompt that its source has for queries or documents."""
    if not prompts or table not in ROLES:
        return rows
    sources = rows["source"].to_pylist()
    for name, role in ROLES[table].items():
        rows = _set(rows, name, pc.binary_join_element_wise(_prompts(sources, role, prompts), rows[name], ""))
    if table == "triplets":
        columns = zip(_prompts(sources, "document", prompts).to_pylist(), rows["negatives"].to_pylist(), strict=True)
        negatives = [[negative | {"text": prompt + negative["text"]} for negative in row] for prompt, row in columns]
        rows = _set(rows, "negatives", pa.array(negatives, TABLES[table].field("negatives").type))
    return rows


def _prompts(sources: list[str], role: str, prompts: Mapping[str, Prompts]) -> pa.Array:
    return pa.array([getattr(prompts[source], role) if source in prompts else "" for source in sources], pa.string())


def _set(rows: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return rows.set_column(rows.schema.get_field_index(name), name, column)
