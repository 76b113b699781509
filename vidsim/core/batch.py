"""The packed batch: one flat dict of arrays, the only thing a denoiser ever sees (numpy or jax).

patches        f32[R,N,P]  raw latents of the pieces, patchified (pt, ph, pw, c; c fastest)
patch_segment  i32[R,N]    1..k in row order, 0 = padding, padding only at the end
patch_position i32[R,N,3]  token grid coordinates (t, y, x) inside the clip; t is REFERENCE_TIME
                           in a frame that only shows what the clip is about
midstream      f32[R,N,P]  may be absent; what a token's patch is when given away from the start
action         i32[R,N]    0 = none
text_ids       i32[R,M]    byte tokens; or text f32[R,M,E] from a frozen encoder
text_segment   i32[R,M]    as patch_segment; every segment owns at least one text token
text_position  i32[R,M]    0.. inside the caption
clip_key       u32[R,S]    key of the clip in slot s-1 of segment s; 0 = empty slot
grid           i32[R,S,3]  (t, h, w) in tokens
fps            f32[R,S]    frames a second after decimation
size           i32[R,S,2]  (height, width) of the piece in pixels
num_clips      f32[]       clips of the whole optimiser step, from the plan
num_tokens     f32[]       patch tokens of the whole optimiser step, from the plan
"""

from collections.abc import Mapping
from typing import Any

from vidsim.core.dims import check
from vidsim.core.errors import bad

REFERENCE_TIME = -4  # before every clip, wherever in its video the reference stood
LETTERS = {
    "patches": "RNP", "patch_segment": "RN", "patch_position": "RN3", "action": "RN",
    "text_segment": "RM", "text_position": "RM", "clip_key": "RS", "grid": "RS3", "fps": "RS",
    "size": "RS2", "num_clips": "", "num_tokens": "",
}  # fmt: skip
ROW_KEYS = tuple(k for k, letters in LETTERS.items() if letters) + ("text_ids", "text", "midstream")


def check_batch(batch: Mapping[str, Any]) -> dict[str, int]:
    """Checks the shapes of a packed batch; returns the size of each letter. Raises BadInput."""
    missing = sorted(set(LETTERS) - set(batch))
    if missing:
        raise bad("packed batch", f"{', '.join(missing)} missing", f"needs {', '.join(LETTERS)}")
    if ("text_ids" in batch) == ("text" in batch):
        raise bad("packed batch", "needs exactly one of text_ids and text")
    arrays = {k: (tuple(batch[k].shape), letters) for k, letters in LETTERS.items()}
    if "midstream" in batch:
        arrays["midstream"] = (tuple(batch["midstream"].shape), "RNP")
    if "text_ids" in batch:
        arrays["text_ids"] = (tuple(batch["text_ids"].shape), "RM")
    else:
        arrays["text"] = (tuple(batch["text"].shape), "RME")
    return check("packed batch", {}, **arrays)
