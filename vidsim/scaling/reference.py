"""Clips that presets are counted on where no data set is given: lengths alone, drawn once.

`shapes` is the embedded world as the quickstart draws it; `mixed` are images and studio video as in
`vidsim bench packing`. A run on a real cache solves its steps from that cache instead.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from vidsim.core.host_random import generator
from vidsim.data.bench_packing import mixed
from vidsim.data.geometry import GeometryConfig, make_pieces
from vidsim.data.plan import Plan, PlanConfig
from vidsim.data.tokenizer import Tokenizer, frequent_words
from vidsim.quickstart import WORLD, encode_config
from vidsim.worlds.base import from_spec

SHAPES = WORLD.format(split="train", size=4000, seed=0)
SHORT_SHARE = 0.85  # of the shapes world's captions that are the short one
BYTES_A_WORD_PIECE = 4  # English text; `mixed` counts captions in word pieces
CLIPS = 20_000

Lengths = tuple[np.ndarray, np.ndarray]


@functools.cache
def lengths(name: str, geometry: GeometryConfig, max_text: int) -> Lengths:
    """(patch tokens i64[n], text bytes and start token i64[n]) of the pieces of reference clips.

    name      key of REFERENCES
    max_text  longest caption, tokens
    """
    clips = REFERENCES[name]()
    pieces, _ = make_pieces(clips, geometry)
    return pieces.tokens.astype(np.int64), np.minimum(clips.text, max_text)[pieces.clip]


def reference_plan(
    name: str, geometry: GeometryConfig, max_text: int, config: PlanConfig, seed: int = 0
) -> Plan:
    """The plan of reference clips, as `vidsim train` would make it from a cache of them."""
    tokens, text = lengths(name, geometry, max_text)
    return Plan(tokens, text, config, seed, f"reference {name}")


def _shapes() -> Any:
    world = from_spec(SHAPES)
    infos = [world.info(i) for i in range(len(world))]
    short = generator(0, "reference captions").random(len(infos)) < SHORT_SHARE
    every = (caption.text for info in infos for caption in info.captions)
    tokenizer = Tokenizer(encode_config().max_text, frequent_words(every, encode_config().words))
    text = [
        tokenizer.count(info.captions[0 if brief else -1].text)
        for info, brief in zip(infos, short, strict=True)
    ]
    return _Columns(
        [info.num_frames for info in infos], [info.height for info in infos],
        [info.width for info in infos], [info.fps for info in infos], np.asarray(text, np.int64),
    )  # fmt: skip


def _mixed() -> Any:
    clips = mixed(CLIPS)
    text = 1 + BYTES_A_WORD_PIECE * clips.text.astype(np.int64)
    return _Columns(clips.num_frames, clips.height, clips.width, clips.fps, text)


class _Columns:
    """The columns of an index that geometry reads, and caption lengths."""

    def __init__(self, num_frames: Any, height: Any, width: Any, fps: Any, text: Any) -> None:
        self.clip_id = [f"clip {i}" for i in range(len(text))]
        self.num_frames, self.height = np.asarray(num_frames), np.asarray(height)
        self.width, self.fps = np.asarray(width), np.asarray(fps, np.float64)
        self.text = text


REFERENCES: dict[str, Callable[[], Any]] = {"shapes": _shapes, "mixed": _mixed}
