"""Every preset computes what one device computes, and no device holds more than its share.

Sizes are chosen to be told apart in a compiled program: 88 rows, 28 patch tokens, 12 text tokens.
The text encoder is learnt with the denoiser and obeys the same law.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from tests.parallel.compiled import gathered, holding
from tests.tasks.packed_clips import TinyClip, pack_all
from tests.tasks.tiny_models import scattered
from vidsim.core.trees import count, flatten
from vidsim.models import dit
from vidsim.models.dit_config import DiTConfig
from vidsim.models.latents import LatentConfig
from vidsim.models.text import ByteEncoderConfig
from vidsim.parallel.mesh import MeshConfig, ParallelConfig, build_mesh
from vidsim.tasks.denoising import Denoising, DenoisingConfig
from vidsim.train.optim import OptimConfig
from vidsim.train.program import Program
from vidsim.train.state import TrainState, init_state

ROWS, TOKENS, TEXT, WIDTH, MLP = 88, 28, 12, 32, 64
SLOTS = 5  # of a row; 5 slots or 6 levels times the rows of a device are no other size
MODEL = DiTConfig(
    patch_width=6, text_width=16, width=WIDTH, heads=4, mlp_width=MLP, layers=2, freq_width=8
)
WORDS = ByteEncoderConfig(width=16, heads=4, mlp_width=40, layers=1, reach=1)
LR, B1 = 1e-2, 0.9
# The first step of Adam moves a weight by LR·g/(|g| + EPS), so an error of a gradient reaches the
# weight at most LR/EPS times as large. The largest gradient here is 56: with EPS of 1e-3 the
# rounding of a small one would be seen tenfold. The first moment holds the gradient itself.
EPS = 1.0
OPTIM = OptimConfig(lr=LR, b1=B1, eps=EPS, clip_norm=None, warmup_steps=0)
# float32 sums over 88 rows in another order: measured 5e-7 of the largest gradient and 1.2e-7
# in a weight.
LOSS, GRADIENT, PARAMS = 1e-5, 1e-5, 1e-6

RING = "ring"  # keys in a ring over context; test_ring_attention.py reads what its programs send
PRESETS = {
    "fsdp": ParallelConfig("fsdp"),
    "fsdp_context_tensor": ParallelConfig("fsdp_context_tensor", context=2, tensor=2),
    "data": ParallelConfig("data"),
    "tensor": ParallelConfig("tensor", tensor=2),
    "fsdp_tensor": ParallelConfig("fsdp_tensor", data=2, tensor=2),
    "context": ParallelConfig("context", context=2),
    "context_tensor": ParallelConfig("context_tensor", context=2, tensor=2),
    "fsdp_context": ParallelConfig("fsdp_context", context=2),
    "slices": ParallelConfig("fsdp", slices=2),
    RING: ParallelConfig("fsdp_context_tensor", context=2, tensor=2),
}
QUICK = ("fsdp_context_tensor",)


class Done(NamedTuple):
    """One step: its loss, gradients, weights and average after it, and the program's text."""

    loss: float
    gradients: dict
    params: dict
    ema: dict
    text: str
    state: TrainState


@functools.cache
def task(attention="auto"):
    model = dataclasses.replace(MODEL, attention=attention)
    return Denoising(DenoisingConfig(model, WORDS, latent=LatentConfig((1, 1, 1))))


@functools.cache
def host_batch():
    """One or two clips a row; padding at the end of most rows."""
    clips = [TinyClip(i + 1, (2 + i % 2, 2, 2 + i % 3), "red") for i in range(ROWS + 22)]
    layout = [[i] + ([ROWS + i // 4] if i % 4 == 0 else []) for i in range(ROWS)]
    small = [dataclasses.replace(c, grid=(1, 2, 2), caption="go") for c in clips[ROWS:]]
    batch = pack_all(clips[:ROWS] + small, layout, MODEL.patch_width, N=TOKENS, M=TEXT, S=SLOTS)
    return {k: np.asarray(v) for k, v in batch.items()}


def one_step(mesh: Mesh, attention: str = "auto") -> Done:
    program = Program(task(attention), OPTIM, seed=0, ema_decay=0.5, mesh=mesh)
    step = program.step
    batch = step.place(host_batch())
    state = jax.device_put(init_state(scattered(task()), program.tx), step.state_shardings)
    text = step.compiled(state, batch).as_text()
    state, metrics = step(state, batch, 1.0)
    moments = [x for x in jax.tree.leaves(state.opt_state, is_leaf=is_moments) if is_moments(x)]
    gradients = jax.tree.map(lambda m: np.asarray(m) / (1 - B1), moments[0].mu)
    host = jax.tree.map(np.asarray, (state.params, state.ema))
    trees = (flatten(tree) for tree in (gradients, *host))
    return Done(float(metrics["loss"]), *trees, text, state)


def is_moments(node):
    return hasattr(node, "mu") and hasattr(node, "nu")


@functools.cache
def on_one_device():
    return one_step(build_mesh(MeshConfig(), jax.devices()[:1]))


@functools.cache
def spread(name):
    return one_step(build_mesh(PRESETS[name]), "ring_blocks" if name == RING else "auto")


def marked(names):
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", marked(PRESETS))
def test_a_preset_gives_loss_gradients_and_weights_of_one_device(name):
    one, many = on_one_device(), spread(name)
    assert many.loss == pytest.approx(one.loss, rel=LOSS)
    largest = max(np.abs(g).max() for g in one.gradients.values())
    assert largest > 1e-3 and all(np.abs(g).max() > 0 for g in one.gradients.values())
    for path, gradient in one.gradients.items():
        np.testing.assert_allclose(many.gradients[path], gradient, atol=GRADIENT * largest, rtol=0,
                                   err_msg=path)  # fmt: skip
        for mine, theirs in ((many.params, one.params), (many.ema, one.ema)):
            np.testing.assert_allclose(mine[path], theirs[path], atol=PARAMS, rtol=0, err_msg=path)


# Without the ring: its 44 rows in 2 slices cannot be told from all 88 rows by their number.
@pytest.mark.parametrize("name", marked(name for name in PRESETS if name != RING))
def test_no_gather_exceeds_a_block_and_no_activation_is_copied_over_an_axis(name):
    assert excesses(name, spread(name).text) == []


def excesses(name, text):
    """What a device holds beyond its share under a preset, in words."""
    data, fsdp, context, tensor = PRESETS[name].shape(8)
    rows, tokens = ROWS // (data * fsdp), TOKENS // context
    block = count(jax.tree.map(lambda x: x[0], scattered(task())["dit"]["blocks"]))
    # keys and values of a row's tokens meet all of its queries: what attention exchanges
    exchanged = rows * TOKENS * WIDTH // tensor if context > 1 else 0
    # six vectors for each level, which every block reads whole
    levels = rows * (SLOTS + 1) * 6 * WIDTH
    room = max(block, exchanged, levels)
    found = [f"gather {r.dims} at {r.source}" for r in gathered(text) if r.size > room]
    if data * fsdp > 1:
        whole = {ROWS, ROWS * tokens, ROWS * TOKENS, ROWS * TEXT}
        found += [f"all rows in {r.dims} at {r.source}" for r in holding(text, whole)]
    if context > 1:
        full = holding(text, {TOKENS, rows * TOKENS})
        wide = {WIDTH, MLP, MODEL.patch_width}
        found += [f"all tokens in {r.dims} at {r.source}" for r in full if set(r.dims) & wide]
    if tensor > 1:
        hidden = [r for r in holding(text, {MLP}) if rows * tokens == r.size // MLP]
        found += [f"all of the MLP in {r.dims} at {r.source}" for r in hidden]
    return found


@pytest.mark.parametrize("name", marked(PRESETS))
def test_weights_moments_and_average_are_split(name):
    """Each device holds its share of every matrix, and of what the optimizer keeps of it."""
    data, fsdp, context, tensor = PRESETS[name].shape(8)
    state = spread(name).state
    moments = [x for x in jax.tree.leaves(state.opt_state, is_leaf=is_moments) if is_moments(x)]
    trees = (state.params, state.ema, moments[0].mu, moments[0].nu)
    for flat in map(flatten, trees):
        for path, leaf in flat.items():
            kept = leaf.addressable_shards[0].data.size / leaf.size
            inner = path.split("/")[-1] == "w" and ("/blocks/" in path or path.startswith("text/"))
            assert kept <= 1 / (fsdp * context * tensor) or not inner, path
        assert flat["text/bytes/table"].addressable_shards[0].data.shape[1] * fsdp * context == 16


@pytest.mark.slow
@pytest.mark.parametrize("axes, said", [((None, "tokens", None), "all rows"),
                                        (("rows", None, None), "all tokens")])  # fmt: skip
def test_a_planted_replication_is_caught(monkeypatch, axes, said):
    """Blocks that hand on whole rows, or all tokens of a row, fail the law above."""
    monkeypatch.setattr(dit, "ROWS_TOKENS", axes)
    text = one_step(build_mesh(PRESETS["fsdp_context_tensor"])).text
    assert any(said in line for line in excesses("fsdp_context_tensor", text))


def test_the_reader_of_programs_sees_a_replication():
    """The same in small: one product whose input is handed to every device."""
    mesh = build_mesh(PRESETS["fsdp"])
    split = jax.NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    x = jax.ShapeDtypeStruct((ROWS, TOKENS, WIDTH), jnp.float32, sharding=split)
    w = jax.ShapeDtypeStruct((WIDTH, WIDTH), jnp.float32, sharding=split)

    def product(x, w, axes):
        return jax.lax.with_sharding_constraint(jnp.sin(x), PartitionSpec(*axes)) @ w

    found = {}
    for axes in ((("data", "fsdp"),), ()):
        run = jax.jit(functools.partial(product, axes=axes), out_shardings=split)
        with jax.set_mesh(mesh):
            text = run.lower(x, w).compile().as_text()
        found[axes] = excesses("fsdp", text)
    assert found[(("data", "fsdp"),)] == []
    assert any("gather (88, 28, 32)" in line for line in found[()])
