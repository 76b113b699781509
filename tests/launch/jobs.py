"""Jobs for tests: one for each backend, small and large."""

from vidsim.launch.gcloud import render_gcloud
from vidsim.launch.gke import render_gke
from vidsim.launch.job import Job
from vidsim.launch.shape import parse_shape
from vidsim.launch.skypilot import render_skypilot
from vidsim.launch.slurm import render_slurm

CONFIG = "experiments/own_dit.py"
BUCKET = "gs://my.films/runs/it's one"  # what a careless script would break on


def job(topology="v5e:4x4", slices=1, **changes):
    """A job on a TPU slice."""
    facts = {
        "name": "own-dit", "config": CONFIG, "workdir": BUCKET, "shape": parse_shape(topology),
        "slices": slices, "image": "us-docker.pkg.dev/p/r/vidsim:1", "spot": True,
        "settings": ("data.cache=gs://latents/own", "run.steps=3"),
    }  # fmt: skip
    return Job(**facts | changes)


def disk_job(topology, **changes):
    """A job on hosts that see one disk."""
    facts = {"workdir": "/mnt/runs/it's one", "image": None, "spot": False}
    return job(topology, settings=("data.cache=/mnt/latents",), **facts | changes)


RENDERED = {
    "gke": render_gke(job(), "writer"),
    "gke-slices": render_gke(job("v5p:4x4x4", 2)),
    "gke-ironwood": render_gke(job("tpu7x:2x2x1", spot=False)),
    "gcloud": render_gcloud(job(), "films", "us-west4-a", "writer@films"),
    "gcloud-slices": render_gcloud(job("v6e:16x16", 4), "films", "us-west4-a"),
    "skypilot": render_skypilot(job("v6e:4x4"), "us-east5-b"),
    "slurm-gpu": render_slurm(disk_job("gpu:2x8"), "long", "films", "24:00:00"),
    "slurm-cpu": render_slurm(disk_job("cpu:2x4")),
}
