"""Who takes part, from each scheduler's own words (as their documentation shows them)."""

import pytest

from vidsim.core.errors import BadInput
from vidsim.parallel.clusters import Member, find_member, first_host

SLURM = {
    "SLURM_JOB_ID": "5001", "SLURM_STEP_NODELIST": "node[03-05,9]", "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "2", "SLURM_LOCALID": "0", "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
}  # fmt: skip
GKE = {"TPU_WORKER_HOSTNAMES": "job-0.sub,job-1.sub", "TPU_WORKER_ID": "1"}
SLICE = {
    "MEGASCALE_NUM_SLICES": "3", "MEGASCALE_SLICE_ID": "2",
    "MEGASCALE_COORDINATOR_ADDRESS": "lead.sub:8080",
}  # fmt: skip
VM = {
    "agent-worker-number": "1",
    "worker-network-endpoints": "unknown:unknown:10.0.0.4,unknown:unknown:10.0.0.5",
    "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-16'\nZONE: 'us-a'\nMEGASCALE_NUM_SLICES: '2'\n"
    "MEGASCALE_SLICE_ID: '1'\nMEGASCALE_COORDINATOR_ADDRESS: '10.0.0.2'\n",
}


def test_flags_come_before_the_environment():
    env = {"VIDSIM_COORDINATOR": "a:1", "VIDSIM_PROCESSES": "4", "VIDSIM_PROCESS": "3"}
    assert find_member("auto", env) == Member("a:1", 4, 3)
    assert find_member("auto", env | SLURM, process=0) == Member("a:1", 4, 0)
    assert find_member("none", env) is None


def test_a_slurm_step_meets_at_its_first_node():
    assert find_member("auto", SLURM) == Member("node03:62345", 4, 2)
    several = SLURM | {"SLURM_STEP_TASKS_PER_NODE": "4", "SLURM_LOCALID": "2"}
    assert find_member("slurm", several).local_devices is None
    several["CUDA_VISIBLE_DEVICES"] = "0,1,2,3"
    assert find_member("slurm", several).local_devices == (2,)


@pytest.mark.parametrize(
    "nodes, first",
    [("a1", "a1"), ("a1,b2", "a1"), ("n[001-015],b", "n001"), ("n[7,9-12]", "n7")],
)
def test_the_first_node_of_a_list(nodes, first):
    assert first_host(nodes) == first


def test_a_tpu_pod_on_gke():
    assert find_member("auto", GKE) == Member("job-0.sub:8482", 2, 1)
    assert find_member("auto", GKE | SLICE) == Member("lead.sub:8482", 6, 5)


def test_a_tpu_vm_reads_its_metadata():
    assert find_member("tpu", {}, metadata=VM.__getitem__) == Member("10.0.0.2:8482", 4, 3)
    one = VM | {"tpu-env": "ZONE: 'us-a'"}
    assert find_member("tpu", {}, metadata=one.__getitem__) == Member("10.0.0.4:8482", 2, 1)


def test_one_process_works_alone():
    assert find_member("auto", {}) is None
    assert find_member("gke", {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}) is None
    # a batch script before srun sees a job, not a step
    assert find_member("auto", {"SLURM_JOB_ID": "1", "SLURM_PROCID": "0"}) is None


@pytest.mark.parametrize(
    "cluster, env, flags, message",
    [
        ("slrum", {}, {}, "--cluster: 'slrum'; did you mean 'slurm'"),
        ("slurm", {}, {}, "--cluster: slurm, but nothing here speaks of it"),
        ("auto", {}, {"processes": 2}, "--coordinator: missing"),
        ("auto", {}, {"coordinator": "here", "processes": 2, "process": 0}, "'here'; HOST:PORT"),
        ("auto", {}, {"coordinator": "h:0", "processes": 2, "process": 0}, "'h:0'; HOST:PORT"),
        ("auto", {}, {"coordinator": "h:1", "processes": 2, "process": 2}, "--process: 2 of 2"),
        ("auto", {"VIDSIM_PROCESSES": "two"}, {"coordinator": "h:1", "process": 2}, "'two'"),
    ],
)
def test_impossible_places_are_refused(cluster, env, flags, message):
    with pytest.raises(BadInput, match=message):
        find_member(cluster, env, **flags)


def test_a_silent_metadata_server_is_named():
    with pytest.raises(BadInput, match="no answer from http://127.0.0.1:9/computeMetadata"):
        find_member("tpu", {"GCE_METADATA_IP": "127.0.0.1:9"})
