"""The container on a TPU VM: started alike by Cloud TPU start-up scripts and by SkyPilot."""

from vidsim.launch.job import MOUNTS, Job, shell

STOP_S = 60  # between SIGTERM and SIGKILL when a VM is taken away


def docker_run(job: Job, mounted_outside: bool, host: str) -> str:
    """A `docker run` command over several lines of bash.

    mounted_outside  the VM has the buckets at /gcs; otherwise the image mounts them itself
    host             bash expression for the number of this host among all
    """
    variables = dict(job.environment())
    options = ["--rm", "--name=vidsim", "--privileged", "--network=host", "--ipc=host",
               f"--stop-timeout={STOP_S}"]  # fmt: skip
    if mounted_outside:
        options.append(f"--volume={MOUNTS}:{MOUNTS}")
    else:
        variables["VIDSIM_BUCKETS"] = " ".join(job.buckets)
    lines = [shell([o]) for o in options]
    lines += [shell([f"--env={k}={v}"]) for k, v in variables.items()]
    lines += [f'--env=VIDSIM_HOST="{host}"', shell([job.in_image()])]
    lines.append(shell(job.run_words(job.restarts, announce=True)))
    return "docker run " + " \\\n  ".join(lines)
