"""Models so small that a test compiles them in a second or two."""

from vidsim.models.critic import CriticConfig

from vidsim.models.dit import DiTConfig
from vidsim.models.latents import LatentConfig
from vidsim.models.text import ByteEncoderConfig
from vidsim.models.vae import VaeConfig
from vidsim.tasks.denoising import Denoising, DenoisingConfig

P = 4
DIT = DiTConfig(
    patch_width=P, text_width=8, width=16, heads=2, mlp_width=16, layers=2, freq_width=8
)
TEXT = ByteEncoderConfig(width=8, heads=2, mlp_width=8, layers=1)
VAE = VaeConfig(
    latent_channels=3, base_dim=4, dim_mult=(1, 1), num_res_blocks=1, decoder_res_blocks=1,
    space_down=(True,), time_down=(True,), patch=(2, 2, 2), mid_attention=False,
)  # fmt: skip
CRITIC = CriticConfig()


def make_task(**changes):
    """The denoising task of the tiny models."""
    settings = {"latent": LatentConfig((1, 1, 1)), **changes}
    return Denoising(DenoisingConfig(DIT, TEXT, **settings))
