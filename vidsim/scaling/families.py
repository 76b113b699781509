"""The four families of compute presets: what stays fixed within each, and its ladder of models.

`laptop` and `gpu` learn the embedded shapes world; `host` and `pod` are for a user's own latents.
Every number of a family is a choice, stated here; what a member spends follows from it.
"""

import dataclasses
from collections.abc import Mapping

from vidsim.core.errors import bad, nearest
from vidsim.data.captions import CaptionConfig
from vidsim.data.geometry import GeometryConfig
from vidsim.data.plan import PlanConfig
from vidsim.diffusion.times import TimeConfig
from vidsim.models.dit_config import DiTConfig
from vidsim.models.text import ByteEncoderConfig
from vidsim.models.vae_presets import preset
from vidsim.parallel.mesh import ParallelConfig
from vidsim.quickstart import denoiser_run, encode_config
from vidsim.tasks.denoising import DenoisingConfig
from vidsim.train.optim import OptimConfig

MULTIPLES = {"base": 1, "2x": 2, "4x": 4, "8x": 8, "16x": 16, "32x": 32}
MIDDLE = 4  # the multiple whose model serves every member of `--by steps`


@dataclasses.dataclass(frozen=True)
class Shape:
    """Width, heads and blocks of a denoiser; the MLP is four times as wide."""

    width: int
    heads: int
    layers: int


@dataclasses.dataclass(frozen=True)
class Family:
    """What all members of a family share.

    about        hardware and cost, for people
    base_flops   training FLOPs of `base`
    shapes       multiple -> model of `--by size`
    denoising    everything of the denoiser but its width, heads, MLP and blocks
    plan         rows and steps: the same tokens a step for all members
    optim        peak rates are those of the model of `MIDDLE`
    ema_decay    of the weight average
    captions     kinds of captions drawn
    reference, geometry, max_text   clips that steps are counted on without a cache
    parallel, devices, topology     mesh that a member wants, on how many devices, which TPU slice
    """

    name: str
    about: str
    base_flops: float
    shapes: Mapping[int, Shape]
    denoising: DenoisingConfig
    plan: PlanConfig
    optim: OptimConfig
    ema_decay: float
    captions: CaptionConfig
    reference: str
    geometry: GeometryConfig
    max_text: int
    parallel: ParallelConfig = ParallelConfig()
    devices: int = 1
    topology: str | None = None


def family(name: str) -> Family:
    """The family of that name. Raises BadInput with the nearest known one."""
    if name not in FAMILIES:
        raise bad("--family", repr(name), nearest(name, FAMILIES))
    return FAMILIES[name]


# The quickstart's recipe, whatever it is: what is learnt of a world of shapes within minutes.
_RECIPE = denoiser_run("latents", None, 1000)
_WORLD_TASK = dataclasses.replace(  # a token is one cell of the laptop's autoencoder
    _RECIPE.denoising,
    dit=dataclasses.replace(_RECIPE.denoising.dit, patch_width=preset("laptop").latent_channels),
    latent=dataclasses.replace(_RECIPE.denoising.latent, patch=encode_config().geometry.patch),
)

_LAPTOP = Family(
    name="laptop",
    about="2 CPU cores; all members with three seeds in 80 to 100 minutes",
    base_flops=6e12,
    shapes={1: Shape(128, 2, 6), 2: Shape(160, 2, 6), 4: Shape(192, 3, 6), 8: Shape(224, 4, 6),
            16: Shape(256, 4, 7), 32: Shape(320, 5, 7)},
    denoising=_WORLD_TASK,
    plan=_RECIPE.plan,
    optim=dataclasses.replace(_RECIPE.optim, schedule="wsd", decay_share=0.2),
    ema_decay=_RECIPE.run.ema_decay,
    captions=_RECIPE.captions,
    reference="shapes", geometry=encode_config().geometry, max_text=encode_config().max_text,
)  # fmt: skip

_GPU = dataclasses.replace(
    _LAPTOP,
    name="gpu",
    about="one accelerator of 1e14 bfloat16 FLOPs a second or more; all members under 30 minutes "
    "where 5% of 1e15 is reached, resumable at any point",
    base_flops=2e15,
    shapes={1: Shape(256, 4, 6), 2: Shape(320, 5, 6), 4: Shape(384, 6, 6), 8: Shape(384, 6, 9),
            16: Shape(512, 8, 7), 32: Shape(512, 8, 11)},
    denoising=dataclasses.replace(
        _WORLD_TASK, dit=dataclasses.replace(_WORLD_TASK.dit, dtype="bfloat16")
    ),
    plan=PlanConfig(row_tokens=2304, row_text=1792, row_segments=128, rows_per_step=16,
                    group_rows=4, pool_rows=256, window_clips=8192, cost_width=384),
    ema_decay=0.999,
)  # fmt: skip

_VIDEO_TASK = DenoisingConfig(
    dit=DiTConfig(patch_width=64, text_width=768, dtype="bfloat16", remat="save_attention"),
    text=ByteEncoderConfig(width=768, heads=12, mlp_width=3072, layers=6, dtype="bfloat16"),
    times=TimeConfig(base_tokens=1024, base_shift=1.0),
    prediction="x",
)  # fmt: skip

_HOST = Family(
    name="host",
    about="one TPU host of 8 chips (v5e-8, v6e-8) on a user's own 256-pixel latents",
    base_flops=4e18,
    shapes={1: Shape(512, 4, 8), 2: Shape(512, 4, 12), 4: Shape(640, 5, 11),
            8: Shape(768, 6, 12), 16: Shape(896, 7, 13), 32: Shape(1024, 8, 15)},
    denoising=dataclasses.replace(
        _VIDEO_TASK,
        dit=dataclasses.replace(_VIDEO_TASK.dit, text_width=512),
        text=ByteEncoderConfig(width=512, heads=8, mlp_width=2048, layers=4, dtype="bfloat16"),
    ),
    plan=PlanConfig(row_tokens=17_408, row_text=8_192, row_segments=64, rows_per_step=32,
                    group_rows=8, pool_rows=2_048, window_clips=16_384, cost_width=640),
    optim=OptimConfig(name="muon", lr=1e-3, warmup_steps=500, schedule="wsd", decay_share=0.2,
                      weight_decay=0.01),
    ema_decay=0.9995,
    captions=CaptionConfig(),
    reference="mixed",
    geometry=GeometryConfig(max_area=256 * 256, max_frames=65, max_tokens=4_352),
    max_text=1024,
    parallel=ParallelConfig("fsdp"), devices=8, topology="v5e:2x4",
)  # fmt: skip

_POD = dataclasses.replace(
    _HOST,
    name="pod",
    about="a slice of 64 TPU chips (v5p:4x4x4) on a user's own 384-pixel latents",
    base_flops=1e21,
    shapes={1: Shape(1536, 12, 20), 2: Shape(1792, 14, 22), 4: Shape(2048, 16, 25),
            8: Shape(2304, 18, 30), 16: Shape(2560, 20, 36), 32: Shape(3072, 24, 36)},
    denoising=_VIDEO_TASK,
    plan=PlanConfig(row_tokens=39_168, row_text=8_192, row_segments=64, rows_per_step=128,
                    group_rows=64, pool_rows=2_048, window_clips=16_384, cost_width=2_048),
    optim=OptimConfig(name="muon", lr=5e-4, warmup_steps=2000, schedule="wsd", decay_share=0.2,
                      weight_decay=0.01),
    ema_decay=0.9999,
    geometry=GeometryConfig(max_area=384 * 384, max_frames=65, max_tokens=9_792),
    devices=64, topology="v5p:4x4x4",
)  # fmt: skip

FAMILIES: Mapping[str, Family] = {f.name: f for f in (_LAPTOP, _GPU, _HOST, _POD)}


def debug_family(chosen: Family) -> Family:
    """A form of a family that two cores finish in minutes: the same road, little learnt."""
    shapes = {m: Shape(16 * (m.bit_length() + 2), 2, 3) for m in chosen.shapes}
    plan = dataclasses.replace(chosen.plan, rows_per_step=2, group_rows=1, pool_rows=32)
    dit = dataclasses.replace(chosen.denoising.dit, loop="scan")  # compiles sooner
    task = dataclasses.replace(chosen.denoising, dit=dit)
    return dataclasses.replace(
        chosen, name=f"{chosen.name}:debug", base_flops=2e11, shapes=shapes, denoising=task,
        plan=plan, optim=dataclasses.replace(chosen.optim, warmup_steps=10), ema_decay=0.98,
    )  # fmt: skip
