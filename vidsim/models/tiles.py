"""Large pictures through the decoder in tiles, exactly: memory no longer grows with the picture.

A pixel depends on latents within the decoder's reach. Each tile is decoded with that much around
it, which is thrown away afterwards; at the picture's own border there is nothing around it, as
there is nothing when the picture is decoded whole. So the tiles are the whole, up to the rounding
of sums in another order. All tiles of a picture have one shape and compile once.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from vidsim.core.errors import bad
from vidsim.models.codec import CodecConfig, Progress, decode_clips
from vidsim.models.vae import Tree, Vae
from vidsim.models.vae_config import VaeConfig

Span = tuple[int, int]


def decoder_reach(cfg: VaeConfig) -> int:
    """Latent positions to each side of its own that a decoded pixel depends on.

    Raises  BadInput for a decoder with attention, where every pixel depends on the whole frame
    """
    if cfg.middle and cfg.mid_attention:
        raise bad("decode in tiles", "an autoencoder that attends in the whole frame",
                  "one with mid_attention=False", "ask for a smaller picture")  # fmt: skip
    reach, scale = Fraction(1 + (4 if cfg.middle else 0)), 1
    for space in (*cfg.space_down[::-1], False):
        reach += Fraction(2 * cfg.decoder_res_blocks, scale)
        if space:
            scale *= 2
            reach += Fraction(1, scale)
    return math.ceil(reach + Fraction(cfg.edge_kernel // 2, scale))


def spans(size: int, tile: int, reach: int) -> list[tuple[Span, Span]]:
    """Cuts one side into tiles.

    size, tile, reach  latent positions: of the side, kept of a tile, around it
    Returns            (first, end) that a tile covers and (first, end) that is kept of it. All
                       tiles cover equally much; the kept parts follow one another without gaps
    """
    whole = tile + 2 * reach
    if size <= whole:
        return [((0, size), (0, size))]
    made, at = [], 0
    while at < size:
        start = min(max(at - reach, 0), size - whole)
        end = size if start + whole == size else start + whole - reach
        made.append(((start, start + whole), (at, end)))
        at = end
    return made


def decode_tiled(
    vae: Vae,
    params: Tree,
    latents: Sequence[np.ndarray],
    tile: int,
    cfg: CodecConfig = CodecConfig(),  # noqa: B008 (frozen)
    progress: Progress | None = None,
) -> list[np.ndarray]:
    """As `codec.decode_clips`, in tiles of `tile` latent positions a side and what is around them.

    latents   float32 [t,h,w,c] each, raw, of any size
    tile      latent positions that a tile contributes, at least 1
    progress  called with (tiles done, tiles)
    Returns   uint8 [1 + (t - 1) * time_stride, H, W, 3] each
    Raises    BadInput as `decoder_reach`
    """
    if tile < 1:
        raise bad("decode in tiles", f"tiles of {tile} latents", "at least 1")
    reach, stride = decoder_reach(vae.cfg), vae.cfg.space_stride
    cut = [
        (i, y, x)
        for i, latent in enumerate(latents)
        for y in spans(latent.shape[1], tile, reach)
        for x in spans(latent.shape[2], tile, reach)
    ]
    pieces = [latents[i][:, slice(*y[0]), slice(*x[0])] for i, y, x in cut]
    decoded = decode_clips(vae, params, pieces, cfg, progress)
    videos = [
        np.empty((1 + (n - 1) * vae.cfg.time_stride, h * stride, w * stride, 3), np.uint8)
        for n, h, w in (latent.shape[:3] for latent in latents)
    ]
    for (i, y, x), piece in zip(cut, decoded, strict=True):
        to_h, to_w = (slice(a * stride, b * stride) for a, b in (y[1], x[1]))
        from_h, from_w = (
            slice((kept[0] - seen[0]) * stride, (kept[1] - seen[0]) * stride)
            for seen, kept in (y, x)
        )
        videos[i][:, to_h, to_w] = piece[:, from_h, from_w]
    return videos
