"""Shared test setting: eight virtual CPU devices, strict ranks, no network, quick compiles."""

import importlib.metadata
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Most of a test's time is compiling. Without optimizations, and on jaxlib 0.10 with the older of
# its two code generators, programs compile in a third of the time: same mathematics.
FLAGS = {
    "--xla_force_host_platform_device_count": "8",
    "--xla_backend_optimization_level": "0",
    "--xla_llvm_disable_expensive_passes": "true",
}
if importlib.metadata.version("jaxlib").startswith("0.10."):
    FLAGS["--xla_cpu_use_fusion_emitters"] = "false"  # later ones stop at the unknown flag
for flag, value in FLAGS.items():
    if flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}={value}".strip()

import jax  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
