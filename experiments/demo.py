"""The demo model, which comes with the package: `vidsim sample --ckpt demo --prompt ...`.

Purpose   one small model with every capability: 4x8x8 autoencoder, text encoder and denoiser,
          trained on the shapes world, one object a clip: first on images, most of them close-ups,
          because there a caption's shape is worth listening to; from those weights on many clips of
          few tokens; then on fast clips with their first frame given, because there the direction
          is all that is left to tell, and on these from their prompts; then on everything, clips
          of 12 sizes and 1 to 129 frames among it. So far latents have 24 channels, in which
          objects leap from one latent frame to the next: 24 more, chosen for motion, carry them
          smoothly, and the denoiser goes on with all 48; it gets three more layers, reads what it
          said in the step before, and sees the first frame of long videos; then loops, winter, and
          requests to change what is seen; then words for styles, from images, and everything once
          more; from the mean of what was before these and after, again; at last everything and
          those images together; exported in bfloat16
Command   python experiments/demo.py           makes vidsim/assets/demo; goes on where it stopped
          python experiments/demo.py --list    prints its commands: index, the autoencoder's
                                               training, encode, nine stages of training, the
                                               autoencoder widened, encode, nineteen more
                                               stages, export, eval (vae, prompts, and
                                               capabilities in three), export
          python experiments/demo.py --onward  goes on from the shipped model of the version
                                               before, in its place: the stages from ONWARD on
Hardware  2 CPU cores, 8 GiB; an accelerator where there is one
Cost      about eighteen hours on 2 CPU cores; --onward three and a half
Target    colour and background 0.95, shape 0.80, direction 0.70 on held-out prompts; what
          version 14 reaches: experiments/RESULTS.md
Variants  :vae, :wide and the stages of CLIPS_OF, with :dit also without a name; each with debug-
          before it,
          a few steps; python experiments/demo.py --debug goes the whole road with them, in
          runs/demo-debug
"""

import json
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

from vidsim.config import override, to_dict
from vidsim.quickstart import denoiser_run, vae_run

ROOT = Path(__file__).resolve().parents[1]
VERSION = 14
ONWARD = "manner"  # the first stage after version 13
STEPS = {"vae": 150, "wide": 300, "images": 3500, "small": 1500, "ways": 7500, "motion": 500,
         "mixed": 750, "prompted": 1550, "all": 4800, "given": 900, "sizes": 480,
         "finer": 6400, "turns": 9000, "looks": 4000, "joins": 4600,
         "loops": 900, "wider": 5200, "diagonals": 600, "words": 2200, "calm": 6400,
         "said": 3000, "shown": 11500, "closed": 7500, "seasons": 2500,
         "styles": 2200, "whole": 4500,
         "manner": 5500, "again": 5500, "mean": 2000, "both": 9000, "dit": 1000}  # fmt: skip
STEPS |= {f"debug-{stage}": 2 for stage in STEPS if stage not in ("vae", "wide", "dit")}
STEPS |= {"debug-vae": 3, "debug-wide": 3, "debug": 3}
CLIPS = "world:shapes?split=train&objects=1&anchored=true&size={clips}&seed={seed}&close={close}"
IMAGES = CLIPS + "&frames=1&sizes=48x48,64x64&size_weights=3,1"
SMALL_CLIPS = CLIPS + (  # 50 tokens: what shapes and ways look like is learnt from many clips
    "&frames=1,5,9&frame_weights=0.3,0.25,0.45&sizes=32x32,48x48,64x64&size_weights=6,2,1"
)
MOTION = CLIPS + "&frames=9&sizes=32x32,48x48,64x64&size_weights=4,2,1&speed=fast"
LONG = CLIPS + "&frames=9,17&frame_weights=1,3&sizes=48x48,64x64&size_weights=1,1"
USUAL = CLIPS + (  # at one speed each, or half of the clips would stand still or hardly move
    "&frames=5,9,17&frame_weights=2,4,3&sizes=48x48,64x64,48x80,80x48,48x96,64x96,96x64"
    "&size_weights=5,4,2,2,1,1,1&speed={speed}"
)
RETURNS = CLIPS + (  # there and back: what the way of a loop looks like
    "&frames=9,17,33&frame_weights=2,5,1&sizes=48x48,64x64,64x96,96x64&size_weights=2,3,1,1"
    "&speed=fast&returns=1"
)
LOOPS = CLIPS + (  # seven latent frames: a way out, back over two of them, and out again
    "&frames=25&sizes=48x48,64x64&size_weights=3,2&speed=fast&returns=1&turn=third"
)
CLOSED = CLIPS + (  # to and fro, from anywhere on the way: what windows of a loop look like
    "&frames=17,25,33&frame_weights=3,2,3&sizes=48x48,64x64,64x96,96x64&size_weights=2,4,1,1"
    "&speed=fast&returns=1&turn=closed"
)
LARGE = CLIPS + (  # what is rare in the others
    "&frames=1,5&frame_weights=3,1&sizes=48x80,64x96,64x112,112x64,96x96,96x144,144x96,128x128"
    "&size_weights=1,1,2,2,3,3,3,4&speed=fast"
)
DIAGONAL = CLIPS + (  # ways whose two parts have to be told apart
    "&frames=5,9&frame_weights=1,3&sizes=32x32,48x48,64x64,64x96,96x64&size_weights=4,4,2,1,1"
    "&speed=fast&directions=up-left,up-right,down-left,down-right"
)
HOLLOW = CLIPS + (  # what is taken for a diamond or a circle, as large as prompts ask for
    "&frames=1,5,9&frame_weights=2,1,1&sizes=48x48,48x80,80x48,48x96,64x64,64x96,96x64,96x96"
    "&size_weights=4,2,2,1,3,1,1,1&shapes=star,cross,ring"
)
LEANING = CLIPS + (  # of the diagonals, the two that are still taken for others
    "&frames=5,9&frame_weights=1,1&sizes=48x48,64x64,48x80,80x48,64x96,96x64,96x96"
    "&size_weights=4,3,2,2,1,1,1&directions=up-right,down-left"
)
LASTING = CLIPS + (  # as long as a window of a long video: what bounces, and bounces again
    "&frames=33,65,129&frame_weights=1,4,1&sizes=48x48,64x64&size_weights=1,2&speed={speed}"
)
SEASONS = CLIPS + (  # what edits change, and how they ask for it
    "&frames=1,5,9,17&frame_weights=3,2,4,2"
    "&sizes=48x48,48x80,80x48,48x96,64x64,64x96,96x64,96x96&size_weights=5,2,2,1,5,1,1,0.5"
    "&winter=0.5&requests=background,season,style"
)
STYLES = CLIPS + (
    "&frames=1,5,9&frame_weights=4,3,1&sizes=48x48,48x80,80x48,64x64,64x96,96x64"
    "&size_weights=5,1,1,4,1,1&winter=0.15&requests=style"
)
SPOKEN = CLIPS + (  # whatever a caption says: its words are the vocabulary
    "&frames=1,9,17&sizes=48x48,64x64&winter=0.3&returns=0.3&requests=background,season,style"
)
MANNER = CLIPS + (  # what a style is, learnt as a shape is: from many images, most of them close up
    "&frames=1&sizes=32x32,48x48,64x64&size_weights=1,5,3&winter=0.2"
    "&requests=style,season,background"
)
DRESSED = CLIPS + (  # styles that move, as the clips do whose style an edit changes
    "&frames=9,17&frame_weights=1,1&sizes=48x48,64x64,48x80,80x48,64x96,96x64"
    "&size_weights=5,4,1,1,1,1&winter=0.1&requests=style"
)
PICTURES = CLIPS + (  # larger than anything that moves
    "&frames=1&sizes=160x160,144x256,256x144,192x192,256x256&size_weights=3,2,2,2,2"
)
STILLS = CLIPS + (
    "&frames=1&sizes=48x48,48x80,80x48,48x96,96x48,64x64,64x96,96x64,64x112,112x64,96x96,96x144,"
    "144x96,128x128&size_weights=3,2,2,2,1,3,2,2,1,1,1,0.5,0.5,0.5"
)
MOVING = CLIPS + (
    "&frames=9,17&frame_weights=1,3&sizes=48x48,64x64,64x96,96x64&size_weights=2,3,1,1"
)
WORLD = CLIPS + (
    "&frames=1,5,9,17,33,65,129&frame_weights={weights}"
    "&sizes=48x48,48x80,80x48,48x96,64x64,64x96,96x64,64x112,112x64,96x96,96x144,128x128"
    "&size_weights=20,4.4,4.4,3.1,12,1.8,1.8,1.3,1.3,0.8,0.4,0.3"  # mostly small ones
)
WEIGHTS, DEBUG_WEIGHTS = "0.36,0.2,0.24,0.16,0.03,0.006,0.004", "1,1,1,1,1,1,1"
DEBUG_CLIPS = 40
HELD_OUT = "shapes?split=heldout&seed={seed}&objects=1&anchored=true"
TRIVIAL = "shapes?split=train&seed=0&objects=1&anchored=true"
SAMPLER = ("sampler.solver=euler", "sampler.steps=16")
PROMPT_ALONE = (*SAMPLER, "sampler.guidance.scale=3.0")
GIVEN = (*SAMPLER, "sampler.guidance.scale=1.0")  # frames that are given say most themselves
GIVEN_TASKS = ("animate", "forward", "backward", "join", "loop", "loop_prompt", "strangers",
               "beginnings")  # fmt: skip
PROMPTED_TASKS = ("edit", "image", "prototype", "variations", "sizes", "blend", "long")
TIMED_TASKS = ("batch", "large")  # with nothing beside
CAPABILITIES = {"given": GIVEN_TASKS, "prompted": PROMPTED_TASKS, "timed": TIMED_TASKS}
ENCODE = ("geometry.vae_stride=(4,8,8)", "geometry.patch=(1,1,1)", "geometry.max_area=0",
          "geometry.max_frames=129", "geometry.max_tokens=1216", "geometry.decimate_share=0.1",
          "max_text=96", "midstream=true")  # fmt: skip
AUTOENCODER = ("autoencoding.vae.base_dim=32", "autoencoding.vae.latent_channels=24",
               "autoencoding.vae.patch=(4,8,8)")  # fmt: skip
WIDE = ("start=runs/demo/vae", "autoencoding.learn=decoder", "autoencoding.motion=2",
        "autoencoding.vae.latent_channels=48", "data.crops.canvases=((17,48,48),(1,48,48))",
        "optim.schedule=wsd", "optim.decay_share=0.4")  # fmt: skip
MODEL = (
    "denoising.dit.width=128", "denoising.dit.heads=4", "denoising.dit.mlp_width=512",
    "denoising.dit.layers=6", "denoising.dit.theta=100", "denoising.text.layers=2",
    "optim.warmup_steps=200", "run.ema_decay=0.995", "plan.row_tokens=1216",
    "plan.rows_per_step=2", "plan.group_rows=2", "run.save_every=500",
    "run.eval_every=2000", "run.log_every=20",
)  # fmt: skip
KINDS = ("none", "first", "prefix", "suffix", "first_last", "random", "join", "headless")


def masks(*weights: float) -> tuple[str, ...]:
    """Settings of the masks, one weight for each of KINDS."""
    return tuple(f"denoising.masks.{k}={w}" for k, w in zip(KINDS, weights, strict=True))


def few_tokens(shift: float, *more: str) -> tuple[str, ...]:
    """Settings of rows of many short clips, at a constant rate; noise times moved by `shift`."""
    return ("plan.row_text=640", "plan.row_segments=64", f"denoising.times.base_shift={shift}",
            "optim.schedule=constant", *more)  # fmt: skip


SOON = "optim.warmup_steps=50"
LEARN_NEW = "denoising.channel_weight=0.35"
SAID = ("denoising.dit.self_condition=True", "denoising.dit.layers=9")
GENTLE = ("optim.lr=0.01", "optim.adam_lr=0.0015")  # half the rate of the stages before
BOTH_ENDS = "denoising.masks.join_given=2"
EVERYTHING = ("plan.row_text=448", "plan.row_segments=64", "denoising.times.base_shift=3.0",
              "optim.decay_share=1.0")  # fmt: skip
LATE = (SOON, *EVERYTHING, LEARN_NEW, *SAID, BOTH_ENDS, "denoising.masks.noise=0.1",
        "denoising.masks.reference=0.5")  # fmt: skip
EVENLY = "captions.weights=(('short',0.5),('descriptive',0.5))"
NAMED = (*masks(0.42, 0.13, 0.11, 0.08, 0, 0, 0.26, 0.3), *LATE, "plan.row_text=512",
         "captions.weights=(('short',0.35),('descriptive',0.65),('request',0.5))")  # fmt: skip
STAGES = {
    "images": (*masks(1, 0, 0, 0, 0, 0, 0, 0), "plan.row_text=320", "optim.schedule=constant"),
    "small": (*masks(0.7, 0.06, 0.06, 0.05, 0.04, 0.04, 0.05, 0.05), *few_tokens(2.0)),
    # where a frame is given, the place is known and only the way is asked
    "ways": (*masks(0.4, 0.2, 0.1, 0.1, 0.04, 0.04, 0.05, 0.05), *few_tokens(2.0)),
    # here the direction is all that is asked: it is found in minutes
    "motion": (*masks(0, 1, 0, 0, 0, 0, 0, 0), *few_tokens(6.0, SOON)),
    "mixed": (*masks(0.4, 0.2, 0.1, 0.1, 0.04, 0.04, 0.05, 0.05), *few_tokens(4.0, SOON)),
    "prompted": (*masks(0.75, 0.1, 0.05, 0.05, 0.02, 0.02, 0.01, 0.0), *few_tokens(3.5, SOON)),
    "all": (*masks(0.5, 0.15, 0.1, 0.08, 0.04, 0.04, 0.06, 0.05), SOON, *EVERYTHING),
    # looks are known where the first frame is given, so here they can be learnt to be kept
    "given": (*masks(0, 1, 0, 0, 0, 0, 0, 0), *few_tokens(6.0, SOON)),
    "sizes": (*masks(0.6, 0.2, 0.06, 0.04, 0.02, 0.02, 0.04, 0.02), *few_tokens(3.0, SOON),
              "plan.row_text=448"),
    "finer": (*masks(0.42, 0.17, 0.12, 0.1, 0.03, 0.03, 0.1, 0.05), SOON, *EVERYTHING,
              "optim.decay_share=0.8"),
    # the new channels count from here on: before, they weighed too little to be learnt
    "turns": (*masks(0.4, 0.17, 0.12, 0.1, 0.02, 0.02, 0.12, 0.05), SOON, *EVERYTHING,
              "optim.decay_share=0.8", LEARN_NEW),
    # shapes and ways of one object from the prompt alone, in clips of few tokens, once more
    "looks": (*masks(0.7, 0.12, 0.06, 0.05, 0, 0, 0.05, 0.02), *few_tokens(3.5, SOON), LEARN_NEW),
    "joins": (*masks(0.36, 0.17, 0.12, 0.1, 0, 0, 0.2, 0.05), SOON, *EVERYTHING,
              "optim.decay_share=0.8", LEARN_NEW),
    # that something turns where the given frames end is found only where that is all there is
    "loops": (*masks(0, 0, 0.1, 0, 0, 0, 0.9, 0), SOON, *EVERYTHING, LEARN_NEW, BOTH_ENDS,
              "denoising.times.base_shift=6.0", "optim.decay_share=0.8"),
    "wider": (*masks(0.32, 0.14, 0.1, 0.1, 0, 0, 0.3, 0.04), SOON, *EVERYTHING, LEARN_NEW,
              BOTH_ENDS, "optim.decay_share=0.8"),
    # down-left was taken for down-right even from a given frame, up-right for up-left in prompts
    "diagonals": (*masks(0.5, 0.5, 0, 0, 0, 0, 0, 0), *few_tokens(4.0, SOON), LEARN_NEW,
                  "optim.lr=0.01"),
    "words": (*masks(0.74, 0.14, 0.04, 0.04, 0, 0, 0.04, 0), *few_tokens(3.5, SOON), LEARN_NEW,
              *GENTLE),
    # given frames are a little noisy, as what the windows of a long video hand on
    "calm": (*masks(0.4, 0.13, 0.13, 0.08, 0, 0, 0.24, 0.08), SOON, *EVERYTHING, LEARN_NEW,
             BOTH_ENDS, *GENTLE, "denoising.masks.noise=0.1"),
    # outlines came out lopsided: half as many layers again, and cells that know what all of them
    # decided in the step before
    "said": (*masks(0.8, 0.1, 0.04, 0.04, 0, 0, 0.02, 0), *few_tokens(3.5, SOON), LEARN_NEW, *SAID),
    # clips begin mid-stream more often, as the windows of a long video do, and half of these see
    # their first frame
    "shown": (*masks(0.5, 0.12, 0.12, 0.07, 0, 0, 0.19, 0.2), *LATE),
    # loops, from both their ends and from prompts alone
    "closed": (*masks(0.4, 0.12, 0.11, 0.08, 0, 0, 0.29, 0.3), *LATE, *GENTLE),
    "seasons": (*masks(0.86, 0.06, 0.02, 0.02, 0, 0, 0.04, 0), *few_tokens(3.5, SOON), LEARN_NEW,
                *SAID, *GENTLE, "plan.row_text=768"),
    # no caption of the others says much of a style, and no noise as high as theirs leaves it open
    "styles": (*masks(0.86, 0.06, 0.02, 0.02, 0, 0, 0.04, 0), *few_tokens(1.5, SOON), LEARN_NEW,
               *SAID, *GENTLE, "plan.row_text=768",
               "captions.weights=(('short',0.15),('descriptive',0.35))"),
    "whole": (*masks(0.4, 0.12, 0.11, 0.08, 0, 0, 0.29, 0.3), *LATE, *GENTLE,
              "captions.weights=(('short',0.7),('descriptive',0.3))"),
    # words for styles again, as shapes were learnt: from very many close-ups that name theirs
    "manner": (*masks(1, 0, 0, 0, 0, 0, 0, 0), *few_tokens(2.0, SOON), LEARN_NEW, *SAID,
               "plan.row_text=768", "optim.schedule=wsd", "optim.decay_share=0.4",
               "captions.weights=(('short',0.1),('descriptive',0.6),('request',0.3))"),
    "again": (*masks(0.4, 0.12, 0.11, 0.08, 0, 0, 0.29, 0.3), *LATE, *GENTLE, EVENLY),
    # from the mean of the weights before manner, which knew ways better, and of these
    "mean": (*masks(0.4, 0.12, 0.11, 0.08, 0, 0, 0.29, 0.3), *LATE, *GENTLE, EVENLY),
    # both at once, so that neither is unlearnt: everything, and many images that name their style
    "both": (*NAMED, "optim.decay_share=0.7"),
    # the mean of this and of what was before it is better at nearly all; it is hardly trained
    "dit": (*NAMED, "optim.lr=0.005", "optim.adam_lr=0.00075"),
}  # fmt: skip
OF_ALL = ("train", "stills", "slow", "fast", "motion", "returns", "loops", "large")
WORDS = ("stills", "hollow", "outlines", "diagonal", "leaning", "motion")
LAST = (*OF_ALL, "diagonal", "hollow", "outlines", "leaning", "slow-lasting", "fast-lasting")
BALANCED = tuple(name for name in LAST if name not in ("loops", "outlines"))
BALANCED += ("closed", "pictures", "seasons", "styles", "manner", "named", "dressed")
CLIPS_OF = {
    "images": ("images",),
    "small": ("small",),
    "ways": ("small",),
    "motion": ("motion",),
    "mixed": ("motion", "small"),
    "prompted": ("motion",),
    "all": ("train", "small", "motion", "long"),
    "given": ("slow", "fast"),
    "sizes": ("stills", "slow", "fast"),
    "finer": ("train", "stills", "slow", "fast", "long", "motion"),
    "turns": ("train", "stills", "slow", "fast", "long", "motion", "returns"),
    "looks": ("stills", "motion"),
    "joins": ("train", "stills", "slow", "fast", "long", "motion", "returns"),
    "loops": ("loops",),
    "wider": OF_ALL,
    "diagonals": ("diagonal",),
    "words": ("stills", "hollow", "diagonal", "motion", "fast"),
    "calm": (*OF_ALL, "diagonal", "hollow"),
    "said": WORDS,
    "shown": LAST,
    "closed": (*LAST, "closed"),
    "seasons": ("seasons", "stills", "hollow", "outlines", "motion"),
    "styles": ("styles", "seasons"),
    "whole": (*LAST, "closed", "seasons", "styles", "pictures"),
    "manner": ("manner",),
    "again": (*LAST, "closed", "seasons", "styles", "pictures", "manner"),
    "mean": (*LAST, "closed", "seasons", "styles", "manner"),
    "both": BALANCED,
    "dit": BALANCED,
}  # what each stage trains on; it starts from the weights of the one before
# Stages on the latents of the wide autoencoder.
ON_WIDE = tuple(STAGES)[list(STAGES).index("finer") :]
SMALL = (
    "denoising.dit.width=32", "denoising.dit.heads=2", "denoising.dit.mlp_width=64",
    "denoising.dit.layers=1", "denoising.dit.loop=scan", "denoising.text.layers=1",
    "denoising.text.width=32", "denoising.text.mlp_width=32", "plan.pool_rows=8",
    "run.log_every=1", "run.save_every=3",
)  # fmt: skip
TINY = {
    "debug-vae": (
        "autoencoding.vae.base_dim=16",
        "data.statistics_clips=8",
        "data.crops.batch_size=2",
        "data.crops.image_batch_size=4",
        "run.log_every=1",
    ),
    "debug-wide": (
        "autoencoding.vae.base_dim=16",
        "data.statistics_clips=8",
        "data.crops.canvases=((17,48,48),(1,48,48))",
        "data.crops.batch_size=2",
        "data.crops.image_batch_size=4",
        "run.log_every=1",
    ),
    **{f"debug-{stage}": SMALL for stage in STAGES if stage != "dit"},
    "debug": SMALL,
}


def get_config(variant: str = "") -> dict:
    """The configuration of the autoencoder or of a stage of the denoiser as plain data."""
    name = variant or "dit"
    if name not in STEPS:
        raise ValueError(f"experiments/demo.py: unknown variant {variant!r}; {', '.join(STEPS)}")
    stage = name.removeprefix("debug-") if name != "debug" else "dit"
    if stage in ("vae", "wide"):
        run = to_dict(vae_run("runs/demo/train.parquet", STEPS[name]))
        more = (*AUTOENCODER, *(WIDE if stage == "wide" else ()))
    else:
        latents = cache("runs/demo", stage, CLIPS_OF[stage][0])
        run = to_dict(denoiser_run(latents, None, STEPS[name]))
        more = (*MODEL, *STAGES[stage])
    return override(run, (*more, *TINY.get(name, ())))


def worlds(debug: bool) -> dict[str, str]:
    """Specifications of the clips by name, in the order of their seeds."""
    few = DEBUG_CLIPS if debug else 0

    def of(pattern: str, clips: int, seed: int, close: float, **more: str) -> str:
        return pattern.format(clips=few or clips, seed=seed, close=close, **more)

    return {
        "train": of(WORLD, 16_000, 0, 0.3, weights=DEBUG_WEIGHTS if debug else WEIGHTS),
        "images": of(IMAGES, 24_000, 1, 0.7),
        "small": of(SMALL_CLIPS, 24_000, 2, 0.5),
        "motion": of(MOTION, 12_000, 3, 0.5),
        "long": of(LONG, 6_000, 4, 0.0),
        "slow": of(USUAL, 8_000, 5, 0.2, speed="slow"),
        "fast": of(USUAL, 8_000, 6, 0.2, speed="fast"),
        "moving": of(MOVING, 12_000, 7, 0.1),
        "stills": of(STILLS, 24_000, 8, 0.3),
        "returns": of(RETURNS, 8_000, 9, 0.0),
        "loops": of(LOOPS, 12_000, 12, 0.0),
        "closed": of(CLOSED, 12_000, 19, 0.0),
        "seasons": of(SEASONS, 24_000, 20, 0.2),
        "styles": of(STYLES, 24_000, 22, 0.4),
        "pictures": of(PICTURES, 4_000, 21, 0.3),
        "manner": of(MANNER, 32_000, 23, 0.5),
        "named": of(MANNER, 128_000, 25, 0.5),
        "dressed": of(DRESSED, 12_000, 26, 0.2),
        "spoken": of(SPOKEN, 2_000, 24, 0.3),
        "large": of(LARGE, 16_000, 11, 0.1),
        "diagonal": of(DIAGONAL, 12_000, 13, 0.3),
        "hollow": of(HOLLOW, 16_000, 14, 0.3),
        "outlines": of(HOLLOW, 16_000, 15, 0.1),
        "leaning": of(LEANING, 12_000, 16, 0.1),
        "slow-lasting": of(LASTING, 2_000, 17, 0.0, speed="slow"),
        "fast-lasting": of(LASTING, 2_000, 18, 0.0, speed="fast"),
    }


def cache(home: str, stage: str, name: str) -> str:
    """The folder of the latents of some clips."""
    return f"{home}/{'wide' if stage in ON_WIDE else 'latents'}-{name}"


def commands(
    debug: bool, home: str, asset: str, onward: bool = False
) -> list[tuple[list[str], str]]:
    """(words of a vidsim command, the file that is there when it is done; "" for: always run).

    onward  from the model in `home`/before, with its autoencoder, instead of from nothing
    """
    me, kind = str(Path(__file__)), "debug-{}" if debug else "{}"
    scores = f"{home}/scores"
    export = ["export", "--ckpt", f"{home}/dit", "--max-mb", "10", "--out"]
    card = ["--name", f"vidsim demo {VERSION}", "--license", licence()]
    card += [] if onward else ["--vae-run", f"{home}/wide"]
    for name in suites(debug):
        card += ["--scores", f"{scores}/{name}"]
    before = dict(zip(tuple(CLIPS_OF)[1:], CLIPS_OF, strict=False))  # whose weights a stage takes
    before |= {ONWARD: "before"} if onward else {}
    before |= {"mean": f"{before[ONWARD]},{home}/{before['mean']}", "dit": f"mean,{home}/both"}

    def autoencoder(name: str, clips: str, *more: str) -> tuple[list[str], str]:
        words = ["train", f"--config={me}:{kind.format(name)}", "--workdir", f"{home}/{name}",
                 f"data.index={home}/{clips}.parquet", *more]  # fmt: skip
        return words, f"{home}/{name}/vae/config.json"

    def encode(vae: str, stage: str, name: str) -> tuple[list[str], str]:
        out, first = cache(home, stage, name), cache(home, stage, "spoken")
        words = "words=256" if out == first else f"words_from={first}"
        return ["encode", "--vae", f"{home}/{vae}", "--index", f"{home}/{name}.parquet",
                "--out", out, *ENCODE, words], ""  # fmt: skip

    def train(stage: str) -> tuple[list[str], str]:
        name = "debug" if debug and stage == "dit" else kind.format(stage)
        start = [f"start={home}/{before[stage]}"] if stage in before else []
        first, *others = (cache(home, stage, clips) for clips in CLIPS_OF[stage])
        more = [f"data.more={tuple(others)}"] if others else []
        return ["train", f"--config={me}:{name}", "--workdir", f"{home}/{stage}",
                f"data.cache={first}", *more, *start], ""  # fmt: skip

    def encoded(vae: str, stages: tuple[str, ...]) -> list[tuple[list[str], str]]:
        names = dict.fromkeys(["spoken", *(name for stage in stages for name in CLIPS_OF[stage])])
        return [encode(vae, stages[0], name) for name in names]  # the vocabulary comes first

    def index(names: Iterable[str]) -> list[tuple[list[str], str]]:
        return [(["index", worlds(debug)[name], "--out", f"{home}/{name}.parquet"],
                 f"{home}/{name}.parquet") for name in names]  # fmt: skip

    early = tuple(stage for stage in CLIPS_OF if stage not in ON_WIDE)
    late = ON_WIDE[ON_WIDE.index(ONWARD) :] if onward else ON_WIDE
    from_nothing = [
        autoencoder("vae", "train"),
        *encoded("vae", early),
        *(train(stage) for stage in early),
        autoencoder("wide", "moving", f"start={home}/vae"),
    ]
    needed = dict.fromkeys(["spoken", *(name for stage in late for name in CLIPS_OF[stage])])
    return [
        *index(needed if onward else worlds(debug)),
        *([] if onward else from_nothing),
        *encoded("before" if onward else "wide", late),
        *(train(stage) for stage in late),
        ([*export, f"{home}/bare"], f"{home}/bare/config.json"),
        *((["eval", "--ckpt", f"{home}/bare", "--out", f"{scores}/{name}", "--suite", *words],
           f"{scores}/{name}/results.json") for name, words in suites(debug).items()),
        ([*export, asset, *card], f"{asset}/config.json"),
    ]  # fmt: skip


def suites(debug: bool) -> dict[str, list[str]]:
    """Suites whose scores the card shows, and their settings, by the name of their folder."""
    found = {
        "vae": ["vae", "clips=4" if debug else "clips=72"],
        "prompts": ["prompts", f"world={HELD_OUT.format(seed=2)}", f"prompts={4 if debug else 288}",
                    "frames=(1,5,9)", *PROMPT_ALONE],
        **{name: ["capabilities", f"tasks={tasks}", "clips=1" if debug else "clips=48",
                  f"world={HELD_OUT.format(seed=3)}", f"training={TRIVIAL}", *GIVEN]
           for name, tasks in CAPABILITIES.items()},
    }  # fmt: skip
    if debug:
        found["prompts"] += ["sampler.steps=1", "sizes=((48,48),)", "frames=(5,)", "vae_prompts=0"]
        for name in CAPABILITIES:
            found[name] += [
                "sampler.steps=1", "library=2", "size=(48,48)", "frames=17", "strengths=(0.5,)",
                "sizes=((48,48),)", "size_clips=1", "large=(96,96)", "long_clips=1", "long_s=5.0",
            ]  # fmt: skip
    return found


def licence() -> str:
    """The licence of the project, under which the model comes too."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"]


def version(model: Path) -> str:
    """The name of the model that an exported folder holds, "" for none."""
    config = model / "config.json"
    return str(json.loads(config.read_text())["extra"]["name"]) if config.exists() else ""


def in_the_way(asset: Path, before: Path, onward: bool) -> str:
    """Why the script may not begin: another model where its own is to be; "" for nothing. To go
    on from the shipped model, that is copied first, to `before`."""
    found, last = version(asset), f"vidsim demo {VERSION - 1}"
    if onward and found == last and not before.exists():
        part = before.with_name("before.part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(asset, part)
        part.rename(before)
    if onward and version(before) != last:
        return f"{asset} holds {found!r}; {last!r} for --onward"
    if found in ("", f"vidsim demo {VERSION}") or onward and found == last:
        return ""
    return f"{asset} holds {found!r}; wanted version {VERSION}; delete it"


def main(words: list[str]) -> int:
    """Runs what is not done yet; the exit code is that of the first command that fails."""
    debug, listed, onward = (f"--{word}" in words for word in ("debug", "list", "onward"))
    home = "runs/demo-debug" if debug else "runs/demo"
    asset = Path(home, "asset") if debug else ROOT / "vidsim" / "assets" / "demo"
    Path(home).mkdir(parents=True, exist_ok=True)
    if not listed and (why := in_the_way(asset, Path(home, "before"), onward)):
        print(f"experiments/demo.py: {why}")
        return 2
    for command, done in commands(debug, home, str(asset), onward):
        print(f"$ vidsim {shlex.join(command)}", flush=True)
        if listed:
            continue
        if Path(done).parent == asset and version(asset) == f"vidsim demo {VERSION - 1}":
            shutil.rmtree(asset)  # its copy is the model the script went on from
        if done and Path(done).exists():
            continue
        code = subprocess.run([sys.executable, "-m", "vidsim", *command]).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
