"""Shape of a video autoencoder, and named shapes."""

import dataclasses
import math
from typing import Any

from vidsim.core.errors import bad, nearest
from vidsim.core.precision import compute_dtype
from vidsim.nn.conv import METHODS


@dataclasses.dataclass(frozen=True)
class VaeConfig:
    """Causal convolutional video autoencoder in the family of Wan 2.1 and 2.2 (arXiv:2503.20314).

    latent_channels     numbers per latent position
    base_dim            width of the first encoder stage
    decoder_dim         width of the last decoder stage; None = base_dim
    dim_mult            width of each stage over base_dim, finest stage first
    num_res_blocks      residual blocks in each encoder stage
    decoder_res_blocks  residual blocks in each decoder stage
    space_down          between stage i and i+1: halve height and width
    time_down           between stage i and i+1: halve the frame rate
    patch               (frames, rows, columns) of pixels folded into channels before the encoder;
                        a clip's first frame has a block of its own (repeated to fill it)
    middle              residual blocks (and attention) between the stages of each half
    edge_kernel         3, or 1 where a large patch makes the outermost convolutions too wide
    linear              a linear map of each block beside the convolutions, which then learn what it
                        leaves over (vae_linear.py starts it at the principal components); only
                        where the patch does all of the compression
    mid_attention       attention inside each frame at the coarsest stage
    residual            shortcuts without weights around each change of size (Wan 2.2)
    norm_eps            added to the mean square in the channel norms
    dtype               operands of convolutions and products: float32 or bfloat16
    conv                how 3x3 convolutions are computed: taps or winograd (float32 on CPU)
    """

    latent_channels: int = 16
    base_dim: int = 96
    decoder_dim: int | None = None
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    decoder_res_blocks: int = 3
    space_down: tuple[bool, ...] = (True, True, True)
    time_down: tuple[bool, ...] = (False, True, True)
    patch: tuple[int, int, int] = (1, 1, 1)
    middle: bool = True
    edge_kernel: int = 3
    linear: bool = False
    mid_attention: bool = True
    residual: bool = False
    norm_eps: float = 1e-6
    dtype: str = "float32"
    conv: str = "taps"

    def __post_init__(self) -> None:
        where = "VaeConfig"
        compute_dtype(self.dtype, f"{where}.dtype")
        steps = len(self.dim_mult) - 1
        for name in ("space_down", "time_down"):
            if len(getattr(self, name)) != steps:
                what = f"{len(getattr(self, name))} entries for {steps + 1} stages"
                raise bad(f"{where}.{name}", what, f"{steps} entries", "one less than dim_mult")
        for name in ("latent_channels", "base_dim", "num_res_blocks", "decoder_res_blocks"):
            if getattr(self, name) < 1:
                raise bad(f"{where}.{name}", f"{getattr(self, name)}", "at least 1")
        if len(self.patch) != 3 or min(self.patch) < 1 or self.patch[1] != self.patch[2]:
            raise bad(f"{where}.patch", f"{self.patch}", "(frames, n, n), each at least 1")
        if min(self.dim_mult, default=0) < 1:
            raise bad(f"{where}.dim_mult", f"{self.dim_mult}", "multipliers of at least 1")
        if self.linear and steps:
            what = f"with {steps + 1} stages"
            raise bad(f"{where}.linear", what, "one stage", "let the patch do the compression")
        if self.edge_kernel not in (1, 3):
            raise bad(f"{where}.edge_kernel", f"{self.edge_kernel}", "1 or 3")
        if self.conv not in METHODS:
            raise bad(f"{where}.conv", repr(self.conv), nearest(self.conv, METHODS))
        if self.conv == "winograd" and self.dtype != "float32":
            raise bad(f"{where}.conv", "winograd in bfloat16 loses bits", "float32", "conv='taps'")
        self._check_widths()

    def _check_widths(self) -> None:
        for name, widths in (("encoder", self.encoder_widths), ("decoder", self.decoder_widths)):
            spaces, times = self.space_down, self.time_down
            if name == "decoder":
                spaces, times = spaces[::-1], times[::-1]
            for i, (cin, cout) in enumerate(zip(widths, widths[1:], strict=False)):
                space, time = (*spaces, False)[i], (*times, False)[i]
                volume = (1 + time) * (1 + space) ** 2
                big, small = (cin * volume, cout) if name == "encoder" else (cout * volume, cin)
                shortcut = self.residual and (name == "encoder" or volume > 1)
                if shortcut and big % small:
                    what = f"{name} stage {i} has widths {cin} to {cout} and a change of {volume}"
                    raise bad("VaeConfig.residual", what, f"{small} must divide {big}")
                if name == "decoder" and space and not self.residual and cout % 2:
                    what = f"decoder stage {i} has width {cout}"
                    raise bad("VaeConfig.decoder_dim", what, "an even number")

    @property
    def edge(self) -> tuple[int, int, int]:
        """Kernel of the convolutions that face pixels."""
        return (self.edge_kernel,) * 3

    @property
    def compute(self) -> Any:
        """The dtype of convolution operands."""
        return compute_dtype(self.dtype)

    @property
    def time_stride(self) -> int:
        """Frames per latent frame, after the first."""
        return self.patch[0] * 2 ** sum(self.time_down)

    @property
    def space_stride(self) -> int:
        """Pixels per latent position, in height and in width."""
        return self.patch[1] * 2 ** sum(self.space_down)

    @property
    def pixel_channels(self) -> int:
        """Numbers per position after folding RGB."""
        return 3 * math.prod(self.patch)

    @property
    def encoder_widths(self) -> tuple[int, ...]:
        """Width before the first stage, then after each stage."""
        return tuple(self.base_dim * m for m in (self.dim_mult[0], *self.dim_mult))

    @property
    def decoder_widths(self) -> tuple[int, ...]:
        """Width before the first decoder stage (the coarsest), then after each."""
        base = self.decoder_dim or self.base_dim
        return tuple(base * m for m in (self.dim_mult[-1], *self.dim_mult[::-1]))
