"""Cloud TPU queued resources: a start-up script for every host and a loop that asks again."""

from vidsim.core.errors import bad
from vidsim.launch.containers import docker_run
from vidsim.launch.files import Rendered, fill
from vidsim.launch.job import Job, shell

STARTUP, LOOP = "startup.sh", "job.sh"


def render_gcloud(
    job: Job, project: str, zone: str, service_account: str | None = None
) -> Rendered:
    """startup.sh and job.sh. Raises BadInput for jobs without image, bucket or TPU VMs."""
    tpu = job.shape.tpu
    if tpu is None or tpu.runtime is None:
        raise bad("--topology", f"{job.shape} has no TPU VMs", "v5e, v5p or v6e", "use gke")
    nodes = [f"--node-id={job.name}"]
    if job.slices > 1:
        nodes = [f"--node-count={job.slices}", f"--node-prefix={job.name}"]
    options = [
        *nodes,
        f"--accelerator-type={job.shape.accelerator}",
        f"--runtime-version={tpu.runtime}",
        f"--metadata-from-file=startup-script={STARTUP}",
        "--scopes=https://www.googleapis.com/auth/cloud-platform",
        *(["--spot"] if job.spot else []),
        *([f"--service-account={service_account}"] if service_account else []),
    ]
    startup = fill(STARTUP, {
        "name": job.name,
        "image": shell([job.in_image()]),
        "hosts": str(job.shape.hosts),
        "docker_run": docker_run(job, mounted_outside=False, host="$host"),
    })  # fmt: skip
    loop = fill(LOOP, {
        "name": shell([job.name]),
        "project": shell([project]),
        "zone": shell([zone]),
        "ended": shell([f"{job.in_bucket().rstrip('/')}/ended.json"]),
        "restarts": str(job.restarts),
        "options": " \\\n    ".join(shell([o]) for o in options),
    })  # fmt: skip
    where = f"--project={shell([project])} --zone={shell([zone])}"
    node = job.name if job.slices == 1 else f"{job.name}-0"
    after = (
        f"watch    gcloud compute tpus tpu-vm ssh {node} {where} --worker=0 "
        "--command='sudo docker logs --follow vidsim'",
        f"stop     gcloud compute tpus queued-resources delete {job.name} {where} --force",
        f"fetch    gcloud storage cp --recursive {job.workdir}/checkpoints .",
    )
    return Rendered({STARTUP: startup, LOOP: loop}, ("bash", LOOP), after)
