"""A contact sheet shows each video's own pixels, first and last frame among them."""

import numpy as np
import pytest

from vidsim.core.errors import BadInput
from vidsim.generate.contact import SheetConfig, contact_sheet, wrap


def test_every_colour_of_every_video_is_on_the_sheet():
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (5, 3, 3), dtype=np.uint8)
    sizes = [(16, 32), (48, 24), (16, 16), (200, 100), (7, 90)]
    videos = [
        np.stack([np.broadcast_to(c, (h, w, 3)) for c in frames])
        for (h, w), frames in zip(sizes, colours, strict=True)
    ]
    sheet = contact_sheet(videos, ["a" * 300, "", "b c", "d", "e"], SheetConfig(3, 64))
    shown = {tuple(c) for c in sheet.reshape(-1, 3).tolist()}
    assert {tuple(c) for c in colours.reshape(-1, 3).tolist()} <= shown


def test_images_show_once():
    sheet = contact_sheet([np.full((1, 8, 8, 3), 77, np.uint8)], ["x"], SheetConfig(4, 32))
    assert (sheet == 77).all(-1).sum() == 32 * 32


def test_wrap_keeps_words_and_marks_cuts():
    lines = wrap("one two three four five", len, 9, 2)
    assert all(len(line) <= 9 for line in lines) and lines[-1].endswith("…")
    assert wrap("one two", len, 9, 2) == ["one two"]
    assert wrap("", len, 9, 2) == []
    assert wrap("abcdefghijkl", len, 5, 2) == ["abcd…"]


def test_counts_must_agree():
    with pytest.raises(BadInput):
        contact_sheet([], [])
    with pytest.raises(BadInput):
        contact_sheet([np.zeros((1, 8, 8, 3), np.uint8)], ["a", "b"])
