"""The programs of a plan, compiled for eight CPU devices in place of a TPU slice."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vidsim.cli.plan_tables import facts
from vidsim.core.errors import BadInput
from vidsim.data.plan import PlanConfig
from vidsim.models.dit_config import DiTConfig
from vidsim.models.latents import LatentConfig
from vidsim.parallel.mesh import ParallelConfig, build_mesh
from vidsim.runs import DenoiserRun, LatentData
from vidsim.scaling.plan import Ask, compile_job, find_vae, make_job
from vidsim.scaling.plan_programs import ClipSize, Job
from vidsim.scaling.plan_rows import equal_clips
from vidsim.scaling.topology import parse_topology
from vidsim.tasks.denoising import Denoising, DenoisingConfig
from vidsim.train.loop import RunSpec
from vidsim.train.optim import OptimConfig

EIGHT = parse_topology("v5e:2x4")
RUN = DenoiserRun(
    data=LatentData("nowhere"),
    denoising=DenoisingConfig(
        dit=DiTConfig(patch_width=16, text_width=16, width=32, heads=2, mlp_width=64, layers=2,
                      freq_width=8),
        text=None, latent=LatentConfig(patch=(1, 2, 2)),
    ),
    plan=PlanConfig(row_tokens=32, row_text=16, row_segments=4, rows_per_step=16, group_rows=8),
    run=RunSpec(steps=10, micro_steps=2), optim=OptimConfig(name="adamw"),
    parallel=ParallelConfig("fsdp"),
)  # fmt: skip


def _plan(run, ask):
    mesh = build_mesh(run.parallel)
    content = equal_clips(run.plan, 4)
    return compile_job(make_job(run, mesh, content, ask), run, mesh, EIGHT, ask, content)


@pytest.mark.slow
def test_a_training_plan_adds_up():
    plan = _plan(RUN, Ask())
    weights = sum(x.size for x in jax.tree.leaves(
        jax.eval_shape(Denoising(RUN.denoising).init, jax.random.key(0))))  # fmt: skip
    assert plan.fits and plan.mesh["fsdp"] == 8 and plan.rows == 8
    assert weights * 4 / 8 < plan.weight_bytes < weights * 4 / 2, "most weights are split by 8"
    assert plan.average_bytes == plan.weight_bytes
    assert plan.optimizer_bytes == pytest.approx(2 * plan.weight_bytes, rel=1e-3), "two moments"
    assert plan.peak_bytes > plan.weight_bytes + plan.average_bytes + plan.optimizer_bytes
    assert (plan.tokens, plan.room) == (16 * 32, 16 * 32)
    assert plan.flops < plan.padded_flops
    assert sum(row["bytes"] for row in plan.collectives.values()) >= 2 * (weights * 4) * 7 / 8
    assert "fsdp" in plan.largest["over"]


@pytest.mark.slow
def test_guidance_doubles_the_rows_of_sampling_and_its_work():
    run = dataclasses.replace(RUN, run=RunSpec(steps=10))
    plain, guided = (_plan(run, Ask("sample", guidance=scale)) for scale in (1.0, 3.0))
    assert (plain.rows, guided.rows) == (8, 16)
    assert plain.tokens == guided.tokens == 8 * 32
    assert guided.flops == 2 * plain.flops
    assert plain.optimizer_bytes == plain.average_bytes == 0


@pytest.mark.slow
@pytest.mark.parametrize("what", ["encode", "decode"])
def test_a_chunk_of_a_video_is_split_over_rows_of_pixels(what):
    """The tiny autoencoder has a stride of 4x8x8; 8 latent rows lie on 4 devices of context."""
    parallel = ParallelConfig("context", data=1, context=4)
    run = dataclasses.replace(RUN, parallel=parallel)
    mesh = build_mesh(parallel, jax.devices()[:4])
    ask = Ask(what, clip=ClipSize(64, 32, 9), vae="tiny")
    job = make_job(run, mesh, None, ask)
    plan = compile_job(job, run, mesh, parse_topology("v5e:2x2"), ask, None)
    assert plan.fits and plan.flops > 0 and plan.collectives, "borders of parts are exchanged"
    alone = build_mesh(ParallelConfig(), jax.devices()[:1])
    whole = make_job(run, alone, None, ask).compile().memory_analysis()
    assert plan.peak_bytes < whole.peak_memory_in_bytes


def test_a_compiled_job_is_summed_up():
    """A sum over eight devices: one all-reduce of four bytes, and times that can be read off."""
    mesh = build_mesh(RUN.parallel)
    parts = NamedSharding(mesh, PartitionSpec("fsdp"))
    whole = NamedSharding(mesh, PartitionSpec())

    def compile_it():
        one = jax.jit(lambda x: x.sum(), in_shardings=parts, out_shardings=whole)
        with jax.set_mesh(mesh):
            return one.lower(jax.ShapeDtypeStruct((64,), np.float32)).compile()

    job = Job(compile_it, tokens=10, room=20, flops=8 * 197e12, padded_flops=9e15, weight_bytes=7)
    plan = compile_job(job, RUN, mesh, EIGHT, Ask(mfu=0.5), equal_clips(RUN.plan, 4))
    assert plan.fits and plan.over_bytes == plan.peak_bytes - plan.usable_bytes < 0
    assert plan.collectives == {"all-reduce": {"count": 1, "bytes": 4, "sent": 2 * 4 * 7 / 8}}
    assert (plan.largest["kind"], plan.largest["over"]) == ("all-reduce", ["fsdp"])
    assert (plan.roofline.bound, plan.roofline.at_mfu_s) == ("compute", pytest.approx(2.0))
    assert json.loads(json.dumps(plan.to_dict())) == plan.to_dict()
    shown = dict(facts(plan))
    assert (
        "15.75 GiB left" in shown["memory a chip"] and "10 useful of 20" in shown["tokens a step"]
    )


def test_what_a_run_does_not_have_is_refused_before_compiling():
    mesh = build_mesh(RUN.parallel)
    for ask, told in (
        (Ask("decode"), "--size"),
        (Ask("decode", clip=ClipSize(64, 32, 9), vae="nothing"), "vae preset"),
        (Ask("decode", clip=ClipSize(60, 32, 9), vae="tiny"), "multiples of"),
    ):
        with pytest.raises(BadInput, match=told):
            make_job(RUN, mesh, None, ask)
    uneven = dataclasses.replace(RUN, plan=dataclasses.replace(RUN.plan, rows_per_step=24))
    with pytest.raises(BadInput, match="24 rows a step for 2 micro-steps over 8 devices"):
        make_job(uneven, mesh, equal_clips(uneven.plan, 4), Ask())
    odd = dataclasses.replace(
        RUN.denoising, dit=dataclasses.replace(RUN.denoising.dit, width=36, heads=2)
    )
    with pytest.raises(BadInput, match="must divide"):
        make_job(dataclasses.replace(RUN, denoising=odd), mesh, equal_clips(RUN.plan, 4), Ask())
    assert np.prod(mesh.devices.shape) == 8


def test_an_autoencoder_is_named_with_the_precision_of_its_products():
    assert find_vae(RUN, "wan21").dtype == "float32"
    assert find_vae(RUN, "wan21:bfloat16") == dataclasses.replace(
        find_vae(RUN, "wan21"), dtype="bfloat16"
    )
    with pytest.raises(BadInput, match="int4"):
        find_vae(RUN, "wan21:int4")
