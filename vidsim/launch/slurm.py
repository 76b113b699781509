"""A Slurm batch script for GPU or CPU nodes: one process a device, back into the queue by code."""

from vidsim.core.errors import bad
from vidsim.core.exits import GIVE_UP
from vidsim.launch.files import Rendered, fill
from vidsim.launch.job import Job, shell

FILE = "job.sbatch"
SAVE_S = 180  # before the time limit


def render_slurm(
    job: Job, partition: str | None = None, account: str | None = None, time: str | None = None
) -> Rendered:
    """job.sbatch. Raises BadInput for TPUs and for paths that nodes cannot see."""
    if job.shape.kind not in ("gpu", "cpu"):
        raise bad("--topology", f"{job.shape} on slurm", "gpu:NODESxGPUS or cpu:NODESxPROCESSES")
    nodes, devices = job.shape.dims
    options = {
        "job-name": job.name,
        "nodes": nodes,
        "ntasks-per-node": devices,
        "gpus-per-node": devices if job.shape.kind == "gpu" else None,
        "partition": partition,
        "account": account,
        "time": time,
        "requeue": "",
        "signal": f"TERM@{SAVE_S}",
        "open-mode": "append",
        "output": f"{job.name}-%j.log",
    }
    directives = [
        f"#SBATCH --{k}={v}" if v != "" else f"#SBATCH --{k}"
        for k, v in options.items()
        if v is not None
    ]
    variables = job.environment()
    if job.shape.kind == "cpu":
        variables["JAX_PLATFORMS"] = "cpu"
    script = fill("slurm.sh", {
        "directives": "\n".join(directives),
        "name": job.name,
        "workdir": shell([job.on_shared_disk()]),
        "restarts": str(job.restarts),
        "exports": "\n".join(f"export {shell([f'{k}={v}'])}" for k, v in variables.items()),
        "srun": shell(job.run_words(0, announce=True)),
        "give_up": " | ".join(map(str, sorted(GIVE_UP))),
    })  # fmt: skip
    after = (
        f"watch    tail -F {job.name}-JOBID.log",
        "stop     scancel JOBID",
        f"fetch    {job.workdir}/checkpoints",
    )
    return Rendered({FILE: script}, ("sbatch", FILE), after)
