"""Where workers fit: twelve shapes of clusters, what training and pools take of them, and what is asked for."""

from pathlib import Path

import pytest
import yaml

from pipeline.core import capacity, ray_session
from pipeline.core.actor_pool import Pool
from pipeline.core.cluster import Cluster, Node, NodeType, node_types
from pipeline.core.errors import UserError
from tests.support.checkout import ROOT
from training.run.config import TrainConfig
from training.run.resources import plan_resources

GPU_TYPE = NodeType(Node(48, 4), 2)
# nodes as (CPUs, GPUs); training as (workers, CPUs each, on GPUs); a pool of 100 items as (actors, CPUs, GPUs, threads)
SHAPES = {
    "one laptop": ([(8, 0)], (2, 4.0, False), (2, 3.5, 0.0, 4)),
    "one CPU": ([(1, 0)], (1, 1.0, False), (1, 0.5, 0.0, 1)),
    "one machine with GPUs": ([(32, 4)], (4, 7.0, True), (4, 7.75, 1.0, 8)),
    "a head without CPUs": ([(0, 0), (16, 0), (16, 0)], (2, 16.0, False), (8, 3.87, 0.0, 4)),
    "nodes of one CPU": ([(0, 0), (1, 0), (1, 0), (1, 0)], (2, 1.0, False), (1, 1.0, 0.0, 1)),
    "CPU nodes beside GPU nodes": ([(0, 0), (16, 0), (48, 4)], (4, 12.0, True), (4, 12.0, 1.0, 12)),
    "many CPU nodes beside one GPU": ([(0, 0), *[(16, 0)] * 8, (8, 1)], (1, 8.0, True), (1, 8.0, 1.0, 8)),
    "two GPU nodes alone": ([(48, 4), (48, 4)], (8, 11.0, True), (8, 11.87, 1.0, 12)),
    "GPU nodes that differ": ([(32, 4), (8, 2)], (6, 4.0, True), (6, 4.0, 1.0, 4)),
    "fewer CPUs than GPUs": ([(0, 0), (2, 4)], (4, 0.5, True), (4, 0.25, 1.0, 1)),
    "uneven CPU nodes": ([(6, 0), (2, 0)], (2, 3.0, False), (2, 3.0, 0.0, 3)),
    "a GPU type at zero nodes": ([(0, 0), (4, 0)], (2, 2.0, False), (1, 3.0, 0.0, 4)),
}


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch):
    def use_nodes(nodes: list[tuple[float, float]]) -> Cluster:
        cluster = Cluster(tuple(Node(*node) for node in nodes))
        monkeypatch.setattr(ray_session, "is_up", lambda: True)
        monkeypatch.setattr(ray_session, "cluster", lambda *_: cluster)
        return cluster

    return use_nodes


@pytest.mark.parametrize("shape", SHAPES)
def test_workers_fit_on_twelve_shapes(use, shape: str):
    nodes, training, pool = SHAPES[shape]
    cluster = use(nodes)
    plan, actors = plan_resources(TrainConfig()), Pool.plan(None, 100)
    assert (plan.count, plan.per_worker["CPU"], plan.on_gpu) == training
    assert cluster.room(plan.per_worker["CPU"], plan.per_worker.get("GPU", 0)) >= plan.min_workers
    assert (actors.size, actors.num_cpus, actors.num_gpus, actors.threads) == pool
    assert cluster.room(actors.num_cpus, actors.num_gpus) >= actors.size


@pytest.mark.parametrize(
    ("nodes", "more", "spare"),
    [
        ([(8, 0)], {}, 0),
        ([(32, 4)], {}, 4),
        ([(16, 0), (48, 4)], {}, 16),
        ([(16, 0), (48, 4)], {"validation": {"asynchronous": True}}, 15),
        ([(3, 0)], {"workers": 2, "validation": {"asynchronous": True}}, 0),
        ([(0, 0), (2, 4)], {}, 0),
    ],
)
def test_what_training_leaves_for_composing_epochs(use, nodes, more, spare):
    use(nodes)
    assert plan_resources(TrainConfig(**more)).spare_cpus == spare


def test_more_workers_than_nodes_have_room_for_are_refused(use):
    use([(0, 0), (2, 0), (4, 0), (4, 0)])
    with pytest.raises(UserError, match="workers 11: the cluster has 1 node with 0 CPUs, 1 node with 2 CPUs, 2 nodes"):
        plan_resources(TrainConfig(workers=11))


@pytest.mark.parametrize(
    ("gpus_up", "types", "requested", "workers", "asked"),
    [
        (0, (GPU_TYPE,), None, None, 8),
        (0, (GPU_TYPE,), None, 3, 3),
        (0, (GPU_TYPE,), None, 20, 8),
        (0, (GPU_TYPE,), 0, None, 0),
        (0, (), None, None, 0),
        (0, (), 2, None, 2),
        (4, (GPU_TYPE,), None, None, 0),
        (4, (GPU_TYPE,), 8, None, 8),
        (4, (GPU_TYPE,), 4, None, 0),
    ],
)
def test_what_the_autoscaler_is_asked_for(gpus_up, types, requested, workers, asked):
    cluster = Cluster((Node(16), Node(48, gpus_up)), types)
    assert capacity.gpus_to_ask_for(cluster, requested, workers) == asked


def test_node_types_of_the_launcher(tmp_path: Path):
    config = yaml.safe_load((ROOT / "cluster" / "vms.yaml").read_text())
    for name, resources in {"cpu": {"CPU": 16}, "gpu": {"CPU": 48, "GPU": 4, "memory": 1 << 37}}.items():
        config["available_node_types"][name]["resources"] = resources  # `ray up` fills them in
    assert node_types(config) == (NodeType(Node(16), 8), NodeType(Node(48, 4, 1 << 37), 2))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    types = capacity.startable_types(tmp_path / "config.yaml")
    assert Cluster((Node(0),), types).max_gpus == 8
    assert capacity.startable_types(tmp_path / "none.yaml") == ()
