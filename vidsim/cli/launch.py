"""`vidsim launch`: one training job for a cloud, a cluster, or the processes of this machine."""

import argparse
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from vidsim.launch.files import Rendered
    from vidsim.launch.job import Job
    from vidsim.runs import Run

BACKENDS = {
    "gcloud": "Cloud TPU queued resources: start-up script, and a loop that asks again",
    "gke": "a JobSet for Google Kubernetes Engine",
    "skypilot": "a SkyPilot managed job",
    "slurm": "a Slurm batch script for GPU or CPU nodes",
    "local": "processes on this machine's CPU; runs them",
}
TOOLS = {"bash": "gcloud"}  # job.sh needs it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command; each backend has its own beside the common ones."""
    parser.error = _one_line  # type: ignore[method-assign]
    backends = parser.add_subparsers(dest="backend", metavar="BACKEND", required=True)
    for name, text in BACKENDS.items():
        child = backends.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        child.error = _one_line  # type: ignore[method-assign]
        _common(child)
        if name != "local":
            _submission(child)
        if name in ("gcloud", "gke", "skypilot"):
            child.add_argument("--image", required=True, help="container, see launch/Dockerfile")
            child.add_argument("--spot", action="store_true", help="capacity that may be taken")
        if name in ("gcloud", "gke"):
            child.add_argument("--service-account", help="that reads and writes the bucket")
        if name == "gcloud":
            child.add_argument("--project", required=True, help="Google Cloud project")
        if name in ("gcloud", "skypilot"):
            child.add_argument("--zone", required=name == "gcloud", help="e.g. us-west4-a")
        if name == "slurm":
            child.add_argument("--partition", help="Slurm partition")
            child.add_argument("--account", help="Slurm account")
            child.add_argument("--time", help="Slurm time limit, e.g. 24:00:00")
        child.add_argument("settings", nargs="*", metavar="a.b=value",
                           help="replaces a setting, as `vidsim train` takes it")  # fmt: skip


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, metavar="FILE[:VARIANT]",
                        help="experiments/NAME.py[:variant]")  # fmt: skip
    parser.add_argument("--workdir", required=True, help="gs://BUCKET/FOLDER or a folder")
    parser.add_argument(
        "--topology", required=True, help="v5e:4x4, v5p:4x4x4; gpu:HOSTSxDEVICES, cpu:HOSTS"
    )
    parser.add_argument("--slices", type=int, default=1, help="slices joined by the network")
    parser.add_argument("--name", help="of the job; by default config-variant")
    parser.add_argument("--restarts", type=int, default=20, help="after crashes and preemptions")
    parser.add_argument("--dry-run", action="store_true", help="start nothing; show everything")


def _submission(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", help="for the files: jobs/NAME; with --dry-run the screen")


def _one_line(message: str) -> NoReturn:
    print(f"vidsim launch: {message.replace('argument BACKEND: ', '')}", file=sys.stderr)
    raise SystemExit(2)


def run(args: argparse.Namespace) -> int:
    """Checks the whole job, renders it, and starts it unless --dry-run is given."""
    job = _job(args)
    if args.backend == "local":
        return _run_local(job, args.dry_run)
    return _submit(job, args)


def _job(args: argparse.Namespace) -> "Job":
    """The job description. Raises BadInput for whatever would fail on the machines it asks for."""
    import re
    from pathlib import Path

    from vidsim.config import load_experiment, override
    from vidsim.launch.job import Job
    from vidsim.launch.shape import parse_shape
    from vidsim.runs import build_run

    file, _, variant = args.config.partition(":")
    words = re.findall("[a-z0-9]+", f"{Path(file).stem}-{variant}".lower())
    job = Job(
        name=args.name or "-".join(words),
        config=args.config,
        workdir=args.workdir,
        shape=parse_shape(args.topology),
        slices=args.slices,
        settings=tuple(args.settings),
        restarts=args.restarts,
        image=getattr(args, "image", None),
        spot=getattr(args, "spot", False),
    )
    run = build_run(override(load_experiment(args.config), args.settings))
    _check_mesh(run, job)
    return job


def _check_mesh(run: "Run", job: "Job") -> None:
    """Raises BadInput when the configuration's mesh is not that of the job's devices."""
    from vidsim.core.errors import bad
    from vidsim.runs import VaeRun

    parallel = run.parallel
    if parallel.slices != job.slices:
        raise bad("--slices", f"{job.slices} with parallel.slices={parallel.slices}",
                  "the same number", f"add parallel.slices={job.slices}")  # fmt: skip
    data, fsdp, context, _ = parallel.shape(job.devices)
    rows: tuple[int, ...]
    if isinstance(run, VaeRun):
        rows = (run.data.crops.batch_size, run.data.crops.image_batch_size)
    else:
        rows = (run.plan.rows_per_step,)
    for number in rows:
        if number % (data * fsdp * run.run.micro_steps):
            what = f"{number} rows a step in {run.run.micro_steps} micro-steps"
            raise bad("--topology", f"{what} on data x fsdp = {data * fsdp}", "a multiple",
                      "change the rows or parallel")  # fmt: skip
    if not isinstance(run, VaeRun) and run.plan.row_tokens % context:
        raise bad("--topology", f"rows of {run.plan.row_tokens} tokens over context={context}",
                  "a divisor", "change plan.row_tokens or parallel.context")  # fmt: skip


def _render(job: "Job", args: argparse.Namespace) -> "Rendered":
    from vidsim.launch.gcloud import render_gcloud
    from vidsim.launch.gke import render_gke
    from vidsim.launch.skypilot import render_skypilot
    from vidsim.launch.slurm import render_slurm

    if args.backend == "gcloud":
        return render_gcloud(job, args.project, args.zone, args.service_account)
    if args.backend == "gke":
        return render_gke(job, args.service_account)
    if args.backend == "skypilot":
        return render_skypilot(job, args.zone)
    return render_slurm(job, args.partition, args.account, args.time)


def _submit(job: "Job", args: argparse.Namespace) -> int:
    import shlex
    import shutil
    import subprocess
    from pathlib import Path

    from vidsim.core.errors import bad
    from vidsim.launch.files import write_files

    rendered = _render(job, args)
    tool = TOOLS.get(rendered.submit[0], rendered.submit[0])
    if not args.dry_run and shutil.which(tool) is None:
        raise bad("launch", f"{tool} is not installed here", "the tool of the backend",
                  "or --dry-run --out FOLDER, and start it elsewhere")  # fmt: skip
    folder = Path(args.out) if args.out else None if args.dry_run else Path("jobs") / job.name
    if folder is not None:
        for path in write_files(folder, rendered.files):
            print(f"wrote    {path}")
    else:
        for name, text in rendered.files.items():
            print(f"--- {name}\n{text}", end="")
        print("---")
    move = f"cd {shlex.quote(str(folder))} && " if folder is not None else ""
    print(f"start    {move}{shlex.join(rendered.submit)}", *rendered.after, sep="\n", flush=True)
    if args.dry_run:
        return 0
    return subprocess.run(rendered.submit, cwd=folder).returncode


def _run_local(job: "Job", dry_run: bool) -> int:
    import os
    import shlex
    from pathlib import Path

    from vidsim.launch.ledger import Ledger
    from vidsim.launch.local import local_commands
    from vidsim.launch.supervise import Patience, supervise

    commands = local_commands(job)
    if dry_run:
        for command in commands:
            own = {k: v for k, v in (command.environment or {}).items() if os.environ.get(k) != v}
            words = [*(f"{k}={v}" for k, v in own.items()), "vidsim", *command.words[3:]]
            print(shlex.join(words))
        return 0
    return supervise(
        lambda: local_commands(job), Patience(job.restarts), ledger=Ledger(Path(job.workdir)),
        say=lambda line: print(f"vidsim launch local: {line}", flush=True),
    )  # fmt: skip
