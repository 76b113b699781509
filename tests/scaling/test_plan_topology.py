"""Names of TPU slices, and the roofline's closed forms."""

import dataclasses
import math

import pytest

from vidsim.core.errors import BadInput
from vidsim.scaling.plan_hlo import Collective, Program
from vidsim.scaling.plan_roofline import roofline, sent_bytes
from vidsim.scaling.topology import CHIPS, environment, parse_topology


@pytest.mark.parametrize(
    ("name", "chips", "devices"),
    [("v5e:4x4", 16, 16), ("v6e:1x1", 1, 1), ("v5p:4x4x4", 64, 64), ("V5P:4X4X12", 192, 192),
     ("tpu7x:4x4x4", 64, 128), ("ironwood:2x2x1", 4, 8)],
)  # fmt: skip
def test_names_give_chips_and_devices(name, chips, devices):
    found = parse_topology(name)
    assert (found.chips, found.devices) == (chips, devices)
    assert parse_topology(name, 3).chips == 3 * chips


@pytest.mark.parametrize(
    ("name", "listed"),
    [("v7:4x4", "v5e, v5p, v6e, tpu7x"), ("v5e", "1x1, 2x2, 2x4"), ("v5e:4x4x4", "16x16"),
     ("v5p:4x4", "4x4x8"), ("v5p:8x4x4", "4x4x8"), ("v5p:4x4x6", "4x4x8"),
     ("v5p:16x16x28", "16x16x24"), ("v6e:32x32", "16x16"), ("v6e:ax4", "2x4")],
)  # fmt: skip
def test_names_that_do_not_exist_list_those_that_do(name, listed):
    with pytest.raises(BadInput, match="--topology") as error:
        parse_topology(name)
    assert listed in str(error.value) and "\n" not in str(error.value)


def test_only_whole_cubes_and_full_sides_wrap_around():
    wraps = {name: parse_topology(name).wrap for name in
             ("v5p:4x4x4", "v5p:2x4x4", "v5e:8x16", "v5e:16x16", "v6e:8x8")}  # fmt: skip
    assert wraps == {
        "v5p:4x4x4": (True,) * 3, "v5p:2x4x4": (False,) * 3, "v5e:8x16": (False, True, False),
        "v5e:16x16": (True, True, False), "v6e:8x8": (False,) * 3,
    }  # fmt: skip


def test_a_program_can_use_no_more_than_the_chip_has():
    """v5p alone says 95 GiB for what software may use of 96 physical ones."""
    for chip in CHIPS.values():
        most = 96 * 2**30 if chip.name == "v5p" else chip.hbm_bytes
        assert 0.9 * chip.hbm_bytes < chip.usable_bytes <= most


def test_roofline_is_the_largest_of_four_times():
    """One v5p cube: 64 chips of 459e12 FLOP/s, 2765e9 B/s of memory, 600e9 of links, 6.25e9 out."""
    cube = parse_topology("v5p:4x4x4")
    r = roofline(cube, flops=64 * 459e12, io_bytes=2765e9 / 2, ici_bytes=600e9 / 4,
                 dcn_bytes=6.25e9 / 8, mfu=0.5)  # fmt: skip
    assert (r.compute_s, r.hbm_s, r.ici_s, r.dcn_s) == pytest.approx((1, 0.5, 0.25, 0.125))
    assert (r.lower_s, r.bound, r.at_mfu_s) == (1.0, "compute", 2.0)
    slow = roofline(cube, 64 * 459e12, 2765e9 * 3, 0, 0, mfu=0.5)
    assert (slow.bound, slow.lower_s, slow.at_mfu_s) == ("hbm", 3.0, 3.0)


def test_a_chip_of_two_devices_has_one_memory_and_one_set_of_links():
    r = roofline(parse_topology("tpu7x:2x2x1"), 4 * 2307e12, 7380e9, 600e9, 0, mfu=1.0)
    assert (r.compute_s, r.hbm_s, r.ici_s) == pytest.approx((1, 2, 2))


@pytest.mark.parametrize("mfu", [0.0, 1.01, math.nan])
def test_an_impossible_utilisation_is_refused(mfu):
    with pytest.raises(BadInput, match="--mfu"):
        roofline(parse_topology("v5e:2x2"), 1, 1, 1, 1, mfu=mfu)


def test_bytes_between_slices_go_over_the_network():
    two = parse_topology("v5e:2x2", 2)  # devices 0 to 3 and 4 to 7
    inside = Collective("all-gather", 400, 3, (0, 1, 2, 3), 4)
    across = Collective("all-reduce", 100, 1, (0, 4), 2)
    assert sent_bytes(Program((inside, across), 0, 0), two) == (900.0, 100.0)
    one = dataclasses.replace(two, slices=1, shape=(2, 4))
    assert sent_bytes(Program((inside, across), 0, 0), one) == (1000.0, 0.0)


def test_flags_for_one_generation_reach_no_other_and_the_users_own_hold():
    given = {"HOME": "/h", "LIBTPU_INIT_ARGS": "--mine=1"}
    v5p = environment(parse_topology("v5p:2x2x1"), given)
    assert v5p["LIBTPU_INIT_ARGS"] == "--mine=1" and v5p["HOME"] == "/h"
    assert "LIBTPU_INIT_ARGS" not in environment(parse_topology("v6e:2x4"), {})
    tpu7x = environment(parse_topology("ironwood:2x2x1"), given)["LIBTPU_INIT_ARGS"]
    assert "offload_all_reduce=false" in tpu7x and tpu7x.endswith(" --mine=1")
    whole = environment(parse_topology("tpu7x:2x2x1"), given)
    assert environment(parse_topology("tpu7x:2x2x1"), whole) == whole
    assert given["LIBTPU_INIT_ARGS"] == "--mine=1"
