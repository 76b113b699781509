"""Latents to patch tokens and back, on arrays of jax or numpy; see `vidsim.core.patching`."""

from vidsim.core.patching import patchify, token_grid, token_positions, unpatchify

__all__ = ["patchify", "token_grid", "token_positions", "unpatchify"]
