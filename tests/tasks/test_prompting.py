"""Dropped captions leave one token, neighbours untouched, segments in order, padding at the end."""

import jax.numpy as jnp
import numpy as np
import pytest

from vidsim.tasks.prompting import drop_captions

BOS = 1


def _rows():
    """Two rows: captions of 4, 1, 3 tokens and of 2, 5 tokens; 10 places, 3 slots."""
    lengths, ids, segment, position = [[4, 1, 3], [2, 5]], [], [], []
    for row, counts in enumerate(lengths):
        parts = [[BOS, *range(100 * row + 10 * s, 100 * row + 10 * s + n - 1)] for s, n in
                 enumerate(counts, 1)]  # fmt: skip
        blank = [0] * (10 - sum(counts))
        ids.append(sum(parts, []) + blank)
        segment.append(sum(([s] * n for s, n in enumerate(counts, 1)), []) + blank)
        position.append(sum((list(range(n)) for n in counts), []) + blank)
    names = ("text_ids", "text_segment", "text_position")
    return {
        k: jnp.asarray(v, jnp.int32) for k, v in zip(names, (ids, segment, position), strict=True)
    }


def _slow(rows, dropped, value):
    """What is left, caption by caption, in plain lists of (segment, position, value)."""
    out = []
    for row in range(2):
        kept = []
        for n in range(10):
            s, p = int(rows["text_segment"][row, n]), int(rows["text_position"][row, n])
            if s and not (dropped[row][s - 1] and p > 0):
                kept.append((s, p, value(row, n, dropped[row][s - 1])))
        out.append(kept)
    return out


@pytest.mark.parametrize(
    "dropped",
    [
        [[False] * 3, [False] * 3],
        [[True, False, False], [False, True, False]],
        [[False, True, True], [True, False, False]],
        [[True] * 3, [True] * 3],
    ],
)
def test_byte_captions(dropped):
    rows = _rows()
    made = drop_captions(rows, jnp.asarray(dropped))
    want = _slow(rows, dropped, lambda row, n, gone: int(rows["text_ids"][row, n]))
    for row in range(2):
        n = len(want[row])
        got = list(
            zip(
                *(np.asarray(made[k][row])[:n].tolist() for k in
                  ("text_segment", "text_position", "text_ids")),
                strict=True,
            )
        )  # fmt: skip
        assert got == want[row]
        for name in made:
            assert not np.asarray(made[name])[row, n:].any(), "the rest is padding"
        assert (np.diff(np.asarray(made["text_segment"])[row, :n]) >= 0).all()
        # every clip keeps at least one token, and a dropped one keeps BOS
        owners = set(np.asarray(made["text_segment"])[row, :n].tolist())
        assert owners == {s for s, _, _ in want[row]} == set(range(1, [3, 2][row] + 1))


def test_a_dropped_caption_equals_an_empty_one():
    rows = _rows()
    made = drop_captions(rows, jnp.asarray([[True, False, False], [False] * 3]))
    short = {k: np.asarray(v)[0] for k, v in made.items()}
    np.testing.assert_array_equal(short["text_ids"][:2], [BOS, BOS])  # segment 2 is empty already
    np.testing.assert_array_equal(short["text_segment"][:2], [1, 2])
    np.testing.assert_array_equal(short["text_position"][:2], [0, 0])


def test_frozen_captions_become_the_learned_vector():
    rows = _rows()
    text = np.random.default_rng(0).normal(size=(2, 10, 6)).astype(np.float32)
    null = np.arange(6, dtype=np.float32)
    frozen = {k: v for k, v in rows.items() if k != "text_ids"} | {"text": jnp.asarray(text)}
    dropped = [[True, False, True], [False, True, False]]
    made = drop_captions(frozen, jnp.asarray(dropped), jnp.asarray(null))
    want = _slow(rows, dropped, lambda row, n, gone: null if gone else text[row, n])
    for row in range(2):
        for n, (s, p, vector) in enumerate(want[row]):
            assert int(made["text_segment"][row, n]) == s
            assert int(made["text_position"][row, n]) == p
            np.testing.assert_array_equal(made["text"][row, n], vector)
        assert not np.asarray(made["text"])[row, len(want[row]) :].any()
