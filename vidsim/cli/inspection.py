"""Tables of `vidsim inspect`."""

import collections

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from vidsim.core.trees import flatten
from vidsim.data.geometry import make_pieces
from vidsim.data.index import ClipIndex
from vidsim.data.plan_report import recommend_row_length
from vidsim.models.dit_config import matmul_flops
from vidsim.nn.attention import implementation_for
from vidsim.parallel.mesh import build_mesh
from vidsim.parallel.rules import Rules, shardings
from vidsim.runs import DenoiserRun, Run
from vidsim.tasks.autoencoding import Autoencoding
from vidsim.tasks.denoising import Denoising
from vidsim.tasks.encoding import EncodeConfig
from vidsim.train.optim import describe


def show_run(console: Console, run: Run, everything: bool) -> None:
    """Weights by part and optimizer, their shardings, bytes of the training state, FLOPs."""
    task = (
        Denoising(run.denoising) if isinstance(run, DenoiserRun) else Autoencoding(run.autoencoding)
    )
    params = jax.eval_shape(task.init, jax.random.key(0))
    axes = task.param_axes()
    rows = describe(run.optim, params, axes)
    places = flatten(shardings(Rules(), build_mesh(run.parallel), axes, params))
    if everything:
        table = Table("weight", "shape", "optimizer", "rate", "decay", "axes", "sharding")
        for row in rows:
            path = row["path"]
            table.add_row(
                path, "x".join(map(str, row["shape"])), row["optimizer"], f"{row['lr']:g}",
                f"{row['weight_decay']:g}", str(flatten(axes)[path]), str(places[path].spec),
            )  # fmt: skip
        console.print(table)
    totals: collections.Counter[tuple[str, str]] = collections.Counter()
    for row in rows:
        totals[row["path"].split("/")[0], row["optimizer"]] += int(np.prod(row["shape"]))
    table = Table("part", "optimizer", "parameters")
    for (part, optimizer), number in sorted(totals.items()):
        table.add_row(part, optimizer, f"{number:,}")
    console.print(table)
    number = sum(totals.values())
    adam = sum(n for (_, optimizer), n in totals.items() if optimizer == "adamw")
    state = 4 * (2 * number + adam + number)  # weights, average, both or one moment
    console.print(f"parameters {number:,}; training state {state / 2**20:,.1f} MiB in float32 "
                  "(weights, average, moments)")  # fmt: skip
    if isinstance(run, DenoiserRun):
        _show_flops(console, run)


def _show_flops(console: Console, run: DenoiserRun) -> None:
    cost, plan = matmul_flops(run.denoising.dit), run.plan
    n = plan.row_tokens
    platform = jax.devices()[0].platform
    name = run.denoising.dit.attention
    chosen = implementation_for(platform, n, n) if name == "auto" else name
    console.print(f"attention {chosen} on {platform} ({name!r} in the configuration)")
    linear = 3 * n * cost.patch_token
    whole = 3 * n * n * cost.self_pair
    console.print(
        f"a full row of {n:,} tokens: {linear / 1e9:,.1f} GFLOP in products by token, and up to "
        f"{whole / 1e9:,.1f} GFLOP in self-attention (one clip a row; falls with the sum of "
        f"squared clip lengths); {plan.rows_per_step} rows a step"
    )


def show_index(console: Console, index: ClipIndex, config: EncodeConfig) -> None:
    """What geometry does to an index, and the row length to train with."""
    pieces, report = make_pieces(index, config.geometry)
    for line in report.lines():
        console.print(line)
    text = np.ones(len(index), np.int64)
    start = index.caption_start
    has = start[1:] > start[:-1]
    text[has] = np.maximum.reduceat(index.text_tokens, start[:-1][has])
    best, tried = recommend_row_length(
        pieces.tokens, np.minimum(text, config.max_text)[pieces.clip], unit=_unit(pieces.tokens)
    )
    table = Table("row tokens", "fill", "clips a row", "")
    for row in tried:
        mark = "recommended" if row == best else ""
        table.add_row(f"{row.row_tokens:,}", f"{row.fill:.4f}", f"{row.clips_per_row:.1f}", mark)
    console.print(table)


def _unit(tokens: np.ndarray) -> int:
    """Row lengths are multiples of 1,024 where clips are large, of 64 where they are small."""
    return 1024 if tokens.max() >= 8192 else 64
