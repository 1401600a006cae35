"""The manifests of cluster/: what can be known of them without a cloud, a Kubernetes or a Slurm."""

import re
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"


def load(name: str) -> dict:
    return yaml.safe_load((CLUSTER / name).read_text(encoding="utf-8"))


def pins() -> dict[str, str]:
    lines = (CLUSTER / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_every_pin_is_exact_and_named_once():
    lines = [line for line in (CLUSTER / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert not [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.+!]*", line)]
    names = [re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines]
    assert len(names) == len(set(names))


def test_the_installed_versions_are_the_pinned_ones():
    from importlib.metadata import version

    for name in ("ray", "torch", "transformers", "pyarrow", "pydantic", "numpy"):
        assert version(name).split("+")[0] == pins()[name], name


def test_the_runtime_environment_is_one_that_ray_takes():
    from ray.runtime_env import RuntimeEnv

    settings = load("runtime_env.yaml")
    assert set(settings) == {"excludes", "env_vars"}
    RuntimeEnv(**settings)
    assert {".git", ".venv", "runs"} <= set(settings["excludes"])


@pytest.mark.parametrize("name", ["runtime_env.yaml", "rayjob.yaml", "vms.yaml", "slurm.sh", "Dockerfile"])
def test_no_manifest_holds_a_secret_or_opens_the_dashboard(name):
    text = (CLUSTER / name).read_text(encoding="utf-8")
    assert not re.search(r"(?i)(secret_access_key|password|api_key|hf_token)\s*[:=]\s*\S", text)
    assert "0.0.0.0" not in text


def test_vms_pass_the_schema_of_ray_with_the_defaults_of_the_provider():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(load("vms.yaml"))
    validate_config(config)
    assert config["head_node_type"] in config["available_node_types"]
    assert config["available_node_types"][config["head_node_type"]]["resources"] == {"CPU": 0}
    commands = config["setup_commands"] + config["head_setup_commands"] + config["worker_setup_commands"]
    assert not [command for command in commands if "pip" in command], "the provider's defaults install over the image"
    starts = [config[f"{role}_start_ray_commands"][-1] for role in ("head", "worker")]
    assert all("RAY_AUTH_MODE=token ray start" in command for command in starts)
    assert any(remote.endswith(".ray/auth_token") for remote in config["file_mounts"])


def test_the_schema_of_ray_sees_a_mistake():
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.raises(ValidationError):
        validate_config(prepare_config(load("vms.yaml") | {"max_wrokers": 3}))


USER = 1000  # of the image


def test_the_rayjob_has_what_kuberay_requires():
    job = load("rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert len(job["metadata"]["generateName"]) <= 40
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    assert spec["shutdownAfterJobFinishes"] is True and spec["backoffLimit"] >= 1
    assert cluster["rayVersion"] == pins()["ray"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"] == load("runtime_env.yaml")["env_vars"]
    recipe = re.search(r"--config (\S+)", spec["entrypoint"])
    assert recipe and (ROOT / recipe[1]).is_file(), "the image holds scripts/recipes"


def test_the_groups_of_the_rayjob_hang_together():
    cluster = load("rayjob.yaml")["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in groups:
        pod = group["template"]["spec"]
        container = pod["containers"][0]
        assert {mount["name"] for mount in container["volumeMounts"]} <= {volume["name"] for volume in pod["volumes"]}
        assert any(mount["mountPath"] == "/runs" for mount in container["volumeMounts"])
        assert container["resources"]["requests"].keys() == container["resources"]["limits"].keys()
        assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsUser"] == USER
        assert pod["restartPolicy"] == "Never", "as autoscaler v2 wants it"
        if "nvidia.com/gpu" in container["resources"]["limits"]:
            assert [item["key"] for item in pod["tolerations"]] == ["nvidia.com/gpu"]
    assert cluster["autoscalerOptions"]["version"] == "v2"
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_every_manifest_names_the_same_image():
    texts = [(CLUSTER / name).read_text() for name in ("rayjob.yaml", "vms.yaml", "Dockerfile", "README.md")]
    images = {image for text in texts for image in re.findall(r"REGISTRY/tripletail:[\w.]+", text)}
    from pipeline import __version__

    assert images == {f"REGISTRY/tripletail:{__version__}"}


def test_the_image_copies_what_exists_and_installs_the_pins():
    text = (CLUSTER / "Dockerfile").read_text(encoding="utf-8")
    copied = [word for line in re.findall(r"^COPY (.+)$", text, re.M) for word in line.split()[:-1]]
    assert copied and not [name for name in copied if not (ROOT / name).exists()]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    installed = re.search(r"^ARG EXTRAS=(\S+)$", text, re.M)
    assert installed and set(installed[1].split(",")) == extras.keys() - {"dev", "bench"}
    assert f"useradd --create-home --uid {USER} " in text
    assert f"torch=={pins()['torch']}" in text and "PIP_CONSTRAINT=cluster/constraints.txt" in text


@pytest.mark.parametrize(
    "script",
    [
        *["cluster/slurm.sh", "cluster/slurm_node.sh"],
        *["scripts/setup.sh", "scripts/quickstart.sh", "scripts/test.sh", ".ci/run"],
    ],
)
def test_scripts_are_whole_and_can_be_run(script):
    path = ROOT / script
    checked = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert path.stat().st_mode & stat.S_IXUSR
