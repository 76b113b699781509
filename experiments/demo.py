"""The demo model, which comes with the package: `vidsim sample --ckpt demo --prompt ...`.

Purpose   one small model with every capability: 4x16x16 autoencoder, text encoder and denoiser,
          trained on the shapes world, one object a clip, at 12 sizes and 1 to 129 frames, most
          of them small and short; exported in bfloat16
Command   python experiments/demo.py         makes vidsim/assets/demo; goes on where it stopped
          python experiments/demo.py --list  prints its commands: index, train, encode, train,
                                             export, eval (vae, prompts, capabilities), export
Hardware  2 CPU cores, 8 GiB; an accelerator where there is one
Cost      an hour and a half on 2 CPU cores
Target    colour and background 0.95, shape 0.80, direction 0.70 on held-out prompts; version 2
          reaches the first only: experiments/RESULTS.md
Variants  :vae, :dit (also without a name); :debug-vae, :debug (the denoiser), a few steps;
          python experiments/demo.py --debug goes the whole road with them, in runs/demo-debug
"""

import json
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

from vidsim.config import override, to_dict
from vidsim.quickstart import denoiser_run, vae_run

ROOT = Path(__file__).resolve().parents[1]
VERSION = 2
STEPS = {"vae": 150, "dit": 5500, "debug-vae": 3, "debug": 3}
CLIPS, DEBUG_CLIPS = 12_000, 40
WORLD = (
    "world:shapes?split=train&size={clips}&objects=1&anchored=true"
    "&frames=1,5,9,17,33,65,129&frame_weights={weights}"
    "&sizes=48x48,48x80,80x48,48x96,64x64,64x96,96x64,64x112,112x64,96x96,96x144,128x128"
    "&size_weights=12,4.4,4.4,3.1,8,1.8,1.8,1.3,1.3,0.8,0.4,0.3"  # small clips: more of them a step
)
WEIGHTS, DEBUG_WEIGHTS = "0.42,0.28,0.17,0.1,0.02,0.007,0.003", "1,1,1,1,1,1,1"
HELD_OUT = "shapes?split=heldout&seed={seed}&objects=1&anchored=true"
TRIVIAL = "shapes?split=train&seed=0&objects=1&anchored=true"
SAMPLER = ("sampler.solver=euler", "sampler.steps=16", "sampler.guidance.scale=3.0")
ENCODE = ("geometry.patch=(1,1,1)", "geometry.max_area=0", "geometry.max_frames=129",
          "geometry.max_tokens=576", "geometry.decimate_share=0.1", "max_text=96", "words=256",
          "midstream=true")  # fmt: skip
AUTOENCODER = ("autoencoding.vae.base_dim=32", "autoencoding.vae.latent_channels=48")
DENOISER = (
    "denoising.dit.width=128", "denoising.dit.heads=2", "denoising.dit.mlp_width=512",
    "denoising.dit.layers=7", "denoising.text.layers=2", "optim.warmup_steps=200",
    "denoising.masks.none=0.7", "denoising.masks.first=0.06", "denoising.masks.prefix=0.06",
    "denoising.masks.suffix=0.05", "denoising.masks.first_last=0.04", "denoising.masks.random=0.04",
    "denoising.masks.join=0.05", "denoising.masks.headless=0.05", "run.ema_decay=0.995",
    "plan.rows_per_step=2", "plan.row_text=320", "run.save_every=500", "run.eval_every=2000",
    "run.log_every=20",
)  # fmt: skip
TINY = {
    "debug-vae": ("autoencoding.vae.base_dim=16", "data.statistics_clips=8",
                  "data.crops.batch_size=2", "data.crops.image_batch_size=4", "run.log_every=1"),
    "debug": ("denoising.dit.width=32", "denoising.dit.heads=2", "denoising.dit.mlp_width=64",
              "denoising.dit.layers=1", "denoising.dit.loop=scan", "denoising.text.layers=1",
              "denoising.text.width=32", "denoising.text.mlp_width=32", "plan.rows_per_step=2",
              "plan.pool_rows=8", "run.log_every=1", "run.save_every=3"),
}  # fmt: skip


def get_config(variant: str = "") -> dict:
    """The configuration of the autoencoder or the denoiser as plain data."""
    name = variant or "dit"
    if name not in STEPS:
        raise ValueError(f"experiments/demo.py: unknown variant {variant!r}; {', '.join(STEPS)}")
    if name.endswith("vae"):
        run, more = to_dict(vae_run("runs/demo/train.parquet", STEPS[name])), AUTOENCODER
    else:
        run, more = to_dict(denoiser_run("runs/demo/latents", None, STEPS[name])), DENOISER
    return override(run, (*more, *TINY.get(name, ())))


def commands(debug: bool, home: str, asset: str) -> list[tuple[list[str], str]]:
    """(words of a vidsim command, the file that is there when it is done; "" for: always run)."""
    me, kinds = str(Path(__file__)), ("debug-vae", "debug") if debug else ("vae", "dit")
    index, scores = f"{home}/train.parquet", f"{home}/scores"
    size = (DEBUG_CLIPS, DEBUG_WEIGHTS) if debug else (CLIPS, WEIGHTS)
    world = WORLD.format(clips=size[0], weights=size[1])
    export = ["export", "--ckpt", f"{home}/dit", "--max-mb", "10", "--out"]
    suites = {
        "vae": ["clips=4" if debug else "clips=72"],
        "prompts": [
            f"world={HELD_OUT.format(seed=2)}",
            f"prompts={4 if debug else 288}",
            "frames=(1,5,9)",
            *SAMPLER,
        ],
        "capabilities": [
            f"clips={1 if debug else 16}",
            f"world={HELD_OUT.format(seed=3)}",
            f"training={TRIVIAL}",
            *SAMPLER,
        ],
    }
    if debug:
        suites["prompts"] += ["sampler.steps=1", "sizes=((48,48),)", "frames=(5,)", "vae_prompts=0"]
        suites["capabilities"] += ["sampler.steps=1", "tasks=('animate',)", "library=2",
                                   "size=(48,48)", "frames=9"]  # fmt: skip
    card = ["--name", f"vidsim demo {VERSION}", "--license", licence(), "--vae-run", f"{home}/vae"]
    for suite in suites:
        card += ["--scores", f"{scores}/{suite}"]
    return [
        (["index", world, "--out", index], index),
        (["train", f"--config={me}:{kinds[0]}", "--workdir", f"{home}/vae", f"data.index={index}"],
         f"{home}/vae/vae/config.json"),
        (["encode", "--vae", f"{home}/vae", "--index", index, "--out", f"{home}/latents", *ENCODE],
         ""),
        (["train", f"--config={me}:{kinds[1]}", "--workdir", f"{home}/dit",
          f"data.cache={home}/latents"], ""),
        ([*export, f"{home}/bare"], f"{home}/bare/config.json"),
        *((["eval", "--ckpt", f"{home}/bare", "--suite", suite, "--out", f"{scores}/{suite}",
            *more], f"{scores}/{suite}/results.json") for suite, more in suites.items()),
        ([*export, asset, *card], f"{asset}/config.json"),
    ]  # fmt: skip


def licence() -> str:
    """The licence of the project, under which the model comes too."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"]


def other_version(config: Path, wanted: str) -> str:
    """The name of the model that an exported folder holds, "" for none or the wanted one."""
    name = str(json.loads(config.read_text())["extra"]["name"]) if config.exists() else ""
    return "" if name == wanted else name


def main(words: list[str]) -> int:
    """Runs what is not done yet; the exit code is that of the first command that fails."""
    debug = "--debug" in words
    home = "runs/demo-debug" if debug else "runs/demo"
    asset = f"{home}/asset" if debug else str(ROOT / "vidsim" / "assets" / "demo")
    found = other_version(Path(asset) / "config.json", f"vidsim demo {VERSION}")
    if found and "--list" not in words:
        print(f"experiments/demo.py: {asset} holds {found!r}; wanted version {VERSION}; delete it")
        return 2
    Path(home).mkdir(parents=True, exist_ok=True)
    for command, done in commands(debug, home, asset):
        print(f"$ vidsim {shlex.join(command)}", flush=True)
        if "--list" in words or (done and Path(done).exists()):
            continue
        code = subprocess.run([sys.executable, "-m", "vidsim", *command]).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
