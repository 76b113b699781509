"""A tiny task for tests of the loop: linear regression with noise keyed by (seed, step, clip key).

Run as a program it is one start of a training run, for tests that kill and resume processes.
"""

import argparse
import sys
import time

import grain
import jax
import jax.numpy as jnp
import numpy as np

from vidsim.core import keys
from vidsim.core.errors import BadInput
from vidsim.core.exits import RunEnded
from vidsim.store.workdir import Workdir
from vidsim.train import loop
from vidsim.train.loop import RunSpec, build_program, train
from vidsim.train.optim import OptimConfig

WIDTH, OUT = 4, 3


class LinearTask:
    """y = x w1 w2 + b, loss = sum of squares / clips of the step, a little noise on x."""

    name = "linear"

    def __init__(self, width=WIDTH, noise=0.1):
        self.width, self.noise = width, noise

    def init(self, key):
        one, two = jax.random.split(key)
        return {
            "hidden": {"w": jax.random.normal(one, (WIDTH, self.width)) * 0.3},
            "out": {"w": jax.random.normal(two, (self.width, OUT)) * 0.3, "b": jnp.zeros((OUT,))},
        }

    def param_axes(self):
        return {"hidden": {"w": ("embed", "mlp")}, "out": {"w": ("mlp", "patch"), "b": (None,)}}

    def loss(self, params, batch, *, seed, step):
        per_clip = keys.per_clip(keys.stream(seed, "noise", step), batch["clip_key"])
        noise = jax.vmap(lambda k: jax.random.normal(k, (WIDTH,)))(per_clip)
        hidden = (batch["x"] + self.noise * noise) @ params["hidden"]["w"]
        y = hidden @ params["out"]["w"] + params["out"]["b"][None]
        squares = jnp.sum(jnp.square(y - batch["y"]), -1)
        return jnp.sum(squares) / batch["num_clips"], {"clips": jnp.sum(jnp.ones_like(squares))}


def host_batch(step, rows=8, poison=()):
    """The batch of a step, a pure function of the step; inputs of steps in `poison` are NaN."""
    rng = np.random.default_rng([7, step])
    x = rng.normal(size=(rows, WIDTH)).astype(np.float32)
    truth = np.random.default_rng(3).normal(size=(WIDTH, OUT)).astype(np.float32)
    y = x @ truth
    if step in poison:
        x[0, 0] = np.nan
    clip_key = rng.integers(1, 2**32, size=rows, dtype=np.uint32)
    return {"x": x, "y": y, "clip_key": clip_key, "num_clips": np.float32(rows)}


def batches(steps=1000, rows=8, poison=()):
    return grain.MapDataset.range(steps).map(lambda s: host_batch(s, rows, poison))


def one_device():
    from vidsim.parallel.mesh import MeshConfig, build_mesh

    return build_mesh(MeshConfig(), jax.devices()[:1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--save_every", type=int, default=4)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--sleep_s", type=float, default=0.0)
    parser.add_argument("--stop_at", type=int, help="ask for a stop before this step")
    parser.add_argument("--hang_at", type=int, help="the batch of this step never comes")
    parser.add_argument("--watchdog_s", type=float)
    parser.add_argument("--process", type=int, help="number of this process, of two")
    parser.add_argument("--port", type=int)
    args = parser.parse_args()
    if args.process is not None:
        address = f"127.0.0.1:{args.port}"
        jax.distributed.initialize(
            address, 2, args.process, initialization_timeout=60, heartbeat_timeout_seconds=20,
            coordinator_bind_address=address,
        )  # fmt: skip

    def slow(step):
        time.sleep(3600 if step == args.hang_at else args.sleep_s)
        return host_batch(step)

    run = RunSpec(args.steps, save_every=args.save_every, eval_every=5, log_every=1,
                  watchdog_s=args.watchdog_s)  # fmt: skip
    optim = OptimConfig(name="muon", lr=0.02, warmup_steps=3)
    try:
        workdir = Workdir.open(args.workdir, {"steps": args.steps, "width": args.width})
        if args.stop_at is not None:
            loop.StopRequest.asked = lambda _, step: step == args.stop_at
        program = build_program(
            LinearTask(args.width), run, optim, one_device() if args.process is None else None
        )
        data = grain.MapDataset.range(args.steps).map(slow)
        done = train(program, data, run, workdir)
    except BadInput as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except RunEnded as end:
        print(end, flush=True)
        sys.exit(end.code)
    print(f"finished after {done.steps_done} steps", flush=True)


if __name__ == "__main__":
    main()
