"""Latents to patch tokens and back, for numpy and jax arrays alike (no jax import).

Order of tokens: (t, y, x), x fastest. Order inside a patch: (pt, ph, pw, c), c fastest.
"""

from typing import Any

import numpy as np

from vidsim.core.errors import bad


def token_grid(latent_shape: tuple[int, ...], patch: tuple[int, int, int]) -> tuple[int, int, int]:
    """(t, h, w) in tokens of a latent whose last four axes are (t, h, w, c).

    Raises  BadInput when the patch does not divide the latent
    """
    sizes = latent_shape[-4:-1]
    for name, size, p in zip("thw", sizes, patch, strict=True):
        if size % p:
            raise bad("patchify", f"latent {name}={size}", f"multiples of the patch size {p}")
    t, h, w = (size // p for size, p in zip(sizes, patch, strict=True))
    return t, h, w


def patchify(latent_thwc: Any, patch: tuple[int, int, int]) -> Any:
    """Cuts a latent into patch tokens.

    latent_thwc  [..., t, h, w, c], any dtype; leading axes are kept
    patch        (pt, ph, pw) in latent cells
    Returns      [..., n, pt*ph*pw*c] with n = t*h*w / (pt*ph*pw)
    """
    lead, c = latent_thwc.shape[:-4], latent_thwc.shape[-1]
    (t, h, w), (pt, ph, pw) = token_grid(latent_thwc.shape, patch), patch
    k = len(lead)
    split = latent_thwc.reshape(*lead, t, pt, h, ph, w, pw, c)
    order = (*range(k), k, k + 2, k + 4, k + 1, k + 3, k + 5, k + 6)
    return split.transpose(order).reshape(*lead, t * h * w, pt * ph * pw * c)


def unpatchify(patches_NP: Any, grid: tuple[int, int, int], patch: tuple[int, int, int]) -> Any:
    """The inverse of `patchify`.

    patches_NP  [..., n, P]
    grid        (t, h, w) in tokens, t*h*w = n
    Returns     [..., t*pt, h*ph, w*pw, c]
    Raises      BadInput when n or P do not match the grid and the patch
    """
    lead, (n, width) = patches_NP.shape[:-2], patches_NP.shape[-2:]
    (t, h, w), (pt, ph, pw) = grid, patch
    if n != t * h * w or width % (pt * ph * pw):
        raise bad(
            "unpatchify",
            f"patches [{n}, {width}]",
            f"grid {tuple(grid)} needs {t * h * w} tokens and a multiple of {pt * ph * pw} numbers",
        )
    c, k = width // (pt * ph * pw), len(lead)
    split = patches_NP.reshape(*lead, t, h, w, pt, ph, pw, c)
    order = (*range(k), k, k + 3, k + 1, k + 4, k + 2, k + 5, k + 6)
    return split.transpose(order).reshape(*lead, t * pt, h * ph, w * pw, c)


def token_positions(grid: tuple[int, int, int]) -> np.ndarray:
    """i32[n, 3]: the (t, y, x) of each token of a clip, in token order."""
    t, h, w = grid
    positions_N3 = np.empty((t, h, w, 3), np.int32)
    positions_N3[..., 0] = np.arange(t, dtype=np.int32)[:, None, None]
    positions_N3[..., 1] = np.arange(h, dtype=np.int32)[:, None]
    positions_N3[..., 2] = np.arange(w, dtype=np.int32)
    return positions_N3.reshape(t * h * w, 3)
