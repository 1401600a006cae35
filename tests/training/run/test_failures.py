"""What a failed run says, what an earlier run in the same place means, how a cluster is divided: all without one."""

import json
import pickle
from pathlib import Path

import pytest

from pipeline.core import ray_session
from pipeline.core.actor_pool import Pool
from pipeline.core.cluster import Cluster, Node
from pipeline.core.config import user_cause, validate
from pipeline.core.errors import UserError
from pipeline.storage import artifact
from training.run.config import TrainConfig
from training.run.ray_trainer import NAME, SNAPSHOT, committed, remove_uncommitted
from training.run.resources import CapacityWatch, plan_resources
from training.run.resume import resolve_existing_run


def failed(*errors: Exception) -> Exception:
    from ray.train import WorkerGroupError

    return WorkerGroupError("workers failed", dict(enumerate(errors)))


def died(reason: str) -> Exception:
    from ray.core.generated.common_pb2 import ActorDiedErrorContext
    from ray.exceptions import ActorDiedError

    return ActorDiedError(ActorDiedErrorContext(error_message=reason, actor_id=b"1" * 16))


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        ([UserError("data: too few rows"), RuntimeError("Connection closed by peer")], "^data: too few rows$"),
        ([RuntimeError("boom"), OSError(28, "No space left on device", "/x/y")], "^/x/y: No space left on device$"),
        ([MemoryError("no"), RuntimeError("Connection closed by peer [127.0.0.1]:1")], "ran out of memory, after 2"),
        ([RuntimeError("DefaultCPUAllocator: can't allocate memory")], "ran out of memory"),
        ([died("The actor died because of an OOM: out of memory")], "ran out of memory"),
        (
            [died("worker process has died"), RuntimeError("Connection closed by peer")],
            "a worker died, after 2",
        ),
        ([RuntimeError("Timed out waiting 60000ms for recv operation")], "within collective_timeout_s 60 s, after 2"),
    ],
)
def test_a_failed_run_is_one_line(errors, words):
    from training.run.failures import explain_failure

    told = explain_failure(failed(*errors), 2, 60.0)
    assert told is not None and "\n" not in str(told)
    with pytest.raises(UserError, match=words):
        raise told


def test_a_defect_keeps_its_traceback():
    from training.run.failures import explain_failure

    assert explain_failure(failed(KeyError("query"), ValueError("shapes")), 2, 60.0) is None


def test_a_users_error_ends_a_run_without_a_restart():
    from ray.train import ControllerError

    from training.run.failures import StopOnRepeatableError

    with pytest.raises(UserError, match="No space left"):
        StopOnRepeatableError().after_exception(
            None, {1: RuntimeError("lost"), 0: OSError(28, "No space left on device")}
        )
    StopOnRepeatableError().after_exception(None, {0: died("killed")})
    assert user_cause(ControllerError(UserError("as it was"))) == "as it was"


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (KeyError("query"), True),
        (ValueError("shapes do not fit"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (8x384 and 256x1)"), True),
        (RuntimeError("gather: rank 1 has columns 2, rank 0 has 1: ranks are out of step"), True),
        (died("worker process has died"), False),
        (RuntimeError("[../gloo/transport/tcp/pair.cc] Connection closed by peer [127.0.0.1]:1"), False),
        (RuntimeError("Timed out waiting 60000ms for recv operation to complete"), False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (MemoryError(), False),
        (ConnectionError("the store did not answer"), False),
    ],
)
def test_a_defect_is_not_restarted_as_a_fault_is(error, again):
    """One rank fails; the other one sees its connection closed, as it does when a machine is lost."""
    from ray.train import ControllerError

    from training.run.failures import StopOnRepeatableError, WorkerDefect, explain_failure

    failures = {0: RuntimeError("Connection closed by peer"), 1: error}
    if not again:
        return StopOnRepeatableError().after_exception(None, failures)
    error.add_note("Traceback (most recent call last): ... line 7, in step_after_timeout, out of memory")
    with pytest.raises(WorkerDefect, match=r"worker 1 failed, and would again: (?s:.*)line 7, in step") as told:
        StopOnRepeatableError().after_exception(None, failures)
    ended = pickle.loads(pickle.dumps(ControllerError(told.value)))
    assert explain_failure(ended, 2, 60.0) is None, "it keeps its traceback"
    assert "line 7, in step_after_timeout" in str(ended)


def begun(log: Path, settings: dict, inputs: dict, steps: list[int]) -> None:
    """An unfinished run with checkpoints of these steps."""
    artifact.begin(str(log), "train", settings, inputs, overwrite=True)
    held = [{"checkpoint_dir_name": f"checkpoint_{step}", "metrics": {"step": step}} for step in steps]
    for one in held:
        (log / NAME / one["checkpoint_dir_name"]).mkdir(parents=True)
    (log / NAME).mkdir(exist_ok=True)
    snapshot = {"checkpoint_results": held, "latest_checkpoint_result": held[-1] if held else None}
    (log / NAME / SNAPSHOT).write_text(json.dumps(snapshot))


SETTINGS = {"loss": {"temperature": 0.05}, "loop": {"seed": 13}}


def config(**given) -> TrainConfig:
    return validate(TrainConfig, given)


def test_an_unfinished_run_of_other_settings_is_refused_by_name(tmp_path: Path):
    log = tmp_path / "training"
    begun(log, SETTINGS, {"data": "a"}, [3, 9])
    resolve_existing_run(config(), str(log), SETTINGS, {"data": "a"})
    resolve_existing_run(config(resume=True), str(log), SETTINGS, {"data": "a"})
    changed = {"loss": {"temperature": 0.1}, "loop": {"seed": 13}}
    with pytest.raises(UserError, match=r"at step 9, with another setting of loss.temperature \(was 0.05, now 0.1\)"):
        resolve_existing_run(config(), str(log), changed, {"data": "a"})
    with pytest.raises(UserError, match=r"from another input \(data\); .*--fresh"):
        resolve_existing_run(config(resume=True), str(log), SETTINGS, {"data": "b"})
    resolve_existing_run(config(overwrite=True), str(log), changed, {"data": "a"})


def test_what_has_no_checkpoint_yet_is_begun_anew_but_not_resumed(tmp_path: Path):
    log = tmp_path / "training"
    begun(log, SETTINGS, {"data": "a"}, [])
    resolve_existing_run(config(), str(log), {"loss": {}}, {"data": "a"})
    for place in (log, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"--resume: .* holds no checkpoint to go on from"):
            resolve_existing_run(config(resume=True), str(place), SETTINGS, {"data": "a"})


def test_fresh_removes_a_run_and_nothing_else(tmp_path: Path):
    log = tmp_path / "training"
    begun(log, SETTINGS, {"data": "a"}, [3])
    resolve_existing_run(config(fresh=True), str(log), SETTINGS, {"data": "a"})
    assert not log.exists()
    log.mkdir()
    (log / "thesis.txt").write_text("mine")
    resolve_existing_run(config(fresh=True), str(log), SETTINGS, {"data": "a"})
    assert (log / "thesis.txt").exists()


def test_how_a_run_is_carried_out_is_not_what_it_is():
    plain = config()
    other = config(workers={"min": 1, "max": 4}, max_failures=9, checkpoints={"keep": 5}, resume=True)
    assert plain.result_settings() == other.result_settings()
    assert plain.result_settings() != config(loop={"seed": 1}).result_settings()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"resume": True, "fresh": True}, "give one of the two"),
        ({"workers": {"min": 3, "max": 2}}, "min 3 is more than max 2"),
        ({"loop": {"patience": 2, "validations": 0}}, "loop.patience needs loop.validations"),
        ({"loop": {"patience": 2}, "validation": {"asynchronous": True}}, "not validation.asynchronous"),
        ({"workers": 0}, "setting 'workers' is 0: .*wanted a number from 1 on, or min and max"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given, words):
    with pytest.raises(UserError, match=words):
        config(**given)


def test_checkpoints_that_were_never_committed_are_removed(tmp_path: Path):
    begun(tmp_path, SETTINGS, {}, [3, 9])
    (tmp_path / NAME / "checkpoint_half").mkdir()
    remove_uncommitted(str(tmp_path))
    assert sorted(path.name for path in (tmp_path / NAME).glob("checkpoint_?")) == ["checkpoint_3", "checkpoint_9"]
    assert not (tmp_path / NAME / "checkpoint_half").exists()
    assert [figures["step"] for figures in committed(str(tmp_path)).values()] == [3, 9]


@pytest.mark.parametrize(
    ("nodes", "gpus", "given", "wanted"),
    [
        ([2], 0, {}, (2, 1.0, False)),
        ([16], 0, {"workers": 4}, (4, 4.0, False)),
        ([16], 0, {"workers": {"min": 2, "max": 8}}, ((2, 8), 2.0, False)),
        ([3], 0, {"workers": 2, "validation": {"asynchronous": True}}, (2, 1.0, False)),
        ([32], 4, {}, (4, 7.0, True)),
        ([1], 0, {"workers": {"min": 1, "max": 4}}, ((1, 4), 1.0, False)),
        ([0, 1, 1], 0, {"workers": 1}, (1, 1.0, False)),
        ([8, 8, 8], 0, {"workers": 2}, (2, 8.0, False)),
        ([6, 2], 0, {"workers": 2}, (2, 3.0, False)),
    ],
)
def test_the_cluster_is_divided(monkeypatch, nodes, gpus, given, wanted):
    gpus_of_a_node = gpus // len(nodes)
    cluster = Cluster(tuple(Node(cpus, gpus_of_a_node) for cpus in nodes))
    monkeypatch.setattr(ray_session, "cluster", lambda: cluster)
    found = plan_resources(config(**given))
    assert (found.count, found.per_worker["CPU"], found.on_gpu) == wanted


@pytest.mark.parametrize(
    ("nodes", "asked", "work", "wanted"),
    [
        ([2, 2, 2], 2, 40, (2, 2.0, 2)),  # 2.5 CPUs each are on no node
        ([2], 2, 40, (2, 0.5, 1)),
        ([2], None, 40, (1, 1.0, 2)),
        ([16], None, 40, (4, 3.75, 4)),
        ([4, 4], 1, 40, (1, 4.0, 4)),
    ],
)
def test_actors_of_a_pool_fit_on_nodes(monkeypatch, nodes, asked, work, wanted):
    monkeypatch.setattr(ray_session, "is_up", lambda: True)
    monkeypatch.setattr(ray_session, "cluster", lambda: Cluster(tuple(map(Node, nodes))))
    found = Pool.plan(asked, work)
    assert (found.size, found.num_cpus, found.threads) == wanted


def test_a_cluster_that_stays_too_small_is_said(monkeypatch):
    import ray

    monkeypatch.setattr(ray_session, "cluster", lambda: Cluster((Node(2),)))
    given = plan_resources(config(workers=2))
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 1.0})
    now = iter([100.0, 110.0, 165.0])
    monkeypatch.setattr("training.run.resources.time.monotonic", lambda: next(now))
    shortage = CapacityWatch(given, 60.0)
    shortage.check()
    shortage.check()
    with pytest.raises(UserError, match="workers 2: the cluster has 1 CPU since 60 s, wanted 1 CPU each"):
        shortage.check()
