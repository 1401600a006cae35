"""Wait until a Ray cluster has so many nodes: `RAY_ADDRESS=HOST:PORT python -m cluster.wait_for_nodes NODES`.

Says how many there are when that changes. Exits with 1 after ten minutes.
"""

import argparse
import sys
import time
from typing import Any

from pipeline.core.progress import say

LIMIT_S = 600.0


def main() -> int:
    """Wait; returns the exit code."""
    import ray

    parser = argparse.ArgumentParser("python -m cluster.wait_for_nodes", description=__doc__)
    parser.add_argument("nodes", type=int)
    wanted, deadline, alive = parser.parse_args().nodes, time.monotonic() + LIMIT_S, -1
    while time.monotonic() < deadline:
        before, alive = alive, _alive(ray)
        if alive != before:
            say(f"cluster: {alive} of {wanted} nodes are up")
        if alive >= wanted:
            return 0
        time.sleep(1)
    say(f"cluster: error: {alive} of {wanted} nodes came up in {LIMIT_S:.0f} s; see start.log on the others")
    return 1


def _alive(ray: Any) -> int:
    """Nodes that are up, 0 before the head answers."""
    try:
        if not ray.is_initialized():
            ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
        return sum(node["Alive"] for node in ray.nodes())
    except ConnectionError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
