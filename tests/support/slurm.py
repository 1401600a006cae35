"""A real Slurm on one machine: every node is a network of its own behind a bridge, with its own /tmp.

slurmctld, slurmd and munge are Debian's. Nodes are namespaces of network, mounts and processes, joined by a bridge in a
network of the cluster's own: nothing of it is in the machine's network, and `ray stop` on a node ends that node's
processes only. What nodes share is a folder outside /tmp, as a cluster shares a file system. Needs Linux, root, and
the programs; `missing` says what is not there.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "unshare", "nsenter", "setpriv")
PORTS = {"SlurmctldPort": 26817, "SlurmdPort": 26818}  # in networks of the cluster's own
CONFIG = """
ClusterName=tripletail
SlurmctldHost=login(10.77.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
SwitchType=switch/none
InactiveLimit=0
KillWait=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
{ports}
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """What a real Slurm lacks on this machine, or nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs Linux and root"
    absent = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if absent:
        return f"needs {', '.join(absent)} (Debian: slurmctld slurmd slurm-client munge iproute2)"
    made = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, check=False)
    return "" if made.returncode == 0 else "needs the right to make network namespaces"


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


@dataclass
class Slurm:
    """A running Slurm of `nodes` nodes of two CPUs each; `shared` is the folder that all of them see."""

    nodes: int
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="tt-slurm-", dir="/var/tmp")))
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def shared(self) -> Path:
        """Folder that all nodes see."""
        return self.folder / "shared"

    def __enter__(self) -> "Slurm":
        for name in ("shared", "state"):
            (self.folder / name).mkdir()
        self._write_config()
        (self.folder / "munge.key").write_bytes(os.urandom(1024))
        (self.folder / "munge.key").chmod(0o400)
        self._network()
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for holder in self.processes[: self.nodes + 1]:
            holder.kill()  # the first process of a namespace of processes takes all others with it
        for process in self.processes:
            process.wait(20)
        shutil.rmtree(self.folder, ignore_errors=True)

    def sbatch(self, *arguments: str, cwd: Path, env: dict[str, str], timeout: float) -> tuple[int, str]:
        """Submit a script from outside the nodes and wait; returns its exit code and what it printed."""
        log = self.shared / "job.log"
        command = ["sbatch", "--wait", f"--output={log}", "--chdir", str(cwd), *arguments]
        try:
            done = self.run(command, env=env, timeout=timeout)
            code, answer = done.returncode, done.stdout + done.stderr
        except subprocess.TimeoutExpired:
            code, answer = 124, f"not done after {timeout:.0f} s\n{self.run(['squeue']).stdout}"
        return code, answer + (log.read_text(errors="replace") if log.exists() else "")

    def run(
        self, command: list[str], env: dict[str, str] | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the login node, in the cluster's network."""
        inside = ["nsenter", f"--net=/proc/{self.processes[0].pid}/ns/net", *command]
        return subprocess.run(
            inside, env=self._env() | (env or {}), capture_output=True, text=True, timeout=timeout, check=False
        )

    def _env(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
        return clean | {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": _path()}

    def _write_config(self) -> None:
        lines = [f"NodeName=node{n} NodeAddr=10.77.0.{10 + n} CPUs=2 State=UNKNOWN" for n in self._numbers()]
        ports = "\n".join(f"{name}={port}" for name, port in PORTS.items())
        text = CONFIG.format(folder=self.folder, ports=ports, nodes="\n".join(lines))
        (self.folder / "slurm.conf").write_text(text)
        names = [("localhost", "127.0.0.1"), ("login", "10.77.0.1")]
        names += [(f"node{n}", f"10.77.0.{10 + n}") for n in self._numbers()]
        (self.folder / "hosts").write_text("".join(f"{address} {name}\n" for name, address in names))
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")

    def _numbers(self) -> range:
        return range(1, self.nodes + 1)

    def _network(self) -> None:
        """A network for the cluster with a bridge, and one for each node, joined to it by a pair of interfaces."""
        self._hold("login")
        self._ip(0, "link add br0 type bridge", "addr add 10.77.0.1/24 dev br0", "link set br0 up", "link set lo up")
        for number in self._numbers():
            self._hold(f"node{number}")
            held = self.processes[number].pid
            self._ip(0, f"link add v{number} type veth peer name eth0 netns {held}")
            self._ip(0, f"link set v{number} master br0 up")
            address = f"addr add 10.77.0.{10 + number}/24 dev eth0"
            self._ip(number, address, "link set eth0 up", "link set lo up", "route add default via 10.77.0.1")

    def _hold(self, name: str) -> None:
        """Make namespaces with a name, a network, a /tmp and processes of their own, and a process that keeps them."""
        tmp = self.folder / f"tmp-{name}"
        tmp.mkdir(mode=0o1777)
        tmp.chmod(0o1777)
        mounts = f"mount --rbind {tmp} /tmp && mount --bind {self.folder}/hosts /etc/hosts"
        if ROOT.is_relative_to("/tmp"):  # the checkout is on what the nodes share, wherever it is
            seen = tmp / ROOT.relative_to("/tmp")
            seen.mkdir(parents=True)
            mounts = f"mount --bind {ROOT} {seen} && {mounts}"
        script = f"hostname {name} && {mounts} && echo ready && while :; do sleep 3600; done"
        namespaces = ["--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        bound = ["setpriv", "--pdeathsig", "KILL"]  # none is left where the tests themselves are killed
        holder = subprocess.Popen([*bound, "unshare", *namespaces, "bash", "-c", script], stdout=subprocess.PIPE)
        self.processes.append(holder)
        assert holder.stdout is not None and holder.stdout.readline() == b"ready\n", f"no namespace for {name}"

    def _ip(self, number: int, *commands: str) -> None:
        for command in commands:
            net = f"--net=/proc/{self.processes[number].pid}/ns/net"
            subprocess.run(["nsenter", net, "ip", *command.split()], env=self._env(), check=True)

    def _start(self) -> None:
        socket, key = self.folder / "munge.socket", self.folder / "munge.key"
        munged = ["munged", "--foreground", "--force", f"--socket={socket}", f"--key-file={key}"]
        munged += [f"--{name}-file={self.folder}/munged.{name}" for name in ("pid", "log", "seed")]
        self._spawn(0, munged)
        self._wait(socket.exists, "munged")
        self._spawn(0, ["slurmctld", "-D"])
        for number in self._numbers():
            self._spawn(number, ["slurmd", "-D", "-N", f"node{number}"])
        self._wait(self._all_idle, "Slurm's nodes")

    def _spawn(self, number: int, command: list[str]) -> None:
        held = f"/proc/{self.processes[number].pid}/ns"
        inside = ["nsenter", f"--net={held}/net", f"--mount={held}/mnt", f"--uts={held}/uts"]
        inside += [f"--pid={held}/pid_for_children", *command]
        with (self.folder / f"{command[0]}-{number}.out").open("wb") as out:
            self.processes.append(subprocess.Popen(inside, env=self._env(), stdout=out, stderr=subprocess.STDOUT))

    def _all_idle(self) -> bool:
        states = self.run(["sinfo", "--noheader", "--Node", "--format=%t"]).stdout.split()
        return states == ["idle"] * self.nodes

    def _wait(self, ready: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if ready():
                return
            time.sleep(0.2)
        logs = "\n".join(path.read_text(errors="replace")[-800:] for path in self.folder.glob("*.[lo][ou]*"))
        raise RuntimeError(f"{what} did not start: {logs}")
