"""Which units of a published corpus are train and which are dev, as in every figure of this project.

A unit is what must not straddle splits: a topic, an article, a question, a query. The lists name units by a number
that the corpus itself gives, such as the order in which they occur in its files. Three lists name units as `unused`:
they are in neither split, so that a last test can be made on what no setting was chosen by.
"""

from pathlib import Path

FOLDER = Path(__file__).parent / "splits"


def read_splits(name: str) -> dict[int, str]:
    """Return the split of every unit that the list of a corpus names; every other unit is train."""
    splits: dict[int, str] = {}
    for line in (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            split, *units = line.split()
            splits |= dict.fromkeys(map(int, units), split)
    return splits
