"""Who takes part in a run of several processes, from the places where schedulers write it down.

plain   flags or VIDSIM_COORDINATOR, VIDSIM_PROCESSES, VIDSIM_PROCESS
slurm   the variables of a job step (`srun`); the coordinator is the step's first node
gke     TPU_WORKER_HOSTNAMES and TPU_WORKER_ID of a TPU pod, MEGASCALE_* for several slices
tpu     the metadata server of a TPU VM (queued resources), for one slice or several
"""

import dataclasses
import glob
import importlib.util
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping

from vidsim.core.errors import bad, nearest

CLUSTERS = ("auto", "none", "plain", "slurm", "gke", "tpu")
TPU_PORT = 8482  # of the coordinator on TPU hosts
METADATA_TIMEOUT_S = 5.0


@dataclasses.dataclass(frozen=True)
class Member:
    """This process among those of a run.

    coordinator    HOST:PORT of process 0's coordination service
    processes      how many there are
    process        number of this one, from 0
    local_devices  numbers of this host's devices that this process takes; None = all of them
    """

    coordinator: str
    processes: int
    process: int
    local_devices: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        host, colon, port = self.coordinator.rpartition(":")
        if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise bad("--coordinator", repr(self.coordinator), "HOST:PORT")
        if self.processes < 1:
            raise bad("--processes", f"{self.processes}", "at least 1")
        if not 0 <= self.process < self.processes:
            raise bad("--process", f"{self.process} of {self.processes}", "0 to processes - 1")


def find_member(
    cluster: str = "auto",
    env: Mapping[str, str] = os.environ,
    *,
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    metadata: Callable[[str], str] | None = None,
) -> Member | None:
    """This process's place, or None when it works alone.

    cluster      one of CLUSTERS; "auto" takes the first that speaks, in the order of CLUSTERS
    coordinator, processes, process   as flags; they come before the environment
    metadata     reads an attribute of the TPU VM; by default from its metadata server
    Raises       BadInput for an unknown cluster, or one that was named and says nothing
    """
    if cluster not in CLUSTERS:
        raise bad("--cluster", repr(cluster), nearest(cluster, CLUSTERS))
    flags = (coordinator, processes, process)
    if cluster == "none":
        if any(flag is not None for flag in flags):
            raise bad("--cluster", "none with --coordinator, --processes or --process", "plain")
        return None
    ways: dict[str, Callable[[], Member | None]] = {
        "plain": lambda: _plain(env, *flags),
        "slurm": lambda: _slurm(env),
        "gke": lambda: _gke(env),
        "tpu": lambda: _tpu(env, metadata or _metadata(env)),
    }
    if cluster != "auto":
        found = ways[cluster]()
        if found is None:
            raise bad("--cluster", f"{cluster}, but nothing here speaks of it",
                      "the variables that it sets", "see vidsim/parallel/clusters.py")  # fmt: skip
        return found if found.processes > 1 else None
    if not _on_tpu_vm(env) and metadata is None:
        del ways["tpu"]
    found = next((member for way in ways.values() if (member := way()) is not None), None)
    return found if found is not None and found.processes > 1 else None


def _plain(
    env: Mapping[str, str], coordinator: str | None, processes: int | None, process: int | None
) -> Member | None:
    values = {
        "coordinator": coordinator or env.get("VIDSIM_COORDINATOR"),
        "processes": processes if processes is not None else env.get("VIDSIM_PROCESSES"),
        "process": process if process is not None else env.get("VIDSIM_PROCESS"),
    }
    missing = [name for name, value in values.items() if value is None]
    if len(missing) == 3:
        return None
    if missing:
        raise bad(f"--{missing[0]}", "missing", "--coordinator, --processes and --process together")
    return Member(
        str(values["coordinator"]), _number("processes", values), _number("process", values)
    )


def _slurm(env: Mapping[str, str]) -> Member | None:
    """One job step. Each task takes its own device where a node has several tasks that see all."""
    names = ("SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_JOB_ID")
    if any(name not in env for name in names):
        return None
    # Two jobs of one node must not share a port: a port in 61440..65535 by the job's number.
    port = 61440 + int(env["SLURM_JOB_ID"]) % 4096
    tasks_a_node = re.match(r"\d+", env.get("SLURM_STEP_TASKS_PER_NODE", "1"))
    seen = [d for d in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if d]
    own = tasks_a_node is not None and int(tasks_a_node[0]) > 1 and len(seen) > 1
    return Member(
        f"{first_host(env['SLURM_STEP_NODELIST'])}:{port}",
        _number("SLURM_STEP_NUM_TASKS", env),
        _number("SLURM_PROCID", env),
        (int(env["SLURM_LOCALID"]),) if own else None,
    )


def first_host(node_list: str) -> str:
    """The first host of a Slurm node list: "a[03-05,9],b" is "a03"."""
    match = re.match(r"([^,\[]+)(?:\[([^,\-\]]+))?", node_list)
    if match is None:
        raise bad("SLURM_STEP_NODELIST", repr(node_list), "a list of hosts")
    return match[1] + (match[2] or "")


def _gke(env: Mapping[str, str]) -> Member | None:
    if not env.get("TPU_WORKER_HOSTNAMES") or "TPU_WORKER_ID" not in env:
        return None
    hosts = [host.strip() for host in env["TPU_WORKER_HOSTNAMES"].split(",")]
    return _in_slices(hosts, _number("TPU_WORKER_ID", env), env)


def _tpu(env: Mapping[str, str], metadata: Callable[[str], str]) -> Member | None:
    worker = metadata("agent-worker-number")
    # Each endpoint is a host name, or name:number:address.
    hosts = [e.split(":")[-1] for e in metadata("worker-network-endpoints").split(",")]
    facts = dict(
        (key.strip(), value.strip().strip("'"))
        for key, colon, value in (line.partition(":") for line in metadata("tpu-env").splitlines())
        if colon
    )
    return _in_slices(hosts, _number("agent-worker-number", {"agent-worker-number": worker}),
                      {**facts, **env})  # fmt: skip


def _in_slices(hosts: list[str], worker: int, facts: Mapping[str, str]) -> Member:
    """A worker of one of several equal slices; those of a slice are numbered together."""
    slices = int(facts.get("MEGASCALE_NUM_SLICES") or 1)
    number = int(facts.get("MEGASCALE_SLICE_ID") or 0)
    leader = (facts.get("MEGASCALE_COORDINATOR_ADDRESS") or "").rpartition(":")
    host = (leader[0] or leader[2]) or hosts[0]
    return Member(f"{host}:{TPU_PORT}", len(hosts) * slices, number * len(hosts) + worker)


def _on_tpu_vm(env: Mapping[str, str]) -> bool:
    if "TPU_SKIP_MDS_QUERY" in env or importlib.util.find_spec("libtpu") is None:
        return False
    return bool(glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*"))


def _metadata(env: Mapping[str, str]) -> Callable[[str], str]:
    server = env.get("GCE_METADATA_IP", "metadata.google.internal")

    def read(key: str) -> str:
        address = f"http://{server}/computeMetadata/v1/instance/attributes/{key}"
        request = urllib.request.Request(address, headers={"Metadata-Flavor": "Google"})
        try:
            with urllib.request.urlopen(request, timeout=METADATA_TIMEOUT_S) as answer:
                return answer.read().decode()
        except (urllib.error.URLError, OSError) as error:
            raise bad("--cluster", f"tpu: no answer from {address} ({error})",
                      f"an answer within {METADATA_TIMEOUT_S:g} s",
                      "give --coordinator and its like, or --cluster none") from None  # fmt: skip

    return read


def _number(name: str, values: Mapping[str, object]) -> int:
    try:
        return int(str(values[name]))
    except ValueError:
        raise bad(name, repr(values[name]), "a whole number") from None
