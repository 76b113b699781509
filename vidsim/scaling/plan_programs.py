"""The programs that a plan compiles, with abstract arguments: no weight is ever made.

train    the training step of `train/program.py`
sample   one call of the denoiser, with guidance: what a solver step costs (`Denoising.denoise`)
encode   one chunk of a video through the encoder, in the middle of a clip (`vae_stream`)
decode   one chunk of latents through the decoder, likewise
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vidsim.core.errors import bad
from vidsim.core.flop_count import jaxpr_flops
from vidsim.data.plan import PlanConfig
from vidsim.diffusion.guidance import GuidanceConfig
from vidsim.models.vae import Vae, VaeConfig
from vidsim.models.vae_stream import decode_chunk, encode_chunk
from vidsim.nn.attention import implementation_for
from vidsim.parallel.place import batch_sharding
from vidsim.parallel.rules import Rules, shardings
from vidsim.runs import DenoiserRun, VaeRun
from vidsim.scaling.plan_rows import RowContent
from vidsim.tasks.autoencoding import Autoencoding, load_perceptual
from vidsim.tasks.denoising import Denoising, DenoisingConfig
from vidsim.train.flops import TRAINING, forward_flops
from vidsim.train.loop import build_program

Struct = jax.ShapeDtypeStruct


@dataclasses.dataclass(frozen=True)
class Job:
    """A program that can be compiled, and what is known of it without compiling.

    compile          gives the executable; raises what the compiler raises
    tokens, room     useful and possible patch tokens of a step; pixels' programs have none
    flops            useful operations of the whole step: live pairs only
    padded_flops     as if every row attended as a whole
    weight_bytes, average_bytes, optimizer_bytes  float32 arrays of one device
    attention        implementations by use
    rows             rows of a micro-step
    """

    compile: Callable[[], Any]
    tokens: float
    room: float
    flops: float
    padded_flops: float
    weight_bytes: int
    average_bytes: int = 0
    optimizer_bytes: int = 0
    attention: Mapping[str, str] = dataclasses.field(default_factory=dict)
    rows: int = 0


@dataclasses.dataclass(frozen=True)
class ClipSize:
    """One clip in pixels and frames; the sides are already multiples of what the strides ask."""

    height: int
    width: int
    frames: int


def train_denoiser_job(run: DenoiserRun, mesh: Mesh, content: RowContent) -> Job:
    """The optimizer step of a denoiser."""
    check_rows(run.plan, mesh, run.run.micro_steps)
    program = build_program(Denoising(run.denoising), run.run, run.optim, mesh)
    batch = abstract_batch(run.denoising, run.plan, run.plan.rows_per_step, run.run.micro_steps)
    rows = run.plan.rows_per_step
    live, padded = content.live(rows), content.padded(rows)
    state = program.abstract
    return Job(
        compile=lambda: program.step.compiled(state, batch),
        tokens=live.patches, room=padded.patches,
        flops=TRAINING * sum(forward_flops(run.denoising, live)),
        padded_flops=TRAINING * sum(forward_flops(run.denoising, padded)),
        weight_bytes=device_bytes(state.params), average_bytes=device_bytes(state.ema),
        optimizer_bytes=device_bytes(state.opt_state),
        attention=attention_names(run.denoising, run.plan, mesh),
        rows=rows // run.run.micro_steps,
    )  # fmt: skip


def train_vae_job(run: VaeRun, mesh: Mesh) -> Job:
    """The optimizer step of an autoencoder on its largest canvas."""
    crops, micro = run.data.crops, run.run.micro_steps
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    shape = max(crops.canvases, key=math.prod)
    clips = crops.image_batch_size or crops.batch_size if shape[0] == 1 else crops.batch_size
    if clips % (ways * micro):
        raise bad(
            "plan", f"{clips} clips a step for {micro} micro-steps over {ways} devices",
            f"a multiple of {ways * micro}", "set data.crops.batch_size or parallel",
        )  # fmt: skip
    task = Autoencoding(run.autoencoding, load_perceptual(run.autoencoding))
    program = build_program(task, run.run, run.optim, mesh)
    each = clips // micro
    batch = {
        "video": Struct((micro, each, *shape, 3), np.uint8),
        "clip_key": Struct((micro, each), np.uint32),
        "num_clips": Struct((), np.float32),
    }
    state = program.abstract
    flops = jaxpr_flops(program.step.step, state, batch, Struct((), np.float32))
    return Job(
        compile=lambda: program.step.compiled(state, batch), tokens=0, room=0, flops=flops,
        padded_flops=flops, weight_bytes=device_bytes(state.params),
        average_bytes=device_bytes(state.ema), optimizer_bytes=device_bytes(state.opt_state),
    )  # fmt: skip


def sample_job(
    cfg: DenoisingConfig, plan: PlanConfig, rows: int, mesh: Mesh, content: RowContent,
    guidance: GuidanceConfig,
) -> Job:  # fmt: skip
    """One guided prediction for `rows` rows; weights are float32, as checkpoints hold them."""
    check_rows(dataclasses.replace(plan, rows_per_step=rows, group_rows=1), mesh, 1)
    task = Denoising(cfg)
    params = place(task.param_axes(), jax.eval_shape(task.init, jax.random.key(0)), mesh)
    text_rows = rows * (2 if guidance.needed else 1)
    facts = abstract_batch(cfg, plan, rows, None)
    x = facts.pop("patches")

    def put(name: str, value: Struct) -> Struct:
        where = batch_sharding(mesh, name, value.shape)
        return Struct(value.shape, value.dtype, sharding=where)

    facts = {name: put(name, value) for name, value in facts.items()}
    text = {
        "text": Struct((text_rows, plan.row_text, cfg.dit.text_width), np.float32),
        "text_segment": Struct((text_rows, plan.row_text), np.int32),
        "text_position": Struct((text_rows, plan.row_text), np.int32),
    }
    text = {name: put(name, value) for name, value in text.items()}
    t = put("clip_key", Struct((rows, plan.row_segments), np.float32))
    given = put("patch_segment", Struct((rows, plan.row_tokens), np.bool_))
    said = None
    if cfg.dit.self_condition:
        said = put("patches", Struct((text_rows, *x.shape[1:]), np.float32))

    def denoise(params: Any, facts: Any, text: Any, x: Any, t: Any, given: Any, said: Any) -> Any:
        return task.denoise(params, facts, text, guidance, x, t, given, None, said)

    def compile_it() -> Any:
        with jax.set_mesh(mesh):
            x_ = put("patches", x)
            return jax.jit(denoise).lower(params, facts, text, x_, t, given, said).compile()

    live, padded = content.live(text_rows), content.padded(text_rows)
    return Job(
        compile=compile_it, tokens=content.live(rows).patches, room=content.padded(rows).patches,
        flops=sum(forward_flops(cfg, live)), padded_flops=sum(forward_flops(cfg, padded)),
        weight_bytes=device_bytes(params), attention=attention_names(cfg, plan, mesh),
        rows=text_rows,
    )  # fmt: skip


def codec_job(cfg: VaeConfig, what: str, clip: ClipSize, chunk: int, mesh: Mesh) -> Job:
    """A chunk of `chunk` latent frames in the middle of one clip, its rows of pixels split over the
    mesh axis `context`; the features that the chunk before left are arguments.
    """
    vae, rules = Vae(cfg), Rules()
    stride, side = cfg.time_stride, cfg.space_stride
    vae.check_video((1, clip.frames, clip.height, clip.width, 3))
    h, w = clip.height // side, clip.width // side
    params = place(vae.param_axes(), jax.eval_shape(vae.init, jax.random.key(0)), mesh)
    run = decode_chunk if what == "decode" else encode_chunk
    shapes = {"decode": ((1, 1, h, w, cfg.latent_channels), (1, chunk, h, w, cfg.latent_channels)),
              "encode": ((1, 1, clip.height, clip.width, 3),
                         (1, chunk * stride, clip.height, clip.width, 3))}  # fmt: skip

    def put(value: Struct) -> Struct:
        axes = (None, None, "height", None, None)
        spec = rules.sharding(mesh, axes, value.shape, what)
        return Struct(value.shape, value.dtype, sharding=spec)

    start, later = (Struct(shape, np.float32) for shape in shapes[what])
    state = jax.tree.map(put, jax.eval_shape(lambda p, z: run(vae, p, None, z)[0], params, start))

    def compile_it() -> Any:
        with jax.set_mesh(mesh):
            return run.lower(vae, params, state, put(later)).compile()

    flops = jaxpr_flops(lambda p, s, z: run(vae, p, s, z), params, state, later)
    return Job(compile=compile_it, tokens=0, room=0, flops=flops, padded_flops=flops,
               weight_bytes=device_bytes(params))  # fmt: skip


def check_rows(plan: PlanConfig, mesh: Mesh, micro_steps: int) -> None:
    """Raises BadInput unless the mesh divides the rows of a micro-step and the tokens of a row."""
    ways, context = mesh.shape["data"] * mesh.shape["fsdp"], mesh.shape["context"]
    if plan.rows_per_step % (ways * micro_steps):
        raise bad(
            "plan", f"{plan.rows_per_step} rows a step for {micro_steps} micro-steps over {ways} "
            "devices (data x fsdp)", f"a multiple of {ways * micro_steps}",
            "set plan.rows_per_step, run.micro_steps or parallel",
        )  # fmt: skip
    if plan.row_tokens % context:
        raise bad(
            "plan.row_tokens", f"{plan.row_tokens} over context={context}",
            f"a multiple of {context}", "set plan.row_tokens or parallel.context",
        )  # fmt: skip


def abstract_batch(
    cfg: DenoisingConfig, plan: PlanConfig, rows: int, micro_steps: int | None
) -> dict[str, Struct]:
    """Shapes of a packed batch (core/batch.py), as `train/step.py` places it: micro-steps first;
    None leaves them out.
    """
    n, m, s = plan.row_tokens, plan.row_text, plan.row_segments
    lead = (rows,) if micro_steps is None else (micro_steps, rows // micro_steps)
    f32, i32 = np.float32, np.int32
    text = ((m, cfg.dit.text_width), f32) if cfg.text is None else ((m,), i32)
    rest: dict[str, tuple[tuple[int, ...], Any]] = {
        "patches": ((n, cfg.dit.patch_width), f32), "patch_segment": ((n,), i32),
        "patch_position": ((n, 3), i32), "action": ((n,), i32),
        "text" if cfg.text is None else "text_ids": text,
        "text_segment": ((m,), i32), "text_position": ((m,), i32), "clip_key": ((s,), np.uint32),
        "grid": ((s, 3), i32), "fps": ((s,), f32), "size": ((s, 2), i32),
    }  # fmt: skip
    batch = {name: Struct((*lead, *shape), kind) for name, (shape, kind) in rest.items()}
    return batch | {"num_clips": Struct((), f32), "num_tokens": Struct((), f32)}


def attention_names(cfg: DenoisingConfig, plan: PlanConfig, mesh: Mesh) -> dict[str, str]:
    """Implementation of self- and cross-attention on the mesh's devices."""
    platform, n, m = mesh.devices.flat[0].platform, plan.row_tokens, plan.row_text
    if cfg.dit.attention != "auto":
        return {"self": cfg.dit.attention, "cross": cfg.dit.attention}
    return {"self": implementation_for(platform, n, n), "cross": implementation_for(platform, n, m)}


def place(axes: Any, shapes: Any, mesh: Mesh) -> Any:
    """Abstract weights where the rules put them."""
    places = shardings(Rules(), mesh, axes, shapes)
    return jax.tree.map(lambda x, s: Struct(x.shape, x.dtype, sharding=s), shapes, places)


def device_bytes(tree: Any) -> int:
    """Bytes of abstract arrays on one device."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * jnp.dtype(x.dtype).itemsize
        for x in jax.tree.leaves(tree)
    )
