"""Rendered files: valid for those who read them, and commands that our own parser accepts."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.launch.jobs import BUCKET, CONFIG, RENDERED, disk_job, job
from tests.launch.jobset_schema import JOBSET
from vidsim.cli.main import build_parser, split_settings
from vidsim.core.errors import BadInput
from vidsim.core.exits import GIVE_UP
from vidsim.launch.files import Rendered, write_files
from vidsim.launch.flags import FLAGS, compiler_flags, flag_variables
from vidsim.launch.gcloud import render_gcloud
from vidsim.launch.gke import render_gke
from vidsim.launch.job import mounted
from vidsim.launch.local import local_commands
from vidsim.launch.shape import CLOUDS
from vidsim.launch.skypilot import render_skypilot
from vidsim.launch.slurm import render_slurm

ROOT = pathlib.Path(__file__).resolve().parents[2]
KUBERNETES = kubernetes_validate.latest_version()
GKE = [name for name in RENDERED if name.startswith("gke")]


def jobset(name):
    return yaml.safe_load(RENDERED[name].files["jobset.yaml"])


def slice_job(name):
    return jobset(name)["spec"]["replicatedJobs"][0]["template"]


@pytest.mark.parametrize("name", GKE)
def test_job_sets_follow_the_schemas(name):
    """The Job against the schemas Kubernetes publishes, strictly; the JobSet against our own."""
    jsonschema.validate(jobset(name), JOBSET)
    whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, **slice_job(name)}
    kubernetes_validate.validate(whole, KUBERNETES, strict=True)


def test_the_schemas_see_mistakes():
    broken = jobset("gke")
    broken["spec"]["failurePolicy"]["rules"][0].pop("name")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, JOBSET)
    wrong = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, **slice_job("gke")}
    wrong["spec"]["template"]["spec"]["containers"][0]["comand"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", GKE)
def test_job_sets_follow_the_table_of_exit_codes(name):
    """Pods never restart in place; 2 and 44-47 fail the set; all other ends recreate it."""
    spec = slice_job(name)["spec"]
    assert spec["template"]["spec"]["restartPolicy"] == "Never" and spec["backoffLimit"] == 0
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"]["operator"] == "In"
    assert rule["onExitCodes"]["values"] == [2, 44, 45, 46, 47]
    assert rule["onExitCodes"]["containerName"] == spec["template"]["spec"]["containers"][0]["name"]
    policy = jobset(name)["spec"]["failurePolicy"]
    (final,) = policy["rules"]
    assert (final["action"], final["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    assert policy["maxRestarts"] == 20


def test_a_job_set_has_one_job_a_slice_on_its_own_node_pool():
    body = jobset("gke-slices")
    (replicated,) = body["spec"]["replicatedJobs"]
    spec = replicated["template"]["spec"]
    assert (replicated["replicas"], spec["parallelism"], spec["completions"]) == (2, 16, 16)
    key = "alpha.jobset.sigs.k8s.io/exclusive-topology"
    assert body["metadata"]["annotations"][key] == "cloud.google.com/gke-nodepool"
    pod = spec["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "4x4x4",
        "cloud.google.com/gke-spot": "true",
    }
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": 4}


def test_buckets_are_mounted_where_the_command_looks_for_them():
    template = slice_job("gke")["spec"]["template"]
    pod = template["spec"]
    assert template["metadata"]["annotations"]["gke-gcsfuse/volumes"] == "true"
    volumes = {v["name"]: v["csi"] for v in pod["volumes"] if "csi" in v}
    places = {m["mountPath"]: volumes[m["name"]]["volumeAttributes"]["bucketName"]
              for m in pod["containers"][0]["volumeMounts"] if m["name"] in volumes}  # fmt: skip
    assert places == {"/gcs/my.films": "my.films", "/gcs/latents": "latents"}
    words = pod["containers"][0]["command"]
    assert "--workdir=/gcs/my.films/runs/it's one" in words
    assert "data.cache=/gcs/latents/own" in words
    assert not any("gs://" in word for word in words)
    task = yaml.safe_load(RENDERED["skypilot"].files["task.yaml"])
    assert task["file_mounts"] == {
        "/gcs/my.films": {"source": "gs://my.films", "mode": "MOUNT"},
        "/gcs/latents": {"source": "gs://latents", "mode": "MOUNT"},
    }
    assert mounted("gs://abc/d/") == "/gcs/abc/d" and mounted("/a/b") == "/a/b"


def command_lines(rendered):
    """Every `vidsim ...` that the rendered files would execute, as words."""
    for name, text in rendered.files.items():
        if name == "jobset.yaml":
            body = yaml.safe_load(text)["spec"]["replicatedJobs"][0]["template"]["spec"]
            yield body["template"]["spec"]["containers"][0]["command"]
            continue
        script = yaml.safe_load(text)["run"] if name == "task.yaml" else text
        for line in re.sub(r"\\\n\s*", " ", script).splitlines():
            words = shlex.split(line, comments=True) if "vidsim run" in line else []
            if "vidsim" in words:
                yield words[words.index("vidsim") :]


@pytest.mark.parametrize("name", RENDERED)
def test_every_command_line_parses_with_our_own_parser(name):
    lines = list(command_lines(RENDERED[name]))
    assert len(lines) == (0 if name == "none" else 1)
    for line in lines:
        outer = build_parser(line[1:]).parse_args(split_settings(line[1:]))
        inner = outer.words[1:] if outer.words[0] == "--" else outer.words
        args = build_parser(inner).parse_args(inner)
        assert (outer.command, args.command, args.config) == ("run", "train", CONFIG)
        assert args.workdir.endswith("it's one") and len(args.settings) >= 1
        restarts = 20 if name.startswith(("gcloud", "sky")) else 0
        assert outer.restarts == restarts, "one supervisor restarts, not two"


def test_local_command_lines_parse_and_agree_on_everything_but_their_number():
    commands = local_commands(disk_job("cpu:3x2"))
    numbers, rest = [], []
    for command in commands:
        assert command.words[:3] == [sys.executable, "-m", "vidsim"]
        assert build_parser(command.words[3:]).parse_args(command.words[3:]).config == CONFIG
        environment = dict(command.environment)
        numbers.append(environment.pop("VIDSIM_PROCESS"))
        rest.append((command.words, environment))
    assert numbers == ["0", "1", "2"] and rest[0] == rest[1] == rest[2]
    assert rest[0][1]["VIDSIM_PROCESSES"] == "3"
    assert rest[0][1]["VIDSIM_COORDINATOR"].startswith("127.0.0.1:")
    assert rest[0][1]["XLA_FLAGS"] == "--xla_force_host_platform_device_count=2"


def scripts():
    for name, rendered in RENDERED.items():
        for file, text in rendered.files.items():
            if text.startswith("#!"):
                yield pytest.param(text, id=f"{name}/{file}")
            elif file == "task.yaml":
                yield pytest.param("#!/usr/bin/env bash\n" + yaml.safe_load(text)["run"], id=name)
    for path in sorted((ROOT / "launch").glob("*.sh")):
        yield pytest.param(path.read_text(), id=path.name)


def shellcheck(text):
    tool = pathlib.Path(sys.executable).with_name("shellcheck")
    return subprocess.run([str(tool), "-"], input=text, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("text", list(scripts()))
def test_scripts_pass_shellcheck(text):
    done = shellcheck(text)
    assert done.returncode == 0, done.stdout


def test_shellcheck_sees_mistakes():
    assert shellcheck("#!/usr/bin/env bash\nrm $1/*\n").returncode == 1


def test_gcloud_asks_for_the_slice_by_its_published_name():
    loop = RENDERED["gcloud"].files["job.sh"]
    for words in ("--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite",
                  "--node-id=own-dit", "--spot", "startup-script=startup.sh"):  # fmt: skip
        assert words in loop
    many = RENDERED["gcloud-slices"].files["job.sh"]
    assert "--node-count=4" in many and "--accelerator-type=v6e-256" in many


def test_the_skypilot_task_leaves_given_up_runs_alone():
    task = yaml.safe_load(RENDERED["skypilot"].files["task.yaml"])
    resources = task["resources"]
    assert resources["accelerators"] == "tpu-v6e-16" and resources["infra"] == "gcp/*/us-east5-b"
    recovery = resources["job_recovery"]
    assert recovery["max_restarts_on_errors"] == 0
    assert not set(recovery["recover_on_exit_codes"]) & GIVE_UP


def test_slurm_variants_start_one_process_a_device():
    gpu, cpu = (RENDERED[f"slurm-{kind}"].files["job.sbatch"] for kind in ("gpu", "cpu"))
    for line in ("--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--requeue",
                 "--signal=TERM@180", "--time=24:00:00", "--partition=long"):  # fmt: skip
        assert f"#SBATCH {line}\n" in gpu
    assert "gpus" not in cpu and "--ntasks-per-node=4\n" in cpu
    assert "export JAX_PLATFORMS=cpu\n" in cpu and "JAX_PLATFORMS" not in gpu
    assert "xla_gpu_enable_latency_hiding_scheduler" in gpu and "xla_" not in cpu


def test_flags_of_one_generation_never_reach_another():
    """Each variable holds exactly its generation's row of the table."""
    for kind in CLOUDS:
        text = flag_variables(kind, 1).get("LIBTPU_INIT_ARGS", "")
        found = dict(word.removeprefix("--").split("=") for word in text.split())
        assert found == FLAGS[kind]
    assert flag_variables("cpu", 1) == {} and "XLA_FLAGS" in flag_variables("gpu", 1)
    assert set(compiler_flags("v5p", 2)) > set(compiler_flags("v5p", 1))


@pytest.mark.slow
def test_the_compiler_knows_every_flag():
    """libtpu parses a generation's flags; it refuses unknown names. Needs the extra `tpu`."""
    pytest.importorskip("libtpu")
    code = (
        "import jax, jax.numpy as jnp, numpy as np\n"
        "from jax.experimental import topologies\n"
        "from jax.sharding import Mesh, NamedSharding, PartitionSpec as P\n"
        "from vidsim.launch.flags import compiler_flags\n"
        "slices = {'v5e': '2x2', 'v5p': '2x2x1', 'v6e': '2x2', 'tpu7x': '2x2x1'}\n"
        "for kind, shape in slices.items():\n"
        "    top = topologies.get_topology_desc(platform='tpu', topology_name=f'{kind}:{shape}')\n"
        "    s = NamedSharding(Mesh(np.array(top.devices), ('x',)), P('x'))\n"
        "    a = jax.ShapeDtypeStruct((256, 256), jnp.bfloat16, sharding=s)\n"
        "    step = jax.jit(lambda a: (a @ a).sum()).lower(a)\n"
        "    step.compile(compiler_options=compiler_flags(kind, 2))\n"
        "    try:\n"
        "        step.compile(compiler_options={'xla_tpu_no_such_flag': 'true'})\n"
        "        raise SystemExit('an unknown flag was accepted')\n"
        "    except jax.errors.JaxRuntimeError as error:\n"
        "        assert 'No such compile option' in str(error), error\n"
    )
    quiet = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "JAX_PLATFORMS": "cpu",
             "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "PYTHONPATH": str(ROOT)}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | quiet, capture_output=True, text=True,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: job(name="Own_DiT"), "--name"),
        (lambda: job(slices=0), "--slices: 0"),
        (lambda: job(workdir="s3://films/runs"), "gs://BUCKET/FOLDER"),
        (lambda: job(settings=("data.cache=gs:/x://y",)), "gs://BUCKET/FOLDER"),
        (lambda: job(workdir="/mnt/a\nrm -rf /"), "line break"),
        (lambda: disk_job("cpu:2", slices=2), "cpu:HOSTSxDEVICES"),
        (lambda: render_gke(job(image=None)), "--image: missing"),
        (lambda: render_gke(job(config="/home/me/x.py")), "a path inside the project"),
        (lambda: render_gke(job(workdir="/mnt/runs")), "gs://BUCKET/FOLDER"),
        (lambda: render_gke(disk_job("gpu:2x8")), "a TPU slice"),
        (lambda: render_gcloud(job("tpu7x:2x2x1"), "p", "z"), "use gke"),
        (lambda: render_skypilot(job(slices=2)), "one slice a job"),
        (lambda: render_slurm(job()), "gpu:NODESxGPUS"),
        (lambda: render_slurm(disk_job("gpu:2x8", workdir=BUCKET)), "mount it"),
        (lambda: local_commands(job()), "cpu:PROCESSES"),
    ],
)
def test_jobs_that_cannot_run_are_refused_in_one_line(attempt, message):
    with pytest.raises(BadInput, match=message) as caught:
        attempt()
    assert "\n" not in str(caught.value)


def test_files_are_whole_or_old(tmp_path, monkeypatch):
    """A full disk in the middle of writing leaves the old file and no other name in its place."""
    first = Rendered({"job.sh": "#!/bin/sh\nold\n"}, ())
    write_files(tmp_path, first.files)
    assert os.access(tmp_path / "job.sh", os.X_OK)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="space"):
        write_files(tmp_path, {"job.sh": "#!/bin/sh\nnew\n"})
    assert (tmp_path / "job.sh").read_text() == "#!/bin/sh\nold\n"
