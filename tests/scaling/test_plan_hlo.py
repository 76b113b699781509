"""Collectives read from hand-written HLO text; every number below is counted by hand."""

import pathlib

import pytest

from vidsim.scaling.plan_hlo import read_hlo

MESH = {"data": 2, "fsdp": 4, "context": 1, "tensor": 1}

# 8 devices. The loop runs 5 times by its annotation, the other 3 times by its condition.
TEXT = (pathlib.Path(__file__).parent / "collectives.hlo.txt").read_text()


@pytest.fixture(scope="module")
def program():
    return read_hlo(TEXT)


def _of(program, kind):
    return [c for c in program.collectives if c.kind == kind]


def test_runs_multiply_by_the_loops_around_them(program):
    inner = next(c for c in _of(program, "all-gather") if c.bytes == 8 * 1024 * 2)
    assert inner.times == 5 + 3 + 1  # annotated, by condition, of unknown length
    assert program.unknown_loops == 1


def test_bytes_are_those_of_the_larger_side(program):
    assert sorted(c.bytes for c in _of(program, "all-gather")) == [16 * 8 * 4, 8 * 1024 * 2]
    assert [c.bytes for c in _of(program, "all-to-all")] == [16 * 4]
    assert [c.bytes for c in _of(program, "collective-permute")] == [6 * 4]
    assert [c.bytes for c in _of(program, "all-reduce")] == [(10 + 20) * 4]
    fused, plain = sorted(_of(program, "reduce-scatter"), key=lambda c: -c.bytes)
    assert fused.bytes == 1024 * 64 * 2, "a sum that is cut at once counts as reduce-scatter"
    assert plain.bytes == 4 * 4 * 4, "four devices' parts of 16 bytes"


def test_groups_name_their_mesh_axes(program):
    inner, outer = sorted(_of(program, "all-gather"), key=lambda c: -c.bytes)
    assert (inner.size, inner.axes(MESH)) == (4, ("fsdp",))
    assert (outer.size, outer.axes(MESH)) == (8, ("data", "fsdp"))
    swap = _of(program, "all-to-all")[0]  # [2,4] transposed: devices 0 and 4
    assert (swap.size, swap.group, swap.axes(MESH)) == (2, (0, 4), ("data",))
    assert _of(program, "collective-permute")[0].axes(MESH) == ("data",)
    assert _of(program, "all-reduce")[0].axes(MESH) == ("fsdp",)


def test_sent_bytes_are_those_of_a_ring(program):
    inner = max(_of(program, "all-gather"), key=lambda c: c.bytes)
    assert inner.sent == pytest.approx(16384 * 3 / 4)
    assert _of(program, "all-reduce")[0].sent == pytest.approx(2 * 120 * 3 / 4)
    assert _of(program, "collective-permute")[0].sent == 24
    assert _of(program, "all-to-all")[0].sent == pytest.approx(64 / 2)


def test_groups_of_one_device_move_nothing(program):
    assert len(_of(program, "all-reduce")) == 1


def test_totals_by_kind_and_the_largest(program):
    rows = program.by_kind()
    assert rows["all-gather"]["count"] == 9 + 1
    assert rows["all-gather"]["bytes"] == 9 * 16384 + 512
    assert program.largest().kind == "reduce-scatter"
    assert program.kernels == 1


def test_text_after_a_kernel_is_read():
    """Configurations of kernels hold lines that begin with }, which end no computation."""
    text = TEXT.replace(
        "  ROOT %out",
        "  %last = f32[9]{0} all-reduce(%p), replica_groups={{0,1}}, to_apply=%add\n  ROOT %out",
    )
    assert 36 in [c.bytes for c in _of(read_hlo(text), "all-reduce")]
