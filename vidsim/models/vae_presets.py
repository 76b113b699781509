"""Named shapes of video autoencoders."""

from vidsim.core.errors import bad, nearest
from vidsim.models.vae_config import VaeConfig

PRESETS: dict[str, VaeConfig] = {
    # public weights fit these two (norm_eps: theirs is 1e-12 of the norm itself)
    "wan21": VaeConfig(norm_eps=1e-12),
    "wan22": VaeConfig(
        latent_channels=48, base_dim=160, decoder_dim=256, time_down=(False, True, True),
        patch=(1, 2, 2), residual=True, norm_eps=1e-12,
    ),
    # seconds to compile, for tests and debugging: stride 4x8x8
    "tiny": VaeConfig(
        latent_channels=4, base_dim=16, dim_mult=(1, 2), num_res_blocks=1, decoder_res_blocks=1,
        space_down=(True,), time_down=(True,), patch=(2, 4, 4),
    ),
    # the patch compresses, starting from principal components; convolutions sharpen: 4x16x16.
    # A token is one cell: large blocks put what is coarse into few channels of large variance.
    "laptop": VaeConfig(
        latent_channels=208, base_dim=128, dim_mult=(1,), num_res_blocks=1, decoder_res_blocks=1,
        space_down=(), time_down=(), patch=(4, 16, 16), middle=False, edge_kernel=1, linear=True,
        mid_attention=False,
    ),
}  # fmt: skip


def preset(name: str) -> VaeConfig:
    """The shape of that name. Raises BadInput with the nearest known name."""
    if name not in PRESETS:
        raise bad("vae preset", repr(name), nearest(name, PRESETS))
    return PRESETS[name]
