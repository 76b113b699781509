"""Shared test setting: eight virtual CPU devices, strict ranks, no network, quick compiles."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Most of a test's time is compiling: the first level of optimization halves it, same mathematics.
for flag, value in (
    ("--xla_force_host_platform_device_count", 8),
    ("--xla_backend_optimization_level", 1),
):
    if flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}={value}".strip()

import jax  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
