"""Slices: what exists, and what the clouds call it."""

import pytest

from vidsim.core.errors import BadInput
from vidsim.launch.shape import CLOUDS, parse_shape
from vidsim.scaling.topology import CHIPS


@pytest.mark.parametrize(
    ("text", "accelerator", "chips", "hosts"),
    [  # rows of Cloud TPU's tables of configurations
        ("v5e:2x2", "v5litepod-4", 4, 1),
        ("v5e:2x4", "v5litepod-8", 8, 1),
        ("v5e:4x4", "v5litepod-16", 16, 4),
        ("v5e:16x16", "v5litepod-256", 256, 64),
        ("v5p:2x2x1", "v5p-8", 4, 1),
        ("v5p:4x4x4", "v5p-128", 64, 16),
        ("v5p:4x8x8", "v5p-512", 256, 64),
        ("v5p:8x8x16", "v5p-2048", 1024, 256),
        ("v6e:4x8", "v6e-32", 32, 8),
        ("v6e:1x1", "v6e-1", 1, 1),
    ],
)
def test_published_slices(text, accelerator, chips, hosts):
    shape = parse_shape(text)
    assert (shape.accelerator, shape.chips, shape.hosts) == (accelerator, chips, hosts)
    assert shape.devices == chips and str(shape) == text


def test_what_can_be_planned_can_be_launched():
    assert set(CLOUDS) == set(CHIPS)


def test_a_chip_of_ironwood_is_two_devices():
    assert parse_shape("tpu7x:2x2x1").devices == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v5litepod:4x4", "known: v5e, v5p, v6e, tpu7x"),
        ("v5e", "v5e:4x4, v5p:4x4x4, gpu:2x8, cpu:2"),
        ("v5e:4x-4", "v5e has 1x1"),
        ("v5e:3x5", "1x1, 2x2, 2x4, 4x4"),
        ("v5p:8x4x4", "multiples of 4x4x4"),
        ("cpu:0", "cpu:HOSTSxDEVICES"),
        ("gpu:", "gpu:HOSTSxDEVICES"),
        ("gpu:2x8x3", "gpu:HOSTSxDEVICES"),
    ],
)
def test_slices_that_do_not_exist(text, message):
    with pytest.raises(BadInput, match=message):
        parse_shape(text)


def test_a_slice_without_a_name_of_its_own():
    """v5p-512 is 4x8x8; another shape of 256 chips cannot be asked for by that name."""
    with pytest.raises(BadInput, match="4x8x8"):
        parse_shape("v5p:4x4x16").accelerator  # noqa: B018
