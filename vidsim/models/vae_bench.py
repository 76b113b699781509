"""`vidsim bench vae`: a stack of causal residual blocks, forward and backward, against torch.

The same stack (channel norm, SiLU, causal 3x3x3 convolution, twice, and the way past them) with the
same weights, in each formulation of nn/conv.py and in torch on the same CPU, in torch's default
memory layout and in channels-last. Runs are interleaved, so that a busy machine slows all alike.
"""

import dataclasses
import importlib.util
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vidsim.core.errors import bad
from vidsim.models.vae_blocks import ResBlock
from vidsim.models.vae_config import VaeConfig
from vidsim.nn.conv import METHODS

SHAPES = ((4, 5, 16, 16, 192), (1, 9, 32, 32, 96))  # batch, frames, height, width, channels
BLOCKS = 3
GOAL = 1.2  # times torch's time, at most
CLOSE = 1e-3  # largest difference of the outputs, on values of size 3


@dataclasses.dataclass(frozen=True)
class Row:
    """One formulation at one shape: milliseconds of a forward and a backward pass.

    ratio  median over that of torch in its faster layout; None without torch
    error  largest difference from the first formulation's output
    """

    shape: str
    method: str
    median_ms: float
    min_ms: float
    runs: int
    ratio: float | None
    error: float


def run(runs: int = 10, shapes: tuple[tuple[int, ...], ...] = SHAPES) -> list[Row]:
    """Times every formulation; torch's rows are there where torch can be imported.

    runs    timed runs of each, after one that compiles
    Raises  BadInput when two formulations disagree
    """
    rows = []
    for shape in shapes:
        rng = np.random.default_rng(0)
        x = rng.normal(size=shape).astype(np.float32)
        weights = [_weights(rng, shape[-1]) for _ in range(BLOCKS)]
        steps = {method: _jax_step(method, x, weights) for method in METHODS}
        if importlib.util.find_spec("torch") is not None:
            for name, layout in (("torch", False), ("torch channels-last", True)):
                steps[name] = _torch_step(x, weights, layout)
        outputs = {name: step() for name, step in steps.items()}
        first = next(iter(outputs.values()))
        errors = {name: float(np.abs(y - first).max()) for name, y in outputs.items()}
        if max(errors.values()) > CLOSE:
            raise bad("bench vae", f"outputs differ: {errors}", f"up to {CLOSE}")
        rows += _rows("x".join(map(str, shape)), steps, errors, runs)
    return rows


def table(rows: list[Row]) -> str:
    """The rows as text."""
    lines = [
        f"causal convolution stack, {BLOCKS} residual blocks, forward and backward, float32",
        f"{'B x T x H x W x C':20s} {'method':22s} {'median ms':>10s} {'min ms':>10s}   ratio",
    ]
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        lines.append(
            f"{row.shape:20s} {row.method:22s} {row.median_ms:10.1f} {row.min_ms:10.1f} {ratio:>7s}"
        )
    count = f"{rows[0].runs} interleaved runs of each; " if rows else ""
    if any(row.ratio is not None for row in rows):
        return "\n".join([*lines, f"{count}ratio to torch's faster layout, goal {GOAL} or less"])
    return "\n".join([*lines, f"{count}no ratio: torch is not installed (extra: parity)"])


def _rows(
    shape: str, steps: dict[str, Callable[[], Any]], errors: dict[str, float], runs: int
) -> list[Row]:
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(runs):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(1e3 * (time.perf_counter() - start))
    medians = {name: float(np.median(times[name])) for name in steps}
    theirs = [medians[name] for name in medians if name.startswith("torch")]
    return [
        Row(shape, name, medians[name], min(times[name]), runs,
            medians[name] / min(theirs) if theirs else None, errors[name])
        for name in steps
    ]  # fmt: skip


def _weights(rng: np.random.Generator, channels: int) -> dict[str, Any]:
    """Weights of one ResBlock as drawn at the start of training."""

    def conv() -> dict[str, np.ndarray]:
        w = rng.normal(size=(3, 3, 3, channels, channels)) / np.sqrt(27 * channels)
        return {"w": w.astype(np.float32), "b": np.zeros(channels, np.float32)}

    gains = {f"norm{i}": {"g": np.ones(channels, np.float32)} for i in (1, 2)}
    return {"conv1": conv(), "conv2": conv(), **gains}


def _jax_step(method: str, x: np.ndarray, weights: list[dict[str, Any]]) -> Callable[[], Any]:
    block = ResBlock(VaeConfig(conv=method), x.shape[-1], x.shape[-1])

    def loss(weights: list[dict[str, Any]], x: jax.Array) -> tuple[jax.Array, jax.Array]:
        for params in weights:
            x = block.apply({"params": params}, x)
        return 0.5 * jnp.sum(jnp.square(x)), x

    step = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    on_device = jax.device_put((weights, x))

    def once() -> np.ndarray:
        _, y = jax.block_until_ready(step(*on_device))
        return np.asarray(y)

    return once


def _torch_step(x: np.ndarray, weights: list[dict[str, Any]], last: bool) -> Callable[[], Any]:
    import torch

    layout = torch.channels_last_3d if last else torch.contiguous_format

    def leaf(array: np.ndarray, axes: tuple[int, ...] | None = None) -> Any:
        tensor = torch.from_numpy(np.array(array if axes is None else array.transpose(axes)))
        if tensor.ndim == 5:
            tensor = tensor.to(memory_format=layout)
        return tensor.requires_grad_()

    start = leaf(x, (0, 4, 1, 2, 3))
    blocks = [
        [(leaf(p[f"norm{i}"]["g"]), leaf(p[f"conv{i}"]["w"], (4, 3, 0, 1, 2)),
          leaf(p[f"conv{i}"]["b"])) for i in (1, 2)]
        for p in weights
    ]  # fmt: skip
    leaves = [start, *(t for block in blocks for layer in block for t in layer)]
    functional, channels = torch.nn.functional, x.shape[-1]

    def once() -> np.ndarray:
        y = start
        for block in blocks:
            z = y
            for gain, kernel, bias in block:
                z = functional.normalize(z, dim=1) * channels**0.5 * gain.view(-1, 1, 1, 1)
                z = functional.pad(functional.silu(z), (0, 0, 0, 0, 2, 0))
                z = functional.conv3d(z, kernel, bias, padding=(0, 1, 1))
            y = y + z
        torch.autograd.grad(0.5 * y.square().sum(), leaves)
        return y.detach().numpy().transpose(0, 2, 3, 4, 1)

    return once


__all__ = ["Row", "run", "table"]
