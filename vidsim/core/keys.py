"""Named random streams on the device, keyed by (seed, name, step, clip), never by a position."""

import zlib

import jax
import jax.numpy as jnp


def stream(seed: int | jax.Array, name: str, *ints: int | jax.Array) -> jax.Array:
    """The key of stream `name` under `seed`, further keyed by integers such as the step.

    seed     int or uint32[]; may be traced
    ints     ints or int32[]/uint32[] scalars; may be traced
    Returns  key[]
    """
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
    for value in ints:
        key = jax.random.fold_in(key, value)
    return key


def per_clip(key: jax.Array, clip_key: jax.Array) -> jax.Array:
    """One key for each clip: folds clip_key u32[...] into key[]. Returns key[...]."""
    flat = jax.vmap(lambda c: jax.random.fold_in(key, c))(clip_key.reshape(-1))
    return flat.reshape(clip_key.shape)


def clip_uniform(key: jax.Array, clip_key: jax.Array) -> jax.Array:
    """f32[...] in [0, 1), one for each clip key u32[...]."""
    flat = jax.vmap(jax.random.uniform)(per_clip(key, clip_key).reshape(-1))
    return flat.reshape(clip_key.shape)


def token_normal(key: jax.Array, clip_key: jax.Array, index: jax.Array, width: int) -> jax.Array:
    """Standard normal noise of a token, keyed by its clip and its index in the clip.

    clip_key  u32[R,N] the key of the token's clip
    index     i32[R,N] raster index of the token in its clip
    width     numbers a token
    Returns   f32[R,N,width]
    """

    def one(clip: jax.Array, token: jax.Array) -> jax.Array:
        return jax.random.normal(
            jax.random.fold_in(jax.random.fold_in(key, clip), token), (width,), jnp.float32
        )

    # Row by row: flattened, tokens that lie on several devices would be gathered first.
    return jax.vmap(jax.vmap(one))(clip_key, index)
