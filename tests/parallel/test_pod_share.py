"""On a slice every chip holds its share of a preset's weights and little beside it."""

import math

import jax
import pytest
from jax.sharding import AbstractMesh

from vidsim.core.trees import flatten
from vidsim.parallel.mesh import AXES, MeshConfig
from vidsim.parallel.rules import Rules, shardings
from vidsim.runs import build_run
from vidsim.scaling.presets import experiment
from vidsim.tasks.denoising import Denoising

# Norms are whole on every chip, and so are a few small tables; all else is split.
SLACK = 1.1
SLICES = {"pod": MeshConfig(data=1, fsdp=64), "host": MeshConfig(data=1, fsdp=8)}


@pytest.mark.parametrize("family", SLICES)
def test_a_chip_holds_its_share_of_the_weights(family):
    """Of the text encoder's as well as of the denoiser's."""
    task = Denoising(build_run(experiment(family, "base")).denoising)
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    sizes = SLICES[family].shape(SLICES[family].fsdp)
    places = shardings(Rules(), AbstractMesh(sizes, AXES), task.param_axes(), shapes)
    where = flatten(places)
    held = {k: math.prod(where[k].shard_shape(x.shape)) for k, x in flatten(shapes).items()}
    for part in ("dit", "text"):
        whole = sum(x.size for k, x in flatten(shapes).items() if k.startswith(f"{part}/"))
        mine = sum(n for k, n in held.items() if k.startswith(f"{part}/"))
        assert mine * SLICES[family].fsdp <= SLACK * whole, part
