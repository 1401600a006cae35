"""Whether every node of a cluster sees a folder: a run's directory that only one has would lack what others write."""

import uuid
from pathlib import Path

ANSWER_S = 60.0  # seconds that all nodes together have to answer


def nodes_without(folder: str) -> list[str]:
    """Addresses of the nodes that do not see a local folder as this process does; the session must have been started.

    Example:
        nodes_without("/shared/runs/shop")  # [] where every node mounts /shared
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    Path(folder).mkdir(parents=True, exist_ok=True)
    mark = Path(folder) / f".seen-{uuid.uuid4().hex}"
    mark.touch()
    look = ray.remote(num_cpus=0)(_exists)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    strategies = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
    try:
        looks = [look.options(scheduling_strategy=node).remote(str(mark)) for node in strategies]
        seen = ray.get(looks, timeout=ANSWER_S)
    finally:
        mark.unlink()
    return [node["NodeManagerAddress"] for node, sees in zip(nodes, seen, strict=True) if not sees]


def _exists(path: str) -> bool:
    return Path(path).exists()
