"""A JobSet for Google Kubernetes Engine: one replicated job a slice, restarts by exit code."""

from typing import Any

from vidsim.core.errors import bad
from vidsim.core.exits import GIVE_UP
from vidsim.launch.files import Rendered, to_yaml
from vidsim.launch.job import MOUNTS, Job

CONTAINER = "vidsim"
GRACE_S = 300  # to save a checkpoint after SIGTERM
FILE = "jobset.yaml"


def render_gke(job: Job, service_account: str | None = None) -> Rendered:
    """jobset.yaml. Raises BadInput for jobs without an image, a bucket or TPUs."""
    if job.shape.tpu is None:
        raise bad("--topology", f"{job.shape} on gke", "a TPU slice, e.g. v5e:4x4")
    job.in_bucket()
    comment = (
        f"{job.name}: {job.slices} x {job.shape}, {job.shape.hosts} hosts a slice.\n"
        "No pod is restarted in place. Exit codes 2 and 44 to 47 fail the job set: another start\n"
        "would end the same. All other ends (42, 43, signals, crashes) recreate it, and the same\n"
        "command resumes."
    )
    after = (
        f"watch    kubectl logs --follow --selector=jobset.sigs.k8s.io/jobset-name={job.name},"
        f"batch.kubernetes.io/job-completion-index=0 --container={CONTAINER}",
        f"stop     kubectl delete jobset {job.name}",
        f"fetch    gcloud storage cp --recursive {job.workdir}/checkpoints .",
    )
    files = {FILE: to_yaml(_jobset(job, service_account), comment)}
    return Rendered(files, ("kubectl", "apply", f"--filename={FILE}"), after)


def _jobset(job: Job, service_account: str | None) -> dict[str, Any]:
    slice_job = {
        "parallelism": job.shape.hosts,
        "completions": job.shape.hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": [_give_up_rule()]},
        "template": _pod(job, service_account),
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": job.name,
            "annotations": {
                # one slice's job alone on its node pool
                "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool",
            },
        },
        "spec": {
            "failurePolicy": {
                "maxRestarts": job.restarts,
                "restartStrategy": "BlockingRecreate",  # never two sets in one work directory
                "rules": [
                    {
                        "name": "giveUp",
                        "action": "FailJobSet",
                        "onJobFailureReasons": ["PodFailurePolicy"],
                    }
                ],
            },
            "replicatedJobs": [
                {"name": "slice", "replicas": job.slices, "template": {"spec": slice_job}}
            ],
        },
    }


def _give_up_rule() -> dict[str, Any]:
    codes = {"containerName": CONTAINER, "operator": "In", "values": sorted(GIVE_UP)}
    return {"action": "FailJob", "onExitCodes": codes}


def _pod(job: Job, service_account: str | None) -> dict[str, Any]:
    tpu = job.shape.tpu
    assert tpu is not None
    selector = {
        "cloud.google.com/gke-tpu-accelerator": tpu.gke,
        "cloud.google.com/gke-tpu-topology": job.shape.grid,
    }
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_S,
        "nodeSelector": selector,
        "containers": [_container(job)],
        "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}, *map(_volume, job.buckets)],
    }
    if job.spot:
        selector["cloud.google.com/gke-spot"] = "true"
        spec["tolerations"] = [
            {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true",
             "effect": "NoSchedule"}
        ]  # fmt: skip
    if service_account:
        spec["serviceAccountName"] = service_account
    return {"metadata": {"annotations": {"gke-gcsfuse/volumes": "true"}}, "spec": spec}


def _container(job: Job) -> dict[str, Any]:
    mounts = [{"name": b, "mountPath": f"{MOUNTS}/{bucket}"} for bucket, b in _names(job)]
    return {
        "name": CONTAINER,
        "image": job.in_image(),
        "command": job.run_words(0, announce=False),  # the job set restarts, not the pod
        "env": [{"name": k, "value": v} for k, v in job.environment().items()],
        # of libtpu, of slices among each other, of JAX's coordinator
        "ports": [{"containerPort": port} for port in (8471, 8080, 8482)],
        "resources": {"limits": {"google.com/tpu": job.shape.chips_per_host}},
        "securityContext": {"privileged": True},  # locks memory for transfers to the chips
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}, *mounts],
    }


def _names(job: Job) -> list[tuple[str, str]]:
    """Bucket -> volume name; bucket names may hold dots, volume names may not."""
    return [(bucket, _volume_name(bucket)) for bucket in job.buckets]


def _volume_name(bucket: str) -> str:
    return "gcs-" + bucket.replace(".", "-").replace("_", "-")[:55].rstrip("-")


def _volume(bucket: str) -> dict[str, Any]:
    attributes = {"bucketName": bucket, "mountOptions": "implicit-dirs"}
    csi = {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": attributes}
    return {"name": _volume_name(bucket), "csi": csi}
