"""Shape of the denoiser, named shapes, and what a token costs."""

import dataclasses

from vidsim.core.errors import bad, nearest
from vidsim.core.precision import compute_dtype
from vidsim.nn.attention import IMPLEMENTATIONS
from vidsim.nn.rope import axis_widths
from vidsim.nn.stack import check_policies

PLACE_WAVES = 8  # half waves over a side of the frame or the clip's duration, in the place
# Fields that say how the network is computed; the others say which network it is.
HOW = frozenset({"dtype", "attention", "longest_clip", "remat", "loop"})


@dataclasses.dataclass(frozen=True)
class DiTConfig:
    """Diffusion transformer in the shape of Wan 2.1 (arXiv:2503.20314 sec. 4.2).

    patch_width      P, numbers of one patch in and out
    text_width       numbers of one text token
    width            D
    heads            A; a head has width / heads numbers
    mlp_width        F
    layers           L
    freq_width       numbers of the sinusoids of time, frame rate and size
    cross_norm       layer norm with scale and shift before cross-attention
    qk_norm          RMS norm over the full width of queries and keys
    eps              of every norm
    theta            base of the rotary rates
    clip_embedding   frame rate and size of a token's clip are added to it
    place_embedding  where in the clip a token lies, as a share of its height, width and duration,
                     is added to it (fractional positions, arXiv:2307.06304 sec. 2.1); rotary
                     positions alone tell no token how far it is from the frame's border, nor
                     whether it is of the first or the last frame
    pooled_text      the mean of a caption's tokens is added to each token of its clip, beside the
                     cross-attention (pooled captions of arXiv:2403.03206 sec. 4, which modulate)
    self_condition   the network also reads what it last said of the same clip, nothing at first
                     (arXiv:2208.04202 sec. 3): cells that decided together need not decide anew
    num_actions      actions 1..num_actions are added to their tokens; 0 = the model has none
    dtype            operands of products and the residual stream: float32 or bfloat16
    attention        an implementation of vidsim.nn.attention, or auto. Where a row's tokens are
                     split, ring_blocks sends keys and values round in a ring; every other one
                     exchanges tokens for heads, so heads must divide
    longest_clip     most tokens of a clip that attention must reach, 0 = a whole row; kernels with
                     tables (TPU) skip what lies farther apart, and a longer clip gives NaN
    remat            none, full or save_attention
    loop             scan (one block is compiled) or unroll (all are; see vidsim.nn.stack)
    """

    patch_width: int = 64
    text_width: int = 128
    width: int = 256
    heads: int = 4
    mlp_width: int = 1024
    layers: int = 6
    freq_width: int = 256
    cross_norm: bool = True
    qk_norm: bool = True
    eps: float = 1e-6
    theta: float = 10_000.0
    clip_embedding: bool = True
    place_embedding: bool = False
    pooled_text: bool = False
    self_condition: bool = False
    num_actions: int = 0
    dtype: str = "float32"
    attention: str = "auto"
    longest_clip: int = 0
    remat: str = "none"
    loop: str = "scan"

    def __post_init__(self) -> None:
        where = "DiTConfig"
        for name in ("patch_width", "text_width", "width", "heads", "mlp_width", "layers"):
            if getattr(self, name) < 1:
                raise bad(f"{where}.{name}", f"{getattr(self, name)}", "at least 1")
        if self.width % self.heads:
            raise bad(f"{where}.width", f"{self.width}", f"a multiple of heads={self.heads}")
        axis_widths(self.head_width)
        if self.freq_width < 2 or self.freq_width % 2:
            raise bad(f"{where}.freq_width", f"{self.freq_width}", "even, at least 2")
        if self.num_actions < 0:
            raise bad(f"{where}.num_actions", f"{self.num_actions}", "0 or more")
        compute_dtype(self.dtype, f"{where}.dtype")
        if self.longest_clip < 0:
            raise bad(f"{where}.longest_clip", f"{self.longest_clip}", "0 or more")
        if self.attention not in (*IMPLEMENTATIONS, "auto"):
            known = nearest(self.attention, (*IMPLEMENTATIONS, "auto"))
            raise bad(f"{where}.attention", repr(self.attention), known)
        check_policies(self.remat, self.loop)

    @property
    def head_width(self) -> int:
        """E."""
        return self.width // self.heads

    def differs(self, other: "DiTConfig") -> str:
        """The first field in which they are not the same network, "" when they are."""
        fields = sorted({field.name for field in dataclasses.fields(self)} - HOW)
        return next((f for f in fields if getattr(self, f) != getattr(other, f)), "")


@dataclasses.dataclass(frozen=True)
class MatmulFlops:
    """Forward floating-point operations in matrix products (a multiply-add counts two).

    A pair is a query and a key that attend: within a clip n^2 of its n patch tokens, and across
    n x m with its m text tokens. Backward costs twice the forward; recomputation is extra.
    """

    patch_token: float
    text_token: float
    level: float
    self_pair: float
    cross_pair: float


def matmul_flops(cfg: DiTConfig) -> MatmulFlops:
    """Operations per patch token, text token, noise level and attended pair, all blocks."""
    d, f, blocks = cfg.width, cfg.mlp_width, cfg.layers
    inputs = cfg.patch_width * (1 + cfg.self_condition)
    inputs += 6 * PLACE_WAVES if cfg.place_embedding else 0
    return MatmulFlops(
        patch_token=2.0 * ((inputs + cfg.patch_width) * d + blocks * (6 * d * d + 2 * d * f)),
        text_token=2.0 * (cfg.text_width * d + d * d + blocks * 2 * d * d),
        level=2.0 * (cfg.freq_width * d + 7 * d * d),
        self_pair=4.0 * d * blocks,
        cross_pair=4.0 * d * blocks,
    )


def _wan(width: int, layers: int, heads: int, mlp_width: int, patch_width: int) -> DiTConfig:
    return DiTConfig(
        patch_width=patch_width, text_width=4096, width=width, heads=heads, mlp_width=mlp_width,
        layers=layers, dtype="bfloat16", remat="save_attention",
    )  # fmt: skip


PRESETS: dict[str, DiTConfig] = {
    # public weights fit the wan shapes
    "wan-1.3b": _wan(1536, 30, 12, 8960, 64),
    "wan-5b": _wan(3072, 30, 24, 14336, 192),
    "wan-14b": _wan(5120, 40, 40, 13824, 64),
    "tiny": DiTConfig(width=64, heads=2, mlp_width=128, layers=2, freq_width=32, text_width=32),
    "laptop-s": DiTConfig(width=192, heads=4, mlp_width=768, layers=6),
    "laptop-m": DiTConfig(width=256, heads=4, mlp_width=1024, layers=8),
}


def preset(name: str) -> DiTConfig:
    """The shape of that name. Raises BadInput with the nearest known name."""
    if name not in PRESETS:
        raise bad("dit preset", repr(name), nearest(name, PRESETS))
    return PRESETS[name]
