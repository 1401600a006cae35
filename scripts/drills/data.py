"""Questions and answers that a drill trains on; every row is about another thing, so that none repeats another."""

from pathlib import Path

import pyarrow as pa

from pipeline.storage import artifact

THINGS = ["kettle", "tent", "drill", "camera", "lamp", "stroller", "hose", "pan", "mouse", "tripod"]


def make_data(folder: Path, rows: int) -> None:
    """Write a build artifact of `rows` questions and answers to train on."""
    draft = artifact.begin(str(folder), "build", {"made": "by a drill"}, {}, overwrite=False)
    assert isinstance(draft, artifact.Draft)
    same = {"source": "drill", "split": "train", "relevance": 1.0, "reason": "judged 1"}
    names = [f"{THINGS[n % len(THINGS)]}{n}" for n in range(rows)]
    pairs = [
        {"anchor_id": f"q-{name}", "anchor": f"how do I mend {name} when it will not start?", "group_id": name}
        | {"positive_id": name, "positive": f"The {name} is repaired with part {name}: open the lid, turn it twice."}
        for name in names
    ]
    draft.write("pairs", pa.Table.from_pylist([pair | same for pair in pairs]))
    draft.finish(["pairs"])
