"""FLOPs, row contents, sizes and the search of a plan, without a TPU compiler."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidsim.core.errors import BadInput
from vidsim.core.flop_count import jaxpr_flops
from vidsim.data.plan import PlanConfig
from vidsim.models.dit_config import DiTConfig, matmul_flops
from vidsim.models.vae_presets import preset as vae_preset
from vidsim.nn.stack import REMAT
from vidsim.parallel.mesh import MeshConfig, build_mesh
from vidsim.scaling.plan import Summary, clip_tokens, over_use
from vidsim.scaling.plan_programs import ClipSize, abstract_batch, check_rows, device_bytes, place
from vidsim.scaling.plan_rows import equal_clips
from vidsim.scaling.plan_search import POLICIES, best_of
from vidsim.tasks.denoising import Denoising, DenoisingConfig
from vidsim.train.flops import forward_flops

PLAN = PlanConfig(row_tokens=64, row_text=16, row_segments=4, rows_per_step=8, group_rows=1)
TASK = DenoisingConfig(
    dit=DiTConfig(patch_width=16, text_width=24, width=32, heads=2, mlp_width=48, layers=3,
                  freq_width=8, attention="dense"),
    text=None,
)  # fmt: skip


def test_traced_products_and_convolutions_have_closed_forms():
    a, b = jnp.zeros((3, 5, 7)), jnp.zeros((3, 7, 11))
    assert jaxpr_flops(lambda a, b: jnp.einsum("bik,bkj->bij", a, b), a, b) == 2 * 3 * 5 * 7 * 11
    image, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3, 10))
    convolve = lambda x, w: jax.lax.conv_general_dilated(  # noqa: E731
        x, w, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert jaxpr_flops(convolve, image, kernel) == 2 * (2 * 4 * 4 * 10) * (3 * 3 * 3)
    turns = lambda x: jax.lax.scan(lambda c, _: (c @ c, None), x, None, length=6)[0]  # noqa: E731
    assert jaxpr_flops(jax.jit(turns), jnp.zeros((4, 4))) == 6 * 2 * 4**3


def test_traced_denoiser_costs_what_the_formula_says():
    """Dense attention computes whole rows, so the traced count is the formula's padded one, less
    nothing and plus what the formula leaves out: modulation by one-hot products (under 6%)."""
    task, rows = Denoising(TASK), 2
    params = jax.eval_shape(task.init, jax.random.key(0))
    batch = abstract_batch(TASK, PLAN, rows, None)
    t = jax.ShapeDtypeStruct((rows, PLAN.row_segments), np.float32)
    given = jax.ShapeDtypeStruct((rows, PLAN.row_tokens), np.bool_)
    text = {k: batch[k] for k in ("text", "text_segment", "text_position")}
    traced = jaxpr_flops(task.predict, params, batch, text, batch["patches"], t, given)
    padded = dataclasses.replace(equal_clips(PLAN, 4).padded(rows), clips=rows * PLAN.row_segments)
    told = sum(forward_flops(TASK, padded))
    assert told <= traced <= 1.06 * told
    assert matmul_flops(TASK.dit).self_pair * rows * 64**2 < told


def test_equal_clips_count_by_hand():
    content = equal_clips(PLAN, 4)
    live, padded = content.live(8), content.padded(8)
    assert (live.patches, live.self_pairs) == (8 * 64, 8 * 4 * 16**2)
    assert (padded.patches, padded.self_pairs) == (8 * 64, 8 * 64**2)
    assert (live.texts, live.cross_pairs) == (8 * 16, 8 * 4 * 16 * 4)
    with pytest.raises(BadInput, match="--clips"):
        equal_clips(PLAN, 5)


def test_rows_and_tokens_that_the_mesh_does_not_divide_are_refused_before_compiling():
    mesh = build_mesh(MeshConfig(data=2, fsdp=2, context=2))
    check_rows(PLAN, mesh, 2)
    with pytest.raises(BadInput, match="8 rows a step for 4 micro-steps over 4 devices"):
        check_rows(PLAN, mesh, 4)
    with pytest.raises(BadInput, match="row_tokens: 63 over context=2"):
        check_rows(dataclasses.replace(PLAN, row_tokens=63), mesh, 1)


def test_bytes_of_a_device_are_those_of_its_parts():
    mesh = build_mesh(MeshConfig(data=1, fsdp=8))
    tree = {"w": jax.ShapeDtypeStruct((32, 48), np.float32),
            "b": jax.ShapeDtypeStruct((48,), np.float32)}  # fmt: skip
    placed = place({"w": ("embed", "mlp"), "b": ("mlp",)}, tree, mesh)
    assert device_bytes(placed) == 4 * (32 * 48 // 8 + 48)


def test_the_compilers_refusal_says_by_how_much():
    text = ("RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory "
            "space hbm. Used 22.50G of 15.75G hbm. Exceeded hbm capacity by 6.75G.")  # fmt: skip
    assert over_use(text) == (int(22.5 * 2**30), int(15.75 * 2**30))
    text = ("RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (27.27G) exceeds available HBM (15.75G).")  # fmt: skip
    assert over_use(text) == (int(27.27 * 2**30), int(15.75 * 2**30))
    assert over_use("INTERNAL: something else") is None


def test_one_minute_of_full_hd_is_three_million_tokens():
    """1,441 frames are 361 latent ones; 1088 and 1920 pixels are 68 and 120 tokens of 16."""
    minute = ClipSize(1088, 1920, 1441)
    assert clip_tokens(vae_preset("wan21"), (1, 2, 2), minute) == 361 * 68 * 120
    assert clip_tokens(vae_preset("wan22"), (1, 2, 2), minute) == 361 * 34 * 60
    with pytest.raises(BadInput, match="nearest 1920x1072|nearest 1920x1088"):
        clip_tokens(vae_preset("wan21"), (1, 2, 2), dataclasses.replace(minute, height=1080))


def _summary(remat, rows, peak, usable):
    values = {f.name: 0 for f in dataclasses.fields(Summary)}
    return Summary(**values | {"remat": remat, "rows": rows, "peak_bytes": peak,
                               "usable_bytes": usable, "over_bytes": peak - usable,
                               "fits": peak <= usable})  # fmt: skip


@pytest.mark.parametrize(
    ("start", "each", "most"),
    [({"none": 40, "save_attention": 40, "full": 40}, {"none": 70, "save_attention": 9, "full": 4},
      ("full", 15, "save_attention")),
     ({"none": 10, "save_attention": 10, "full": 10}, {"none": 5, "save_attention": 5, "full": 5},
      ("none", 18, "none")),
     ({"none": 99, "save_attention": 99, "full": 99}, {"none": 2, "save_attention": 2, "full": 2},
      None)],
)  # fmt: skip
def test_search_finds_the_most_rows_and_the_cheapest_policy(start, each, most):
    """Memory start + each x rows of 100: what fits can be read off."""
    asked = []

    def compile_one(policy, rows):
        asked.append((policy, rows))
        return _summary(policy, rows, start[policy] + each[policy] * rows, 100)

    found = best_of(compile_one)
    if most is None:
        assert (found.best, found.cheapest) == (None, None)
    else:
        assert (found.best.remat, found.best.rows, found.cheapest) == most
    assert len(asked) == len(set(asked)) <= 5 * len(POLICIES), "no plan is compiled twice"


def test_every_remat_policy_is_searched():
    assert set(POLICIES) == set(REMAT)
