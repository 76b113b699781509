"""A run over packed rows from latents in memory, small enough for many processes on two cores.

As a program it is one process of it, and logs the clips that it read: `clips.<process>.jsonl`.
"""

import argparse
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from tests.data.latents_in_memory import random_source
from tests.parallel.members import add_flags, join
from vidsim.core.errors import BadInput, bad
from vidsim.core.exits import RunEnded
from vidsim.core.keys import stream, token_normal
from vidsim.data.pipeline import make_plan, packed_batches
from vidsim.data.plan import PlanConfig
from vidsim.diffusion.segments import segment_sums, spread
from vidsim.parallel.mesh import ParallelConfig, build_mesh
from vidsim.parallel.place import constrain
from vidsim.parallel.processes import agree, check_devices
from vidsim.parallel.shares import share_of
from vidsim.store.workdir import Workdir
from vidsim.train.loop import RunSpec, build_program, train
from vidsim.train.optim import OptimConfig

PLAN = PlanConfig(row_tokens=96, row_text=96, row_segments=8, rows_per_step=8, group_rows=4,
                  pool_rows=8, window_clips=60, cost_width=16)  # fmt: skip
P, D, STEPS = 12, 8, 6


class PackedTask:
    """Patches through a narrow bottleneck and back, noise keyed by clip; mean over clips."""

    name = "packed"

    def init(self, key):
        one, two = jax.random.split(key)
        return {
            "down": {"w": jax.random.normal(one, (P, D)) * 0.3},
            "up": {"w": jax.random.normal(two, (D, P)) * 0.3},
        }

    def param_axes(self):
        return {"down": {"w": ("patch", "embed")}, "up": {"w": ("embed", "patch")}}

    def loss(self, params, batch, *, seed, step):
        segment = batch["patch_segment"]
        owner = spread(batch["clip_key"], segment)
        index = batch["patch_position"][..., 0]
        noise = token_normal(stream(seed, "noise", step), owner, index, P)
        x = constrain(batch["patches"] + 0.1 * noise, ("rows", "tokens", None))
        error = jnp.mean(jnp.square(x @ params["down"]["w"] @ params["up"]["w"] - x), -1)
        total = segment_sums(jnp.where(segment > 0, error, 0.0), segment, PLAN.row_segments)
        count = segment_sums(jnp.ones_like(error), segment, PLAN.row_segments)
        loss = jnp.sum(total / jnp.maximum(count, 1.0)) / batch["num_clips"]
        return loss, {"loss": loss}


class Broken:
    """A source of which one piece cannot be read."""

    def __init__(self, source, piece):
        self.source, self.piece = source, piece

    def __getattr__(self, name):
        return getattr(self.source, name)

    def latents(self, pieces):
        if self.piece in pieces.tolist():
            raise bad("cache", f"piece {self.piece} cannot be read")
        return self.source.latents(pieces)


def main():
    parser = argparse.ArgumentParser()
    add_flags(parser)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--parallel", type=json.loads, default={})
    parser.add_argument("--stop_at", type=int, default=STEPS)
    parser.add_argument("--broken", action="store_true", help="one clip of the first step")
    parser.add_argument("--bad_data_limit", type=int, default=0)
    args = parser.parse_args()
    try:
        join(args)
        done = run(args)
    except BadInput as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except RunEnded as end:
        print(end, flush=True)
        sys.exit(end.code)
    print(f"finished after {done.steps_done} steps", flush=True)


def run(args):
    from vidsim.train import loop

    spec = RunSpec(STEPS, save_every=2, eval_every=100, log_every=1, tensorboard=False, keep=9,
                   bad_data_limit=args.bad_data_limit)  # fmt: skip
    optim = OptimConfig(lr=0.02, warmup_steps=2)
    if args.stop_at < STEPS:
        loop.StopRequest.asked = lambda _, step: step == args.stop_at
    source = random_source()
    plan = make_plan(source, PLAN, 3, table_dir=args.workdir.parent)
    if args.broken:
        source = Broken(source, int(plan.step(0).rows[0][0]))
    agree({"plan": plan.digest(0)})
    mesh = build_mesh(ParallelConfig(**args.parallel))
    check_devices(mesh)
    program = build_program(PackedTask(), spec, optim, mesh)
    share = share_of(mesh, PLAN.rows_per_step, PLAN.row_tokens)
    data = packed_batches(source, plan, STEPS, share.rows, share.tokens,
                          tolerant=args.bad_data_limit > 0)  # fmt: skip
    log = (args.workdir.parent / f"{args.workdir.name}.clips.{jax.process_index()}.jsonl").open("a")

    def note(batch):
        keys = np.asarray(batch["clip_key"]).tolist()
        line = {"rows": share.rows.tolist(), "keys": keys, "num_clips": float(batch["num_clips"]),
                "tokens": [share.tokens.start, share.tokens.stop]}  # fmt: skip
        log.write(json.dumps(line) + "\n")
        log.flush()
        return share

    workdir = Workdir.open(args.workdir, {"steps": STEPS})
    return train(program, data, spec, workdir, share=note)


if __name__ == "__main__":
    main()
