"""What is given of a clip to make: one interface behind animate, extend, loop, join, blend, edit.

A condition says which tokens are given (noise level 0 from start to end), where in time the clip
lies, whether time is a circle, where its denoising begins and with which clip it blends.
`place` turns the conditions of a batch into arrays beside the packed batch; `steer` puts them
around the network. A batch without conditions is sampled as if this file did not exist.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vidsim.core.batch import REFERENCE_TIME
from vidsim.core.errors import bad
from vidsim.core.patching import patchify
from vidsim.diffusion.segments import spread
from vidsim.diffusion.solvers import Denoise, hold
from vidsim.models.latents import LatentConfig, normalise

Grid = tuple[int, int, int]
Network = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Condition:
    """What is given of one clip. Arrays cover the clip's whole grid.

    latent_thwc  raw latents f32; read where given, and everywhere when start < 1
    given_thw    bool[t,h,w] over tokens: clean from start to end, and returned as they are
    first        position in time of the clip's first latent: above 0 the clip begins mid-stream,
                 without the latent of a lone first frame
    start        noise time from which it is denoised: 1 from noise, less from a noised latent
    reference    its first latent only shows what the clip is about: it stands at REFERENCE_TIME,
                 the second at position 1; not with `first`
    circle       time has no beginning: each time the network looks, the clip begins one latent
                 frame later on the circle of those that follow position 0 (arXiv:2502.20307). With
                 `first` 1 or a reference
    partner      request with which this one blends, of equal grid and seed; None: none
    share_t      f32[t] the partner's share in every prediction of a frame
    """

    latent_thwc: np.ndarray
    given_thw: np.ndarray
    first: int = 0
    start: float = 1.0
    reference: bool = False
    circle: bool = False
    partner: int | None = None
    share_t: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.start <= 1.0:
            raise bad("condition", f"start {self.start}", "a noise time from 0 to 1")
        if self.first < 0:
            raise bad("condition", f"first {self.first}", "0 or more")
        if self.reference and self.first:
            raise bad("condition", f"a reference and first {self.first}", "one of them")
        if self.circle and self.first + self.reference != 1:
            raise bad("condition", f"a circle and first {self.first}", "first 1, or a reference")


class Placed(NamedTuple):
    """Conditions of a batch; RN arrays are in the order of its tokens.

    condition_RN  bool, given tokens
    base_RNP      raw latents of the clips that bring any
    start_RS      f32 noise time at which each clip begins
    circle_RN     i32 latent frames of the circle on which each token lies, 0 for none
    other_RN      i32 token of the flattened batch with which each token blends
    share_RN      f32 weight of that token
    """

    condition_RN: np.ndarray
    base_RNP: np.ndarray
    start_RS: np.ndarray
    circle_RN: np.ndarray
    other_RN: np.ndarray
    share_RN: np.ndarray


def given_frames(latent_thwc: np.ndarray, head: int, tail: int, patch: Grid) -> np.ndarray:
    """bool[t,h,w] over tokens: the first `head` and the last `tail` latent frames are given.

    latent_thwc  of the clip's whole grid, in latent cells
    """
    t, h, w = (n // p for n, p in zip(latent_thwc.shape[:3], patch, strict=True))
    head, tail = head // patch[0], tail // patch[0]
    given = np.zeros((t, h, w), bool)
    given[:head], given[t - tail :] = True, True
    return given


def blend_pair(
    latent_thwc: np.ndarray, given_thw: np.ndarray, share_t: np.ndarray, start: float = 1.0
) -> list[Condition]:
    """Conditions of two equal clips that are made one: the first under its own prompt where the
    share is 0, under the second's where it is 1. They must be the only two of their batch."""
    one = Condition(latent_thwc, given_thw, start=start, partner=1, share_t=share_t)
    return [one, dataclasses.replace(one, partner=0, share_t=1 - share_t)]


def place(
    conditions: Sequence[Condition | None],
    spans: dict[int, tuple[int, slice]],
    grids: Sequence[Grid],
    rows: Sequence[Sequence[int]],
    batch: dict[str, Any],
    patch: Grid,
) -> Placed | None:
    """Lays the conditions out beside a packed batch, and moves clips that begin mid-stream.

    conditions  one a request, None for a clip of which nothing is given
    spans       from `row_spans` of the same rows
    batch       changed in place: patch_position of clips with first > 0 or a reference
    Returns     None when no clip of these rows has a condition
    Raises      BadInput for latents off the clip's grid or a blend across batches
    """
    if all(conditions[i] is None for i in spans):
        return None
    R, N, _ = batch["patches"].shape
    condition_RN, base_RNP = np.zeros((R, N), bool), np.zeros(batch["patches"].shape, np.float32)
    start_RS = np.ones(batch["clip_key"].shape, np.float32)
    circle_RN = np.zeros((R, N), np.int32)
    other_RN = np.arange(R * N, dtype=np.int32).reshape(R, N)
    share_RN = np.zeros((R, N), np.float32)
    for i, (r, span) in spans.items():
        one = conditions[i]
        if one is None:
            continue
        t, h, w = grids[i]
        if one.given_thw.shape != (t, h, w):
            raise bad("condition", f"a mask of {one.given_thw.shape} tokens", f"{(t, h, w)}")
        condition_RN[r, span] = one.given_thw.reshape(-1)
        base_RNP[r, span] = patchify(np.asarray(one.latent_thwc, np.float32), patch)
        batch["patch_position"][r, span, 0] += one.first
        if one.reference:
            batch["patch_position"][r, span, 0][: h * w] = REFERENCE_TIME
        start_RS[r, rows[r].index(i)] = one.start
        if one.circle:
            circle_RN[r, span][one.reference * h * w :] = t - one.reference
        if one.partner is not None:
            if one.partner not in spans or grids[one.partner] != grids[i] or one.share_t is None:
                raise bad("blend", "the two clips are not in one batch or differ in size",
                          "clips of one size and duration")  # fmt: skip
            r2, span2 = spans[one.partner]
            other_RN[r, span] = r2 * N + np.arange(span2.start, span2.stop)
            share_RN[r, span] = np.repeat(one.share_t, h * w)
    return Placed(condition_RN, base_RNP, start_RS, circle_RN, other_RN, share_RN)


def steer(
    placed: Placed | None,
    cfg: LatentConfig,
    segment_RN: jax.Array,
    position_RN3: jax.Array,
    noise_RNP: jax.Array,
    network: Network,
) -> tuple[Denoise, jax.Array, jax.Array | float]:
    """The network told of the conditions, for any solver. With circles it counts its calls.

    network  (x_RNP, t_RS, condition_RN, position_RN3) -> prediction of x, normalised
    Returns  the denoiser; where it starts: noise, or the noised latents of clips that start below
             1; the noise time f32[R,S] at which each clip starts
    """
    if placed is None:
        nothing_RN = jnp.zeros(segment_RN.shape, bool)
        return (lambda x, t: network(x, t, nothing_RN, position_RN3)), noise_RNP, 1.0
    base_RNP = normalise(cfg, jnp.asarray(placed.base_RNP))
    condition_RN, circle_RN = jnp.asarray(placed.condition_RN), jnp.asarray(placed.circle_RN)
    start_RS, other_RN = jnp.asarray(placed.start_RS), jnp.asarray(placed.other_RN)
    blends, share = bool(placed.share_RN.any()), jnp.asarray(placed.share_RN)[..., None]
    looks = itertools.count()

    def denoise(x_RNP: jax.Array, t_RS: jax.Array) -> jax.Array:
        place_RN3 = turned(position_RN3, circle_RN, next(looks))
        out_RNP = network(x_RNP, t_RS, condition_RN, place_RN3)
        if blends:
            flat = out_RNP.reshape(-1, out_RNP.shape[-1])
            out_RNP = out_RNP + share * (flat[other_RN] - out_RNP)
        return out_RNP

    level = spread(start_RS, segment_RN, 1.0)[..., None]
    noised_RNP = (1.0 - level) * base_RNP + level * noise_RNP
    begin_RNP = jnp.where(level < 1.0, noised_RNP, noise_RNP)
    return hold(denoise, base_RNP, condition_RN[..., None]), begin_RNP, start_RS


def turned(position_RN3: jax.Array, circle_RN: jax.Array, by: int) -> jax.Array:
    """Positions when the clips on circles begin `by` latent frames later: their positions in time,
    1 to the circle's length, are moved round; those of other tokens stay."""
    time_RN = position_RN3[..., 0]
    round_RN = 1 + (time_RN - 1 - by) % jnp.maximum(circle_RN, 1)
    return position_RN3.at[..., 0].set(jnp.where(circle_RN > 0, round_RN, time_RN))
