"""The quickstart: the whole road on embedded data, at a size that two CPU cores finish in minutes.

clips -> index -> autoencoder -> latents -> denoiser -> samples -> scores -> report. The recipe is
here and nowhere else; experiments/quickstart_*.py are views of it. Minutes become step counts once,
after a short probe of the machine's rate, and are written down; the clock never steers a schedule.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vidsim.core.errors import bad
from vidsim.data.captions import CaptionConfig
from vidsim.data.crops import CropConfig
from vidsim.data.geometry import GeometryConfig
from vidsim.data.index import ClipIndex, build_index
from vidsim.data.pipeline import packed_batches
from vidsim.data.plan import PlanConfig
from vidsim.diffusion.masks import MaskConfig
from vidsim.diffusion.times import TimeConfig
from vidsim.eval.runner import evaluate, page_facts, show, write_report
from vidsim.models.dit_config import DiTConfig
from vidsim.models.text import ByteEncoderConfig
from vidsim.models.vae_presets import preset
from vidsim.runs import (
    DenoiserRun,
    LatentData,
    VaeData,
    VaeRun,
    denoiser_program,
    encode_index,
    resolve_denoiser,
    train_denoiser,
    train_vae,
    vae_batches,
    vae_program,
)
from vidsim.store.manifest import write_atomic
from vidsim.store.shards import LatentCache
from vidsim.tasks.autoencoding import AutoencodingConfig
from vidsim.tasks.denoising import DenoisingConfig
from vidsim.tasks.encoding import EncodeConfig
from vidsim.train.loop import RunSpec
from vidsim.train.optim import OptimConfig
from vidsim.train.validation import ValidationConfig

CLIPS, HELD_OUT = 5000, 360
WORLD = (
    "world:shapes?split={split}&size={size}&seed={seed}&objects=1&anchored=true"
    "&frames=1,5,9,17,33&frame_weights=0.46,0.28,0.2,0.04,0.02"
)
FULL_MINUTES = 15.0
VAE_SHARE, DENOISER_SHARE = 0.05, 0.48  # of the minutes; the rest goes to data, samples and scores
MIN_STEPS = 20
CROPS = CropConfig(
    canvases=((9, 48, 48), (1, 48, 48)), batch_size=16, image_batch_size=64, image_share=0.15,
    frames_as_images=True, cache_bytes=1 << 30,
)  # fmt: skip


PROMPTS = 288
SAMPLER = {"solver": "euler", "steps": 16, "guidance": {"scale": 3.0}}


def vae_run(index: str, steps: int) -> VaeRun:
    """The autoencoder of the quickstart: 4x16x16, linear start, a few convolutions beside it."""
    return VaeRun(
        data=VaeData(index, CROPS),
        autoencoding=AutoencodingConfig(
            vae=preset("laptop"), l1=1.0, l2=1.0, kl=1e-5, start="principal",
        ),
        run=_spec(steps, 0.98),
        optim=OptimConfig(name="muon", lr=0.01, adam_lr=0.002, warmup_steps=50),
    )  # fmt: skip


def denoiser_run(cache: str, held_out: str | None, steps: int) -> DenoiserRun:
    """The denoiser of the quickstart."""
    return DenoiserRun(
        data=LatentData(cache, held_out),
        denoising=DenoisingConfig(
            dit=DiTConfig(width=128, heads=2, mlp_width=512, layers=6, loop="unroll",
                          text_width=128, place_embedding=True, pooled_text=True),
            text=ByteEncoderConfig(width=128, heads=4, mlp_width=256, layers=1),
            times=TimeConfig(base_tokens=64, base_shift=1.5),
            prediction="residual", channel_weight=0.7,
            masks=MaskConfig(none=0.8, first=0.05, prefix=0.05, suffix=0.03, first_last=0.03,
                             random=0.04),
        ),
        plan=PlanConfig(row_tokens=576, row_text=288, row_segments=32, rows_per_step=2,
                        group_rows=2, pool_rows=256, window_clips=4096, cost_width=256),
        run=_spec(steps, 0.99),
        optim=OptimConfig(name="muon", lr=0.02, adam_lr=0.003, warmup_steps=50,
                          schedule="wsd", decay_share=0.3),
        captions=CaptionConfig(weights=(("short", 0.85), ("descriptive", 0.15))),
        validation=ValidationConfig(batches=4),
    )  # fmt: skip


def encode_config(words_from: str = "") -> EncodeConfig:
    """Latents of whole clips; a token is a latent cell, 16x16 pixels and 4 frames.

    words_from  cache whose vocabulary is taken; "" reads one from the captions
    """
    geometry = GeometryConfig(vae_stride=(4, 16, 16), patch=(1, 1, 1), max_area=0, max_frames=33,
                              max_tokens=576, reduced_share=0.0, decimate_share=0.1)  # fmt: skip
    return EncodeConfig(geometry=geometry, max_text=96, words=256, words_from=words_from)


def _spec(steps: int, ema_decay: float) -> RunSpec:
    return RunSpec(steps=steps, ema_decay=ema_decay, save_every=max(steps // 2, 1),
                   eval_every=max(steps // 5, 1), log_every=5, keep=1)  # fmt: skip


class Quickstart:
    """One run of the road in a folder; every part that is finished is not done again."""

    def __init__(
        self, workdir: str | Path, minutes: float, say: Callable[[str], None], progress: Any
    ) -> None:
        if not 0.5 <= minutes <= 600:
            raise bad("--minutes", f"{minutes}", "0.5 to 600")
        self.folder, self.minutes, self.say, self.progress = Path(workdir), minutes, say, progress
        self.index, self.held_out_index = (
            str(self.folder / f"{name}.parquet") for name in ("train", "heldout")
        )
        self.cache, self.held_out = (
            str(self.folder / f"latents_{n}") for n in ("train", "heldout")
        )
        self.times: dict[str, float] = {}

    def run(self) -> None:
        """Everything up to the trained denoiser."""
        self.folder.mkdir(parents=True, exist_ok=True)
        plan = self._stored()
        clips = plan["clips"] if plan else _scaled(CLIPS, self.minutes)
        self._timed("index", lambda: self._make_indices(clips))
        self._store(minutes=self.minutes, clips=clips)
        self._timed("autoencoder", self._train_vae)
        self._timed("latents", self._encode)
        self._timed("denoiser", self._train_denoiser)

    def score(self, requirements: list[str], stages: Any) -> bool:
        """Runs the suites on the finished denoiser, prints their tables, writes report.html."""
        plan = self._stored()
        settings: dict[str, dict[str, Any]] = {
            "vae": {"clips": 72},
            "loss": {"clips": 144},
            "prompts": {"prompts": PROMPTS, "frames": [1, 5, 9], "sampler": SAMPLER},
        }
        saved = []
        for suite, values in settings.items():
            start = time.perf_counter()
            wanted = [text for text in requirements if text.split("/")[0] == suite]
            with stages(suite) as progress:
                saved.append(evaluate(
                    suite, self.folder / "denoiser", self.folder / "scores" / suite, values,
                    requirements=wanted, progress=progress,
                ))  # fmt: skip
            self.times[f"scores: {suite}"] = time.perf_counter() - start
        passed = show(saved)
        facts = page_facts(saved[-1].run) | {
            "training clips": plan["clips"], "VAE steps": plan["vae_steps"],
            "denoiser steps": plan["denoiser_steps"],
            **{f"{name}, s": round(seconds) for name, seconds in self.times.items()},
        }  # fmt: skip
        page = write_report(
            self.folder / "report.html", "vidsim quickstart",
            "A video autoencoder and a text-conditional diffusion transformer, trained on this "
            "machine from nothing on clips of mixed size, duration and aspect ratio.",
            saved, facts=facts,
            runs={"Autoencoder": self.folder / "vae", "Denoiser": self.folder / "denoiser"},
        )  # fmt: skip
        self.say(f"page: {page}   all: {sum(self.times.values()) / 60:.1f} min")
        return passed

    def _timed(self, name: str, work: Callable[[], Any]) -> None:
        start = time.perf_counter()
        self.say(f"-- {name}")
        work()
        self.times[name] = time.perf_counter() - start
        self.say(f"-- {name}: {self.times[name]:.0f} s")

    def _make_indices(self, clips: int) -> None:
        for path, split, size in ((self.index, "train", clips),
                                  (self.held_out_index, "heldout", HELD_OUT)):  # fmt: skip
            if not Path(path).exists():
                report = build_index(WORLD.format(split=split, size=size, seed=0), path)
                self.say("\n".join(report.lines()))

    def _train_vae(self) -> None:
        """The first time, after a probe of the rate that compiles what is then trained."""
        steps, program = self._stored().get("vae_steps"), None
        if steps is None:
            run = vae_run(self.index, 10)
            batches = vae_batches(run, ClipIndex.open(self.index))
            program = vae_program(run, batches)
            frames = {batches[s]["video"].shape[1]: s for s in range(64)}
            share = run.data.crops.image_share
            step_s = sum(
                program.probe(batches[s]).step_s * (share if count == 1 else 1 - share)
                for count, s in frames.items()
            )
            steps = self._steps("autoencoder", VAE_SHARE, step_s)
            self._store(vae_steps=steps)
        train_vae(vae_run(self.index, steps), self.folder / "vae", program)

    def _encode(self) -> None:
        train = (self.index, self.cache, "")
        for index, cache, words_from in (train, (self.held_out_index, self.held_out, self.cache)):
            with self.progress("encode", "pieces") as show:
                encode_index(ClipIndex.open(index), self.folder / "vae", cache,
                             encode_config(words_from), say=self.say, progress=show)  # fmt: skip

    def _train_denoiser(self) -> None:
        """The first time, after a probe of the rate that compiles what is then trained."""
        steps, prepared = self._stored().get("denoiser_steps"), None
        if steps is None:
            cache = LatentCache.open(self.cache)
            run = resolve_denoiser(denoiser_run(self.cache, None, 10), cache)
            prepared = program, plan = denoiser_program(run, cache)
            rate = program.probe(packed_batches(cache, plan, 1)[0])
            steps = self._steps("denoiser", DENOISER_SHARE, rate.step_s)
            self._store(denoiser_steps=steps)
        run = denoiser_run(self.cache, self.held_out, steps)
        train_denoiser(run, self.folder / "denoiser", prepared)

    def _steps(self, name: str, share: float, step_s: float) -> int:
        steps = max(MIN_STEPS, int(share * self.minutes * 60 / step_s))
        self.say(f"{name}: {step_s * 1e3:.0f} ms a step here, {steps} steps")
        return steps

    def _stored(self) -> dict[str, Any]:
        path = self.folder / "quickstart.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def _store(self, **facts: Any) -> None:
        text = json.dumps(self._stored() | facts, indent=1)
        write_atomic(self.folder / "quickstart.json", text.encode())


def _scaled(full: int, minutes: float) -> int:
    return max(200, int(full * min(1.0, minutes / FULL_MINUTES)))
