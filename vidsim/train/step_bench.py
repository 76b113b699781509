"""`vidsim bench step`, second half: a whole training step against the same model written in torch.

Forward, backward, clipped gradient, AdamW and the weight average, from the same weights on the same
batch. torch runs eager and compiled, under autocast for bfloat16, and attends as is usual there:
without a mask where a row is one clip, with a dense mask where it holds several. Runs take turns.
"""

import dataclasses
import importlib.util
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vidsim.core.errors import bad
from vidsim.core.trees import map_named
from vidsim.models.dit import DiT
from vidsim.models.dit_config import DiTConfig
from vidsim.models.dit_torch import torch_batch, torch_forward, torch_weights
from vidsim.train.optim import OptimConfig, build_optimizer
from vidsim.train.state import init_state
from vidsim.train.step import make_step

MODEL = DiTConfig(width=192, heads=4, mlp_width=768, layers=6, clip_embedding=False)
ROWS, TOKENS, TEXT = 4, 1024, 64
CLIPS = (1, 8)  # a row
CLIP = 1.0
OPTIM = OptimConfig(name="adamw", lr=1e-4, schedule="constant", warmup_steps=0, clip_norm=CLIP)
EMA = 0.999
CLOSE = {"float32": 1e-4, "bfloat16": 0.02}  # relative difference of the first losses


@dataclasses.dataclass(frozen=True)
class Row:
    """One program on one batch: milliseconds of a step.

    ratio_wall, ratio_cpu  vidsim's time over this one's, by clock and by processor time
    """

    clips: int
    dtype: str
    program: str
    median_ms: float
    min_ms: float
    cpu_ms: float
    runs: int
    ratio_wall: float
    ratio_cpu: float


@dataclasses.dataclass(frozen=True)
class Regression:
    """The denoiser against fixed targets, as a task."""

    dit: DiT
    name = "regression"

    def weights(self) -> Any:
        """Random weights, none of them at its usual zero or one."""
        rng = np.random.default_rng(0)

        def draw(path: str, leaf: Any) -> np.ndarray:
            x = rng.normal(size=leaf.shape)
            if path.endswith("/w"):
                x /= np.sqrt(leaf.shape[-2])
            else:
                x = 0.1 * x + float(path.endswith(("_norm", "norm_g")))
            return x.astype(np.float32)

        return map_named(draw, jax.eval_shape(self.dit.init, jax.random.key(0)))

    def param_axes(self) -> Any:
        """Logical axes of the weights."""
        return self.dit.param_axes()

    def predict(self, params: Any, batch: Mapping[str, Any]) -> jax.Array:
        """The network's output for the batch."""
        return self.dit.apply(
            params, batch["patches"], batch["text"], levels_RK=batch["levels"],
            level_index_RN=batch["index"], patch_segment_RN=batch["patch_segment"],
            text_segment_RM=batch["text_segment"], position_RN3=batch["position"],
            fps_RS=batch["levels"], size_RS2=jnp.stack([batch["levels"]] * 2, -1),
        )  # fmt: skip

    def loss(self, params: Any, batch: Mapping[str, Any], *, seed: Any, step: Any) -> Any:
        """Mean squared error."""
        loss = jnp.mean(jnp.square(self.predict(params, batch) - batch["target"]))
        return loss, {"loss": loss}


def example(cfg: DiTConfig, clips: int, rows: int = ROWS, tokens: int = TOKENS,
            text: int = TEXT) -> dict[str, np.ndarray]:  # fmt: skip
    """Full rows of `clips` clips of random lengths, a noise level a clip."""
    rng = np.random.default_rng(clips)
    patch: list[np.ndarray] = []
    words: list[np.ndarray] = []
    place: list[np.ndarray] = []
    for _ in range(rows):
        cuts = np.sort(rng.choice(np.arange(1, tokens), clips - 1, replace=False))
        lengths = np.diff([0, *cuts, tokens])
        patch.append(np.repeat(np.arange(clips), lengths))
        words.append(np.arange(text) * clips // text)
        place.append(np.concatenate([np.arange(n) for n in lengths]))
    at = np.stack(place)
    segment, text_segment = np.stack(patch).astype(np.int32), np.stack(words).astype(np.int32)
    return {
        "patches": rng.normal(size=(rows, tokens, cfg.patch_width)).astype(np.float32),
        "target": rng.normal(size=(rows, tokens, cfg.patch_width)).astype(np.float32),
        "text": rng.normal(size=(rows, text, cfg.text_width)).astype(np.float32),
        "patch_segment": segment + 1,
        "text_segment": text_segment + 1, "index": segment.astype(np.int64),
        "position": np.stack([at // 64, at % 64 // 8, at % 8], -1),
        "levels": rng.uniform(0.05, 0.95, (rows, clips)).astype(np.float32),
    }  # fmt: skip


def has_torch() -> bool:
    """Whether torch can be imported (extra: parity)."""
    return importlib.util.find_spec("torch") is not None


def compare(
    runs: int,
    model: DiTConfig = MODEL,
    clips: tuple[int, ...] = CLIPS,
    dtypes: tuple[str, ...] = ("float32", "bfloat16"),
    sizes: tuple[int, int, int] = (ROWS, TOKENS, TEXT),
    compiled: bool = True,
) -> list[Row]:
    """Times a step of every program, runs interleaved; torch has to be there.

    Raises BadInput when two programs disagree about the loss before and after a step
    """
    rows = []
    for count in clips:
        for dtype in dtypes:
            cfg = dataclasses.replace(model, dtype=dtype)
            batch = example(cfg, count, *sizes)
            steps = {"vidsim": _ours(cfg, batch), "torch": _torch(cfg, batch, False)}
            if compiled:
                steps["torch compiled"] = _torch(cfg, batch, True)
            losses = {name: [step(), step()] for name, step in steps.items()}
            first = np.array(losses["vidsim"])
            apart = max(float(np.abs(np.array(x) / first - 1).max()) for x in losses.values())
            if apart > CLOSE[dtype]:
                raise bad("bench step", f"losses differ: {losses}", f"up to {CLOSE[dtype]}")
            rows += _rows(count, dtype, steps, runs)
    return rows


def table(rows: list[Row]) -> str:
    """The rows as text."""
    lines = [
        f"training step of {MODEL.layers} blocks of width {MODEL.width} on {ROWS} rows of "
        f"{TOKENS} tokens and {TEXT} of text, against the same model in torch; medians of "
        f"{rows[0].runs} interleaved steps",
        f"{'clips a row':>11s} {'dtype':9s} {'program':15s} {'wall ms':>9s} {'min ms':>9s} "
        f"{'cpu ms':>9s}   vidsim / this, wall and cpu",
    ]
    lines += [
        f"{r.clips:11d} {r.dtype:9s} {r.program:15s} {r.median_ms:9.0f} {r.min_ms:9.0f} "
        f"{r.cpu_ms:9.0f}   {r.ratio_wall:.2f}  {r.ratio_cpu:.2f}"
        for r in rows
    ]
    return "\n".join(lines)


def _rows(count: int, dtype: str, steps: dict[str, Callable[[], float]], runs: int) -> list[Row]:
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(runs):
        for name, step in steps.items():
            start = time.perf_counter(), time.process_time()
            step()
            spent = time.perf_counter() - start[0], time.process_time() - start[1]
            times[name].append((1e3 * spent[0], 1e3 * spent[1]))
    medians = {name: np.median(x, axis=0) for name, x in times.items()}
    return [
        Row(
            count, dtype, name, float(medians[name][0]), min(times[name])[0],
            float(medians[name][1]), runs, *(float(x) for x in medians["vidsim"] / medians[name]),
        )
        for name in steps
    ]  # fmt: skip


def _ours(cfg: DiTConfig, batch: dict[str, np.ndarray]) -> Callable[[], float]:
    task = Regression(DiT(cfg))
    tx = build_optimizer(OPTIM, task.param_axes())
    step = jax.jit(make_step(task, tx, EMA, 0), donate_argnums=0)
    state = [init_state(jax.tree.map(jnp.asarray, task.weights()), tx)]
    placed = {k: jnp.asarray(x)[None] for k, x in _as_int32(batch).items()}
    share = jnp.ones((), jnp.float32)

    def once() -> float:
        state[0], metrics = step(state[0], placed, share)
        return float(jax.block_until_ready(metrics)["loss"])

    return once


def _as_int32(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k: x.astype(np.int32) if x.dtype == np.int64 else x for k, x in batch.items()}


def _torch(cfg: DiTConfig, batch: dict[str, np.ndarray], compiled: bool) -> Callable[[], float]:
    import torch

    weights = torch_weights(Regression(DiT(cfg)).weights(), cfg)
    leaves = list(weights.values())
    inputs, target = torch_batch(batch, cfg), torch.from_numpy(batch["target"])
    average = [w.detach().clone() for w in leaves]
    optimizer = torch.optim.AdamW(
        leaves, OPTIM.lr, (OPTIM.b1, OPTIM.b2), OPTIM.eps, OPTIM.weight_decay, fused=True
    )
    done = [0]

    def loss_of() -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=cfg.dtype == "bfloat16"):
            return (torch_forward(weights, inputs, cfg) - target).square().mean()

    forward = torch.compile(loss_of) if compiled else loss_of

    def once() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = forward()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(leaves, CLIP, foreach=True)
        optimizer.step()
        decay = min(EMA, (1.0 + done[0]) / (10.0 + done[0]))
        with torch.no_grad():
            torch._foreach_lerp_(average, leaves, 1.0 - decay)
        done[0] += 1
        return float(loss.detach())

    return once
