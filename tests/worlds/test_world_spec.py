"""Finding and building worlds: options, specifications, refusals."""

import pytest

from vidsim.core.errors import BadInput
from vidsim.worlds import base


def test_a_shapes_world_is_a_world():
    assert isinstance(base.make("shapes"), base.World)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"split": "heldout", "seed": 7, "size": 30},
        {"sizes": ((48, 48), (64, 96)), "size_weights": (1.0, 3.0), "frames": (1, 9)},
        {"mix": "small", "objects": 2},
    ],
)
def test_a_specification_rebuilds_the_same_world(options):
    world = base.make("shapes", **options)
    again = base.from_spec(world.spec)
    assert again == world
    assert again.info(3) == world.info(3)


def test_a_specification_reads_numbers_lists_and_sizes():
    world = base.from_spec("world:shapes?split=all&seed=3&size=12&sizes=64x96,48x48&frames=1,9")
    assert (world.split, world.seed, len(world)) == ("all", 3, 12)
    assert world.sizes == ((64, 96), (48, 48)) and world.frames == (1, 9)


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("shape", "shapes"),
        ("shapes?spilt=train", "split"),
        ("shapes?split=test", "heldout"),
        ("shapes?mix=mixd", "mixed"),
        ("shapes?size=many", "numbers"),
        ("shapes?size=0", "1 clip"),
        ("shapes?sizes=50x64", "nearest 48x64"),
        ("shapes?sizes=32x64", "nearest 48x64"),
        ("shapes?sizes=48x160", "nearest 80x160"),
        ("shapes?frames=4", "1, 5, 9, 17, 25, 33"),
        ("shapes?objects=4", "1 to 3"),
        ("shapes?frames=1,9&frame_weights=1", "2 numbers"),
        ("shapes?size=3&size=4", "name?option=value"),
    ],
)
def test_bad_specifications_are_refused_in_one_line_with_a_hint(spec, hint):
    with pytest.raises(BadInput) as caught:
        base.from_spec(spec)
    assert hint in str(caught.value) and "\n" not in str(caught.value)


def test_bad_prompts_are_refused():
    world = base.make("shapes")
    with pytest.raises(BadInput, match="did you mean 'colour'"):
        world.scene_for(0, height=64, width=64, num_frames=9, color="red")
    with pytest.raises(BadInput, match="did you mean 'orange'"):
        world.scene_for(0, height=64, width=64, num_frames=9, colour="orang")
    with pytest.raises(BadInput, match="nearest 64x64"):
        world.scene_for(0, height=64, width=60, num_frames=9)
