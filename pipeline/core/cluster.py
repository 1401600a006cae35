"""A cluster as a plain value, and where workers fit on it: a worker is on one node, so nodes decide and not totals."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

GPU_SHARES = (0.5, 0.1, 0.0)  # CPUs of a worker with a GPU on nodes that have fewer CPUs than GPUs


@dataclass(frozen=True)
class Node:
    """CPUs, GPUs and bytes of memory that a node gives to tasks and actors."""

    cpus: float
    gpus: float = 0.0
    memory: int = 0

    @classmethod
    def of(cls, resources: Mapping[str, float]) -> "Node":
        """A node of Ray's resources by name, such as {"CPU": 8.0, "GPU": 1.0, "memory": 3e10}."""
        names = ("CPU", "GPU", "memory")
        cpus, gpus, memory = (float(resources.get(name, 0)) for name in names)
        return cls(cpus, gpus, int(memory))

    def room(self, cpus: float, gpus: float) -> int:
        """How many workers of so many CPUs and GPUs fit on it."""
        rooms = [int(available / each + 1e-9) for available, each in ((self.cpus, cpus), (self.gpus, gpus)) if each > 0]
        return min(rooms, default=0)


@dataclass(frozen=True)
class NodeType:
    """A type of nodes that the autoscaler may start, up to `max_count` of them."""

    node: Node
    max_count: int


@dataclass(frozen=True)
class Cluster:
    """The nodes that are up, and the types of nodes that could be.

    >>> Cluster((Node(16), Node(48, gpus=4))).worker_cpus(4, share=16, gpus=1)
    12.0
    """

    nodes: tuple[Node, ...]
    types: tuple[NodeType, ...] = ()

    @property
    def cpus(self) -> float:
        """CPUs of all nodes."""
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> int:
        """Whole GPUs of all nodes."""
        return sum(int(node.gpus) for node in self.nodes)

    @property
    def max_gpus(self) -> int:
        """GPUs that there are or that the autoscaler could bring, whichever is more."""
        return max(self.gpus, sum(int(item.node.gpus) * item.max_count for item in self.types))

    def room(self, cpus: float, gpus: float = 0.0) -> int:
        """How many workers of so many CPUs and GPUs fit on the nodes."""
        return sum(node.room(cpus, gpus) for node in self.nodes)

    def cpus_for(self, gpus: float, aside: float = 0.0) -> float:
        """CPUs of the nodes for workers with so many GPUs, less those to leave `aside` that no other node has."""
        usable = sum(node.cpus for node in self.nodes if not gpus or node.gpus >= min(1.0, gpus))
        return usable - max(0.0, aside - (self.cpus - usable))

    def worker_cpus(self, count: int, share: float, gpus: float = 0.0) -> float:
        """The most CPUs, up to `share`, for each of `count` workers with `gpus` GPUs, with which they all fit on nodes.

        Where they do not fit with one CPU each, it is one all the same, or less with `share`; a GPU goes without a CPU
        rather than unused.
        """
        fewer = GPU_SHARES if gpus else ()
        for each in [share, *range(math.ceil(share) - 1, 0, -1), *fewer]:
            if self.room(each, gpus) >= count:
                return float(each)
        return min(share, 1.0)

    def __str__(self) -> str:
        """Such as "2 nodes with 16 CPUs, 1 node with 48 CPUs and 4 GPUs"; equal nodes are counted together."""
        shapes: dict[tuple[float, int], int] = {}
        for node in self.nodes:
            shape = (node.cpus, int(node.gpus))
            shapes[shape] = shapes.get(shape, 0) + 1
        return ", ".join(_shape(count, *shape) for shape, count in shapes.items()) or "no node"


def _shape(count: int, cpus: float, gpus: int) -> str:
    parts = [f"{amount:g} {name}{'' if amount == 1 else 's'}" for amount, name in ((cpus, "CPU"), (gpus, "GPU"))]
    described = " and ".join(parts if gpus else parts[:1])
    return f"{count} node{'' if count == 1 else 's'} with {described}"


def node_types(config: Mapping[str, Any]) -> tuple[NodeType, ...]:
    """Types of the worker nodes in a configuration of Ray's cluster launcher, as `ray up` leaves it on the head.

    A type without a number of its own may be started as often as the cluster may have workers.
    """
    max_workers = int(config.get("max_workers", 0))
    types: Iterable[tuple[str, Any]] = (config.get("available_node_types") or {}).items()
    return tuple(
        NodeType(Node.of(item.get("resources") or {}), int(item.get("max_workers", max_workers)))
        for name, item in types
        if name != config.get("head_node_type")
    )
