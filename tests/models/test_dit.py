"""Laws of the denoiser: a packed clip is a clip alone, in values and in gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from jax.sharding import AxisType

from vidsim.core.errors import BadInput
from vidsim.core.patching import token_positions
from vidsim.core.trees import count, flatten
from vidsim.models.dit import DiT
from vidsim.models.dit_config import PRESETS, DiTConfig, matmul_flops, preset
from vidsim.parallel.place import row_sharding
from vidsim.parallel.rules import Rules, shardings

R, N, M, S, P, TEXT, ACTIONS = 2, 40, 20, 4, 8, 10, 3
CFG = DiTConfig(
    patch_width=P, text_width=TEXT, width=24, heads=2, mlp_width=32, layers=2, freq_width=8,
    num_actions=ACTIONS, place_embedding=True, pooled_text=True,
)  # fmt: skip
# float32 sums in another order; gradients relative to the largest entry of each weight's gradient
VALUES, GRADIENTS = 2e-5, 2e-5


@functools.cache
def scattered_params():
    """Fresh weights plus noise: zeros (head, embeddings) would hide whatever lies behind them."""
    params = DiT(CFG).init(jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [p + 0.1 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noisy)


@dataclasses.dataclass
class Clip:
    """One clip with all it brings into a row, and a random weight for each output."""

    grid: tuple[int, int, int]
    text_tokens: int
    seed: int

    def __post_init__(self):
        rng = np.random.default_rng(self.seed)
        self.count = int(np.prod(self.grid))
        self.patches = rng.normal(size=(self.count, P)).astype(np.float32)
        self.text = rng.normal(size=(self.text_tokens, TEXT)).astype(np.float32)
        self.weight = rng.normal(size=(self.count, P)).astype(np.float32)
        self.levels = rng.random(2).astype(np.float32)
        self.given = rng.random(self.count) < 0.3
        self.action = rng.integers(0, ACTIONS + 1, self.count).astype(np.int32)
        self.fps, self.size = float(rng.integers(4, 30)), rng.integers(32, 200, 2)


CLIPS = [Clip((2, 3, 2), 5, 1), Clip((1, 2, 4), 3, 2), Clip((3, 2, 3), 7, 3), Clip((1, 1, 1), 1, 4)]


def pack(rows, filler=0.0):
    """Arrays of R rows; padding and empty slots hold the filler."""
    rows = [*rows, *[[]] * (R - len(rows))]
    a = {
        "patches": np.full((R, N, P), filler, np.float32),
        "text": np.full((R, M, TEXT), filler, np.float32),
        "weight": np.zeros((R, N, P), np.float32), "levels": np.zeros((R, 2 * S), np.float32),
        "index": np.zeros((R, N), np.int32), "patch_segment": np.zeros((R, N), np.int32),
        "text_segment": np.zeros((R, M), np.int32), "position": np.zeros((R, N, 3), np.int32),
        "fps": np.zeros((R, S), np.float32), "size": np.zeros((R, S, 2), np.int32),
        "action": np.zeros((R, N), np.int32), "grid": np.zeros((R, S, 3), np.int32),
    }  # fmt: skip
    places = {}
    for r, row in enumerate(rows):
        at = text_at = 0
        for s, clip in enumerate(row):
            here, there = slice(at, at + clip.count), slice(text_at, text_at + clip.text_tokens)
            a["patches"][r, here], a["text"][r, there] = clip.patches, clip.text
            a["weight"][r, here], a["levels"][r, 2 * s : 2 * s + 2] = clip.weight, clip.levels
            a["index"][r, here] = 2 * s + clip.given
            a["patch_segment"][r, here] = a["text_segment"][r, there] = s + 1
            a["position"][r, here] = token_positions(clip.grid)
            a["fps"][r, s], a["size"][r, s], a["action"][r, here] = clip.fps, clip.size, clip.action
            a["grid"][r, s] = clip.grid
            places[clip.seed] = (r, here, there)
            at, text_at = here.stop, there.stop
    return a, places


def apply(cfg, params, patches, text, a, **more):
    return DiT(cfg).apply(
        params, patches, text, levels_RK=a["levels"], level_index_RN=a["index"],
        patch_segment_RN=a["patch_segment"], text_segment_RM=a["text_segment"],
        position_RN3=a["position"], fps_RS=a["fps"], size_RS2=a["size"], grid_RS3=a["grid"],
        action_RN=a["action"], **more,
    )  # fmt: skip


@functools.cache
def jitted(cfg):
    """x, and gradients of sum(x * weight) in params, patches and text."""

    def loss(params, patches, text, a):
        x = apply(cfg, params, patches, text, a)
        return jnp.sum(x * a["weight"]), x

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))

    def call(a):
        a = {k: jnp.asarray(v) for k, v in a.items()}
        (_, x), gradients = run(scattered_params(), a["patches"], a["text"], a)
        return x, gradients

    return call


def assert_close_trees(got, want, tolerance=GRADIENTS):
    want = flatten(want)
    for path, array in flatten(got).items():
        scale = float(jnp.abs(want[path]).max()) + 1e-6
        np.testing.assert_allclose(
            array / scale, want[path] / scale, atol=tolerance, rtol=0, err_msg=path
        )


@functools.cache
def alone(attention):
    """Each clip by itself: x and gradients in patches and text; and the sum of the weights'."""
    run, results, total = jitted(dataclasses.replace(CFG, attention=attention)), {}, None
    for clip in CLIPS:
        a, places = pack([[clip]])
        r, here, there = places[clip.seed]
        x, (d_params, d_patches, d_text) = run(a)
        results[clip.seed] = x[r, here], d_patches[r, here], d_text[r, there]
        total = d_params if total is None else jax.tree.map(jnp.add, total, d_params)
    return results, total


@pytest.mark.parametrize("attention", ["dense", "cpu_blocks"])
@pytest.mark.parametrize("order", [[[0, 1, 2], [3]], [[3, 2], [1, 0]]], ids=["so", "otherwise"])
def test_packed_equals_alone_in_values_and_gradients(attention, order):
    a, places = pack([[CLIPS[i] for i in row] for row in order])
    x, (d_params, d_patches, d_text) = jitted(dataclasses.replace(CFG, attention=attention))(a)
    singles, d_total = alone(attention)
    for clip in CLIPS:
        r, here, there = places[clip.seed]
        got = x[r, here], d_patches[r, here], d_text[r, there]
        for ours, single in zip(got, singles[clip.seed], strict=True):
            np.testing.assert_allclose(ours, single, atol=VALUES, rtol=0)
    assert_close_trees(d_params, d_total)


@pytest.mark.parametrize("attention", ["dense", "cpu_blocks"])
def test_wild_neighbours_and_padding_change_nothing(attention):
    """Bitwise: what is masked contributes an exact zero, whatever its size."""
    run = jitted(dataclasses.replace(CFG, attention=attention))
    a, places = pack([CLIPS[:3]])
    wild, _ = pack([[CLIPS[0], CLIPS[1], dataclasses.replace(CLIPS[2], seed=9)]], filler=1e6)
    r, here, there = places[CLIPS[1].seed]
    for key, ids, mine in (("patches", "patch_segment", here), ("text", "text_segment", there)):
        others = np.ones_like(wild[ids], bool)
        others[r, mine] = False
        wild[key][others] = 1e6 * np.sign(wild[key][others] + 0.5)
    wild["weight"][:, here.stop :] = 0.0
    a["weight"][:, here.stop :] = 0.0
    calm, stirred = run(a), run(wild)
    np.testing.assert_array_equal(stirred[0][r, here], calm[0][r, here])
    np.testing.assert_array_equal(stirred[1][1][r, here], calm[1][1][r, here])
    np.testing.assert_array_equal(stirred[1][2][r, there], calm[1][2][r, there])


def test_padding_and_empty_rows_are_zero_and_take_no_gradient():
    a, _ = pack([CLIPS[:2]], filler=3.0)
    a["weight"][:] = 1.0
    x, (_, d_patches, d_text) = jitted(dataclasses.replace(CFG, attention="dense"))(a)
    assert np.all(np.asarray(x)[a["patch_segment"] == 0] == 0)
    assert np.all(np.asarray(d_patches)[a["patch_segment"] == 0] == 0)
    assert np.all(np.asarray(d_text)[a["text_segment"] == 0] == 0)


def test_unrolled_with_remat_equals_scanned_without():
    a, _ = pack([CLIPS[:2], CLIPS[2:]])
    plain = jitted(dataclasses.replace(CFG, attention="cpu_blocks"))(a)
    changes = {"attention": "cpu_blocks", "loop": "unroll", "remat": "save_attention"}
    other = jitted(dataclasses.replace(CFG, **changes))(a)
    np.testing.assert_allclose(other[0], plain[0], atol=VALUES, rtol=0)
    assert_close_trees(other[1][0], plain[1][0])


def test_bfloat16_is_close_to_float32():
    a, _ = pack([CLIPS[:2], CLIPS[2:]])
    args = {k: jnp.asarray(v) for k, v in a.items()}
    forward = jax.jit(apply, static_argnums=0)
    exact, rounded = (
        forward(
            dataclasses.replace(CFG, dtype=d),
            scattered_params(),
            args["patches"],
            args["text"],
            args,
        )
        for d in ("float32", "bfloat16")
    )
    assert rounded.dtype == jnp.float32
    error = jnp.sqrt(jnp.mean((rounded - exact) ** 2) / jnp.mean(exact**2))
    assert error < 0.03  # operands carry 8 bits, through two blocks


def test_one_level_a_token_equals_few_levels():
    a, _ = pack([CLIPS[:2], CLIPS[2:]])
    args = {k: jnp.asarray(v) for k, v in a.items()}
    each = dict(args)
    each["levels"] = jnp.take_along_axis(args["levels"], args["index"], axis=1)
    each["index"] = jnp.tile(jnp.arange(N, dtype=jnp.int32), (R, 1))
    forward = jax.jit(apply, static_argnums=0)
    few = forward(CFG, scattered_params(), args["patches"], args["text"], args)
    many = forward(CFG, scattered_params(), args["patches"], args["text"], each)
    np.testing.assert_allclose(many, few, atol=VALUES, rtol=0)


@pytest.mark.parametrize("what", ["fps", "size", "grid", "action", "levels", "position"])
def test_what_a_clip_brings_reaches_its_own_tokens_only(what):
    a, places = pack([CLIPS[:2]])
    changed = {k: np.copy(v) for k, v in a.items()}
    here = places[CLIPS[1].seed][1]
    if what in ("fps", "size", "grid"):
        changed[what][0, 1] *= 2
    elif what == "levels":
        changed[what][0, 2:4] = 0.5
    else:
        changed[what][0, here] = (changed[what][0, here] * 2 + 1) % (ACTIONS + 1)
    run = jitted(dataclasses.replace(CFG, attention="dense"))
    difference = np.abs(np.asarray(run(changed)[0]) - np.asarray(run(a)[0]))[0].max(-1)
    assert difference[here].min() > 1e-5
    difference[here] = 0.0
    assert difference.max() == 0.0


def test_fresh_weights_predict_zero_and_ignore_clips_and_actions():
    params = DiT(CFG).init(jax.random.key(3))
    a = {k: jnp.asarray(v) for k, v in pack([CLIPS[:2]])[0].items()}
    x = jax.jit(apply, static_argnums=0)(CFG, params, a["patches"], a["text"], a)
    assert np.all(np.asarray(x) == 0.0)
    for path in ("inputs/clip_out/w", "inputs/action"):
        assert np.all(np.asarray(flatten(params)[path]) == 0.0)


def equations(jaxpr, times=1):
    """(equation, how often it runs), inner programs included."""
    for eqn in jaxpr.eqns:
        inner_times = times * (eqn.params["length"] if eqn.primitive.name == "scan" else 1)
        yield eqn, times
        for inner in jaxprs_in_params(eqn.params):
            yield from equations(inner, inner_times)


def traced(cfg, wants_gradient):
    a = {k: jnp.asarray(v) for k, v in pack([CLIPS[:2]])[0].items()}
    forward = lambda p: jnp.sum(apply(cfg, p, a["patches"], a["text"], a) * a["weight"])  # noqa: E731
    params = jax.eval_shape(DiT(cfg).init, jax.random.key(0))
    return jax.jit(jax.grad(forward) if wants_gradient else forward).trace(params).jaxpr.jaxpr


def test_six_modulation_vectors_a_token_never_exist():
    for eqn, _ in equations(traced(CFG, wants_gradient=True)):
        for out in eqn.outvars:
            sizes = tuple(getattr(out.aval, "shape", ()))
            six = sizes[-2:] == (6, CFG.width) or sizes[-1:] == (6 * CFG.width,)
            assert not (six and N in sizes), f"{eqn.primitive} makes {sizes}"


def test_operations_count_every_product():
    """Against the products of the traced program, dense so that every pair is computed."""
    cfg = dataclasses.replace(
        CFG, attention="dense", clip_embedding=False, pooled_text=False
    )  # what tokens and levels cost; train/flops.py adds what clips cost
    found = 0
    for eqn, times in equations(traced(cfg, wants_gradient=False)):
        if eqn.primitive.name == "dot_general":
            (contract, _), _ = eqn.params["dimension_numbers"]
            inner = np.prod([eqn.invars[0].aval.shape[i] for i in contract], dtype=np.int64)
            found += 2 * times * int(inner) * int(np.prod(eqn.outvars[0].aval.shape))
    each = matmul_flops(cfg)
    tokens = N * each.patch_token + M * each.text_token + 2 * S * each.level
    assert found == R * (tokens + N * N * each.self_pair + N * M * each.cross_pair)


def test_every_weight_has_axes_and_can_be_split():
    dit = DiT(CFG)
    shapes = jax.eval_shape(dit.init, jax.random.key(0))
    names = ("data", "fsdp", "context", "tensor")
    mesh = jax.make_mesh((2, 2, 1, 2), names, axis_types=(AxisType.Auto,) * 4)
    placed = shardings(Rules(), mesh, dit.param_axes(), shapes)
    split = {path for path, s in flatten(placed).items() if any(s.spec)}
    big = {p for p, s in flatten(shapes).items() if s.size >= CFG.width * CFG.width}
    assert big <= split
    assert dit.num_params() == count(shapes) == count(dit.init(jax.random.key(0)))


def test_a_mesh_changes_nothing():
    names = ("data", "fsdp", "context", "tensor")
    mesh = jax.make_mesh(
        (1, 2, 1, 2), names, devices=jax.devices()[:4], axis_types=(AxisType.Auto,) * 4
    )
    cfg, dit = dataclasses.replace(CFG, attention="cpu_blocks"), DiT(CFG)
    a = {k: jnp.asarray(v) for k, v in pack([CLIPS[:2], CLIPS[2:]])[0].items()}
    forward = jax.jit(apply, static_argnums=0)
    here = forward(cfg, scattered_params(), a["patches"], a["text"], a)
    placed = shardings(Rules(), mesh, dit.param_axes(), jax.eval_shape(dit.init, jax.random.key(0)))
    with jax.set_mesh(mesh):
        params = jax.device_put(scattered_params(), placed)
        b = jax.device_put(a, row_sharding(mesh))
        spread = forward(cfg, params, b["patches"], b["text"], b)
    np.testing.assert_allclose(spread, here, atol=VALUES, rtol=0)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"width": 25}, "DiTConfig.width: 25; a multiple of heads=2"),
        ({"width": 26}, "head width 13"),
        ({"layers": 0}, "DiTConfig.layers: 0; at least 1"),
        ({"dtype": "float16"}, "DiTConfig.dtype"),
        ({"attention": "densee"}, "DiTConfig.attention: 'densee'.*'dense'"),
        ({"remat": "some"}, "remat: policy 'some'"),
        ({"num_actions": -1}, "num_actions: -1"),
        ({"freq_width": 7}, "freq_width: 7"),
    ],
)
def test_impossible_shapes_are_refused(change, message):
    with pytest.raises(BadInput, match=message):
        dataclasses.replace(CFG, **change)


def test_disagreeing_arrays_and_unknown_presets_are_refused():
    a, _ = pack([CLIPS[:2]])
    a["position"] = a["position"][:, :-1]
    with pytest.raises(BadInput, match="denoiser: position has N=39"):
        jitted(CFG)(a)
    assert preset("wan-14b") is PRESETS["wan-14b"]
    with pytest.raises(BadInput, match="'wan-13b'.*'wan-1.3b'"):
        preset("wan-13b")


def test_a_place_is_a_share_of_the_clip_whatever_its_size():
    """Middles of 2 x 2 x 4 tokens: 1/4, 3/4 of duration and height; 1/8 to 7/8 of the width."""
    position = jnp.asarray(token_positions((2, 2, 4)))[None]
    grid, segment = jnp.asarray([[[2, 2, 4]]]), jnp.ones((1, 16), jnp.int32)
    place = np.asarray(DiT(CFG)._place(position, grid, segment))[0]
    half, quarter = (0.25, 0.75), (0.125, 0.375, 0.625, 0.875)
    want = [(y, x, t) for t in half for y in half for x in quarter]
    np.testing.assert_allclose(place, want, atol=1e-7)
    with pytest.raises(BadInput, match="grid"):
        DiT(CFG)._place(position, None, segment)


def test_pooled_text_is_the_mean_of_the_clips_own_words():
    """A caption said twice has the same mean; only through it may a model without cross-attention
    see the words at all."""
    params = scattered_params()
    blocks = params["blocks"]
    blocks = blocks | {"cross": jax.tree.map(jnp.zeros_like, blocks["cross"])}
    params = params | {"blocks": blocks}
    once, other = CLIPS[1], dataclasses.replace(CLIPS[1], seed=9)
    twice = dataclasses.replace(once, text_tokens=2 * once.text_tokens)
    for clip in (twice, other):
        clip.patches, clip.weight, clip.levels = once.patches, once.weight, once.levels
        clip.given, clip.action, clip.fps, clip.size = once.given, once.action, once.fps, once.size
    twice.text = np.concatenate([once.text, once.text])
    forward, made = jax.jit(apply, static_argnums=0), []
    for clip in (once, twice, other):
        a, places = pack([[CLIPS[0], clip]])
        r, here, _ = places[clip.seed]
        made.append(np.asarray(forward(CFG, params, a["patches"], a["text"], a))[r, here])
    np.testing.assert_allclose(made[1], made[0], atol=VALUES, rtol=0)
    assert np.abs(made[2] - made[0]).max() > 100 * VALUES


def test_what_was_said_joins_the_patches_at_their_own_tokens():
    """Read through the patches' own matrix, patches and what was said are as good as their sum;
    nothing said is zeros."""
    cfg, params = dataclasses.replace(CFG, self_condition=True), scattered_params()
    patch = params["inputs"]["patch"]
    estimate = {"w": patch["w"], "b": jnp.zeros_like(patch["b"])}
    read = params | {"inputs": params["inputs"] | {"estimate": estimate}}
    a, _ = pack([CLIPS[:2]])
    said = np.random.default_rng(3).normal(size=a["patches"].shape).astype(np.float32)
    want = apply(CFG, params, a["patches"] + said, a["text"], a)
    plain = apply(CFG, params, a["patches"], a["text"], a)
    assert np.abs(want - plain).max() > 100 * VALUES
    for given, told in ((said, want), (None, plain), (0 * said, plain)):
        made = apply(cfg, read, a["patches"], a["text"], a, estimate_RNP=given)
        np.testing.assert_allclose(made, told, atol=VALUES)


def test_without_place_embedding_it_has_no_weight():
    plain = DiT(dataclasses.replace(CFG, place_embedding=False))
    paths = flatten(jax.eval_shape(plain.init, jax.random.key(0)))
    assert not [path for path in paths if "place" in path]


def test_a_token_knows_its_moment_even_in_pure_noise():
    """Frames alike in all but their moment: the first and the last get different predictions, and
    without the place the same ones."""
    clip = dataclasses.replace(CLIPS[2], grid=(3, 1, 1), seed=5)
    clip.patches, clip.action = np.repeat(clip.patches[:1], 3, 0), np.zeros(3, np.int32)
    clip.given = np.zeros(3, bool)
    a, places = pack([[clip]])
    r, here, _ = places[clip.seed]
    forward, spread = jax.jit(apply, static_argnums=0), {}
    for with_place in (True, False):
        cfg, params = dataclasses.replace(CFG, place_embedding=with_place), scattered_params()
        if not with_place:
            inputs = {k: v for k, v in params["inputs"].items() if k != "place"}
            params = params | {"inputs": inputs}
        made = np.asarray(forward(cfg, params, a["patches"], a["text"], a))[r, here]
        spread[with_place] = np.abs(made[0] - made[2]).max()
    assert spread[False] < VALUES < 100 * VALUES < spread[True]
