"""What `vidsim bench` runs. Each function returns (text, data for --json, passed)."""

import argparse
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

Answer = tuple[str, dict[str, Any], bool]


def bench_packing(args: argparse.Namespace) -> Answer:
    """The planner on the mixed distribution, against best fit decreasing."""
    from vidsim.data import bench_packing

    result = bench_packing.run(args.clips, sweep=args.sweep, long=args.long)
    return bench_packing.table(result), result.data(), result.met


def bench_worlds(args: argparse.Namespace) -> Answer:
    """How fast the shapes world draws, a row for each size and duration."""
    from vidsim.worlds.bench import bench_worlds as measure

    rows = measure()
    lines = [f"{'frames':>6}{'size':>10}{'clips/s':>12}{'Mpixel/s':>12}"]
    for row in rows[:-1]:
        size = f"{row['width']}x{row['height']}"
        rates = f"{row['clips_per_s']:>12,.0f}{row['megapixels_per_s']:>12,.1f}"
        lines.append(f"{row['frames']:>6}{size:>10}{rates}")
    lines.append(f"without drawing {rows[-1]['clips_per_s']:>12,.0f}")
    return "\n".join(lines), {"rows": rows}, True


def bench_data(args: argparse.Namespace) -> Answer:
    """Decoding and crops of an index; packed batches against a training step's demand."""
    from vidsim.data.bench_data import bench_data as measure
    from vidsim.data.index import ClipIndex
    from vidsim.quickstart import vae_run

    with tempfile.TemporaryDirectory() as folder:
        path, cache = _example(Path(folder))
        crops = None if args.index else vae_run(path, 1).data.crops
        rates = [asdict(r) for r in measure(ClipIndex.open(args.index or path), crops)]
        packed = _assembly_rate(cache, args.runs)
    lines = [f"{'work':<14}{'threads':>8}{'clips/s':>12}{'frames/s':>12}{'Mpixel/s':>12}"]
    lines += [
        f"{r['work']:<14}{r['threads']:>8}{r['clips_s']:>12,.1f}{r['frames_s']:>12,.0f}"
        f"{r['megapixels_s']:>12,.1f}"
        for r in rates
    ]
    lines += [
        "",
        f"packed batches read from the cache and assembled: {packed['clips_s']:,.0f} clips/s, "
        f"{packed['tokens_s']:,.0f} tokens/s; the quickstart's step takes "
        f"{packed['demand_tokens_s']:,.0f} tokens/s: {packed['ratio']:.1f} times "
        "the demand (goal 2)",
    ]
    return "\n".join(lines), {"reading": rates, "packed": packed}, packed["ratio"] >= 2.0


def bench_vae(args: argparse.Namespace) -> Answer:
    """The causal convolution stack, forward and backward, against torch where it is installed."""
    from vidsim.models import vae_bench

    result = vae_bench.run(args.runs)
    return vae_bench.table(result), {"rows": [asdict(row) for row in result]}, True


def bench_attention(args: argparse.Namespace) -> Answer:
    """One row cut into 1 to 64 clips, forward and backward, against one clip and the law."""
    from vidsim.nn import attention_bench

    result = attention_bench.run(args.tokens, args.runs, args.dtype)
    return attention_bench.table(result), asdict(result) | {"met": result.met}, result.met


def bench_step(args: argparse.Namespace) -> Answer:
    """A training step of the quickstart's denoiser: tokens/s and FLOP/s, live and as padded; then
    a denoiser's step against the same model in torch, where that is installed."""
    from vidsim.train import step_bench
    from vidsim.train.flops import step_flops

    with tempfile.TemporaryDirectory() as folder:
        run, program, batch = _step_of(_example(Path(folder))[1])
    rate = program.probe(batch, args.runs)
    cost, tokens = step_flops(run.denoising, batch), float(batch["num_tokens"])
    product = _product_rate(args.runs)
    data = {
        "step_s": rate.step_s, "tokens_per_s": tokens / rate.step_s,
        "flops_live": cost.live, "flops_padded": cost.padded,
        "flops_per_s": cost.live / rate.step_s, "product_flops_per_s": product,
        "compile_s": rate.compile_s, "runs": args.runs,
    }  # fmt: skip
    text = (
        f"step {rate.step_s * 1e3:.0f} ms (median of {args.runs}), {tokens:,.0f} tokens: "
        f"{data['tokens_per_s']:,.0f} tokens/s\n"
        f"{cost.live / 1e9:.1f} GFLOP live ({cost.padded / 1e9:.1f} as padded): "
        f"{data['flops_per_s'] / 1e9:.1f} GFLOP/s, {data['flops_per_s'] / product:.2f} of a plain "
        f"float32 product of 2048 x 2048 ({product / 1e9:.0f} GFLOP/s)"
    )
    if not step_bench.has_torch():
        return f"{text}\nnot compared with torch: it is not installed (extra: parity)", data, True
    rows = step_bench.compare(args.runs)
    data["torch"] = [asdict(row) for row in rows]
    return f"{text}\n\n{step_bench.table(rows)}", data, True


def _example(folder: Path) -> tuple[str, str]:
    """An index of the world and a latent cache of it, made with fresh weights."""
    import jax

    from vidsim.config import to_dict
    from vidsim.data.index import ClipIndex, build_index
    from vidsim.models.vae import Vae
    from vidsim.quickstart import encode_config, vae_run
    from vidsim.runs import encode_index
    from vidsim.store.weights import save_model

    index, cache = str(folder / "world.parquet"), str(folder / "latents")
    build_index("world:shapes?size=600&max_objects=2", index)
    vae = Vae(vae_run(index, 1).autoencoding.vae)
    facts = {key: [float(key == "std")] * vae.cfg.latent_channels for key in ("mean", "std")}
    save_model(folder / "vae", to_dict(vae.cfg), jax.device_get(vae.init(jax.random.key(0))), facts)
    encode_index(ClipIndex.open(index), folder / "vae", cache, encode_config(), say=lambda _: None)
    return index, cache


def _step_of(cache: str) -> tuple[Any, Any, dict[str, Any]]:
    """The quickstart's denoiser run on a cache, its program and its first batch."""
    from vidsim.data.pipeline import packed_batches
    from vidsim.quickstart import denoiser_run
    from vidsim.runs import denoiser_program, resolve_denoiser
    from vidsim.store.shards import LatentCache

    source = LatentCache.open(cache)
    run = resolve_denoiser(denoiser_run(cache, None, 10), source)
    program, plan = denoiser_program(run, source)
    return run, program, packed_batches(source, plan, 1)[0]


def _product_rate(runs: int) -> float:
    """FLOP/s of a 2048 x 2048 float32 product, median."""
    import jax
    import numpy as np

    n = 2048
    x = jax.numpy.ones((n, n), jax.numpy.float32)
    multiply = jax.jit(lambda a: a @ a)
    jax.block_until_ready(multiply(x))
    spent = []
    for _ in range(runs):
        start = time.perf_counter()
        jax.block_until_ready(multiply(x))
        spent.append(time.perf_counter() - start)
    return 2.0 * n**3 / float(np.median(spent))


def _assembly_rate(cache: str, runs: int) -> dict[str, float]:
    """Batches from disk to packed rows, beside what the training step consumes."""
    from vidsim.data.pipeline import packed_batches
    from vidsim.runs import denoiser_program
    from vidsim.store.shards import LatentCache

    run, program, batch = _step_of(cache)
    source = LatentCache.open(cache)
    batches = packed_batches(source, denoiser_program(run, source)[1], 1 << 20)
    clips = tokens = 0.0
    start, step = time.perf_counter(), 0
    while time.perf_counter() - start < 3.0:
        made = batches[step]
        clips, tokens, step = clips + made["num_clips"], tokens + made["num_tokens"], step + 1
    spent = time.perf_counter() - start
    demand = float(batch["num_tokens"]) / program.probe(batch, runs).step_s
    return {
        "clips_s": float(clips / spent), "tokens_s": float(tokens / spent),
        "demand_tokens_s": demand, "ratio": float(tokens / spent / demand),
    }  # fmt: skip
