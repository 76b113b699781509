"""A SkyPilot managed job on one TPU slice."""

from vidsim.core.errors import bad
from vidsim.core.exits import PREEMPTED
from vidsim.launch.containers import docker_run
from vidsim.launch.files import Rendered, fill, to_yaml
from vidsim.launch.job import MOUNTS, Job, shell

FILE = "task.yaml"


def render_skypilot(job: Job, zone: str | None = None) -> Rendered:
    """task.yaml. Raises BadInput for several slices and for jobs without image, bucket, TPU VMs."""
    tpu = job.shape.tpu
    if tpu is None or tpu.runtime is None:
        raise bad("--topology", f"{job.shape} has no TPU VMs", "v5e, v5p or v6e")
    if job.slices > 1:
        raise bad("--slices", f"{job.slices} on skypilot", "1: it asks for one slice a job")
    job.in_bucket()
    run = fill("sky_run.sh", {
        "image": shell([job.in_image()]),
        "docker_run": docker_run(job, mounted_outside=True, host="$SKYPILOT_NODE_RANK"),
    })  # fmt: skip
    body = {
        "name": job.name,
        "num_nodes": 1,  # one slice; SkyPilot runs the commands on each of its hosts
        "resources": {
            "infra": f"gcp/*/{zone}" if zone else "gcp",
            "accelerators": f"tpu-{job.shape.accelerator}",
            "accelerator_args": {"runtime_version": tpu.runtime},
            "use_spot": job.spot,
            # crashes are restarted on the spot by `vidsim run`; what it gives up stays failed
            "job_recovery": {"max_restarts_on_errors": 0, "recover_on_exit_codes": [PREEMPTED]},
        },
        "file_mounts": {
            f"{MOUNTS}/{bucket}": {"source": f"gs://{bucket}", "mode": "MOUNT"}
            for bucket in job.buckets
        },
        "run": run,
    }
    comment = f"{job.name}: {job.shape}, {job.shape.hosts} hosts."
    after = (
        "watch    sky jobs queue; sky jobs logs --name " + job.name,
        f"stop     sky jobs cancel --name {job.name}",
        f"fetch    gcloud storage cp --recursive {job.workdir}/checkpoints .",
    )
    return Rendered({FILE: to_yaml(body, comment)}, ("sky", "jobs", "launch", "--yes", FILE), after)
