"""Try many selection rules on mined candidates: `tripletail sweep --config RECIPE [--grid JSON] [flags]`."""

from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.mining import sweep


def run(config: sweep.SweepConfig) -> list[dict[str, Any]]:
    """Sweep, print the table to choose from, and return a record for each rule."""
    records = sweep.run(config)
    head, *rows = sweep.table_lines(records, config)
    table = Table(*head, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    return records
