"""A matrix over patches is a strided convolution, and back is the transpose of there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidsim.models.patches import patchify, token_grid, unpatchify


@pytest.mark.parametrize("patch", [(1, 2, 2), (2, 1, 3), (1, 1, 1)])
def test_a_matrix_over_patches_is_a_strided_convolution(patch):
    rng = np.random.default_rng(0)
    latent_thwc = rng.normal(size=(4, 6, 12, 3)).astype(np.float32)
    kernel = rng.normal(size=(*patch, 3, 5)).astype(np.float32)
    dims = ("NDHWC", "DHWIO", "NDHWC")
    exact = jax.lax.conv_general_dilated(
        latent_thwc[None], kernel, patch, "VALID", dimension_numbers=dims, precision="highest"
    )
    got = patchify(jnp.asarray(latent_thwc), patch) @ kernel.reshape(-1, 5)
    np.testing.assert_allclose(got, exact.reshape(-1, 5), atol=1e-5)


def test_unpatchify_inverts_and_keeps_leading_axes_under_jit():
    latent = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 4, 6, 5)), jnp.float32)
    patch = (1, 2, 3)
    grid = token_grid(latent.shape, patch)
    there_and_back = jax.jit(lambda z: unpatchify(patchify(z, patch), grid, patch))
    np.testing.assert_array_equal(there_and_back(latent), latent)
