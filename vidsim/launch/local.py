"""Several processes on this machine's CPU that work on one run, over loopback."""

import os
import socket

from vidsim.core.errors import bad
from vidsim.launch.group import Command, vidsim_command
from vidsim.launch.job import Job


def local_commands(job: Job) -> list[Command]:
    """One command a process, with a port of its own for this start.

    cpu:PxD is P processes of D virtual devices. Raises BadInput for other kinds and for buckets.
    """
    if job.shape.kind != "cpu":
        raise bad("--topology", f"{job.shape} on local", "cpu:PROCESSES or cpu:PROCESSESxDEVICES")
    job.on_shared_disk()
    processes, devices = job.shape.dims
    common = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    if processes == 1:
        return [vidsim_command(job.train_words(), common)]
    meeting = {"VIDSIM_COORDINATOR": f"127.0.0.1:{free_port()}", "VIDSIM_PROCESSES": str(processes)}
    return [
        vidsim_command(job.train_words(), {**common, **meeting, "VIDSIM_PROCESS": str(i)})
        for i in range(processes)
    ]


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
