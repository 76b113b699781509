"""Packed sampling against one clip at a time: the same requests, model and settings."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from vidsim.data.packing import RowLimits
from vidsim.generate.model import Model, VaeModel
from vidsim.generate.pack import Request
from vidsim.generate.sample import SamplerConfig, lay_out, sample_latents
from vidsim.models.dit_config import DiTConfig
from vidsim.models.latents import LatentConfig
from vidsim.models.text import ByteEncoderConfig
from vidsim.models.vae import Vae, preset
from vidsim.tasks.denoising import Denoising, DenoisingConfig

SIZES = ((64, 64), (96, 64), (64, 96), (48, 48), (96, 48), (32, 64))  # height, width
FRAMES = (1, 5, 9)


@dataclass(frozen=True)
class Throughput:
    """Medians over the runs, which alternate between the two ways.

    clips, rows, tokens  requests, packed rows that hold them, their patch tokens
    packed_s, alone_s    seconds for all clips; denoising, without the decoder
    gap                  largest difference of a latent between the two ways (rounding)
    """

    clips: int
    rows: int
    tokens: int
    packed_s: float
    alone_s: float
    gap: float

    @property
    def ratio(self) -> float:
        """How many times faster packs are."""
        return self.alone_s / self.packed_s

    def table(self) -> str:
        """For the screen."""
        lines = [f"{'way':<16}{'s':>9}{'clips/s':>10}{'tokens/s':>12}"]
        for way, spent in (("one at a time", self.alone_s), ("packed", self.packed_s)):
            rates = f"{self.clips / spent:>10.2f}{self.tokens / spent:>12,.0f}"
            lines.append(f"{way:<16}{spent:>9.2f}{rates}")
        lines.append(f"{self.clips} clips in {self.rows} rows: packs are {self.ratio:.2f} times as "
                     f"fast; largest difference of a latent {self.gap:.1e}")  # fmt: skip
        return "\n".join(lines)


def run(model: Model, requests: Sequence[Request], config: SamplerConfig, runs: int) -> Throughput:
    """Samples the requests both ways, `runs` times each, after one run that compiles."""

    def packed() -> list[np.ndarray]:
        return sample_latents(model, requests, config)

    def alone() -> list[np.ndarray]:
        return [sample_latents(model, [request], config)[0] for request in requests]

    pairs = zip(packed(), alone(), strict=True)
    gap = max(float(np.abs(a - b).max()) for a, b in pairs)
    spent: dict[str, list[float]] = {"packed": [], "alone": []}
    for _ in range(runs):
        for name, work in (("packed", packed), ("alone", alone)):
            start = time.perf_counter()
            work()
            spent[name].append(time.perf_counter() - start)
    layout = lay_out(model, requests, rows_at_once=config.rows_at_once)
    tokens = sum(int(np.prod(grid)) for grid in layout.grids)
    return Throughput(
        len(requests), len(layout.rows), tokens,
        statistics.median(spent["packed"]), statistics.median(spent["alone"]), gap,
    )  # fmt: skip


def mixed_requests(count: int) -> list[Request]:
    """Clips of many sizes and durations, each with a seed and a prompt of its own."""
    return [
        Request(f"clip number {i}", *SIZES[i % len(SIZES)], FRAMES[i % len(FRAMES)], seed=i)
        for i in range(count)
    ]


def example_model() -> Model:
    """A denoiser of the quickstart's size with random weights: speed does not depend on them."""
    vae = Vae(preset("laptop"))
    channels = vae.cfg.latent_channels
    task = Denoising(
        DenoisingConfig(
            DiTConfig(patch_width=channels, width=128, heads=2, mlp_width=512, layers=6,
                      text_width=128, place_embedding=True),
            ByteEncoderConfig(width=128, heads=4, mlp_width=256, layers=1),
            LatentConfig((1, 1, 1), (0.0,) * channels, (1.0,) * channels),
        )
    )  # fmt: skip
    params = _random(jax.eval_shape(task.init, jax.random.key(0)))
    loaded = VaeModel(vae, _random(jax.eval_shape(vae.init, jax.random.key(0))), "0" * 64, {})
    return Model(task, params, loaded, RowLimits(576, 1152, 32), {"weights": "random"}, {})


def _random(shapes):
    """Small numbers of those shapes, none of them zero."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(0.02 * rng.standard_normal(x.shape), x.dtype), shapes)
