"""Try many selection rules over mined candidates: `python -m scripts.sweep --config RECIPE [--grid JSON] [flags]`."""

from rich.console import Console
from rich.table import Table

from pipeline.core.config import main
from pipeline.mining.sweep import SweepConfig, run, table_lines


def show(config: SweepConfig) -> None:
    """Sweep, and print the table to choose from."""
    head, *rows = table_lines(run(config), config)
    table = Table(*head, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main(SweepConfig, "mine", show)
