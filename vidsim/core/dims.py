"""The legend of shape suffixes. A name such as `tokens_RND` states its logical dimensions.

R rows of packed tokens      B batch (clips)                L blocks
N patch tokens a row         T H W C  pixels: frames, height, width, channels
M text tokens a row          t h w c  latents: the same four
S segments (clips) a row     D width  A heads  E width of a head  F MLP width
K noise levels a row         P numbers in one patch
"""

from vidsim.core.errors import bad

LEGEND = {
    "R": "rows", "N": "patch tokens", "M": "text tokens", "S": "segments", "K": "noise levels",
    "P": "patch width", "B": "batch", "T": "frames", "H": "height", "W": "width", "C": "channels",
    "t": "latent frames", "h": "latent height", "w": "latent width", "c": "latent channels",
    "D": "model width", "A": "heads", "E": "head width", "F": "MLP width", "L": "blocks",
}  # fmt: skip


def check(
    where: str, sizes: dict[str, int], **arrays: tuple[tuple[int, ...], str]
) -> dict[str, int]:
    """Checks shapes against suffixes and returns the size of each letter.

    where    name of the caller, for the error
    sizes    letters whose size is already known
    arrays   name=(shape, letters); a digit stands for itself
    Raises   BadInput naming the array, the letter, what was found and what was expected
    """
    known = dict(sizes)
    for name, (shape, letters) in arrays.items():
        if len(shape) != len(letters):
            raise bad(where, f"{name} has shape {shape}", f"expected {len(letters)} axes {letters}")
        for size, letter in zip(shape, letters, strict=True):
            want = int(letter) if letter.isdigit() else known.setdefault(letter, size)
            if size != want:
                meaning = LEGEND.get(letter, "axis")
                raise bad(where, f"{name} has {letter}={size} {meaning}", f"expected {want}")
    return known
