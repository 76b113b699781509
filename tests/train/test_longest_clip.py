"""Attention is never told of shorter clips than the cache has."""

import types

import numpy as np
import pytest

from vidsim import runs
from vidsim.core.errors import BadInput


def test_a_cache_with_a_clip_longer_than_attention_is_told_is_refused(monkeypatch):
    plan = types.SimpleNamespace(tokens=np.array([5, 300, 9]))
    monkeypatch.setattr(runs, "make_plan", lambda *_: plan)
    monkeypatch.setattr(runs, "build_mesh", lambda _: None)
    monkeypatch.setattr(runs, "Denoising", lambda cfg: cfg)
    monkeypatch.setattr(runs, "build_program", lambda *_: "program")

    def start(told):
        dit = types.SimpleNamespace(longest_clip=told)
        run = types.SimpleNamespace(
            plan=None, run=types.SimpleNamespace(seed=0), captions=None, optim=None, parallel=None,
            data=types.SimpleNamespace(cache="cache"), denoising=types.SimpleNamespace(dit=dit),
        )  # fmt: skip
        return runs.denoiser_program(run, None)[0]

    assert start(0) == start(300) == "program"
    with pytest.raises(BadInput, match="longest_clip: 299; a clip of the cache has 300 tokens"):
        start(299)
