"""Published peak rates of accelerators, one table for plans and for what runs report."""

# bfloat16 operations a second of a TPU chip. Read on 2026-11-21 at
# https://docs.cloud.google.com/tpu/docs/NAME
TPU_CHIP_FLOPS = {"v4": 275e12, "v5e": 197e12, "v5p": 459e12, "v6e": 918e12, "tpu7x": 2307e12}

# What jax calls a device of each; tpu7x has two devices a chip.
_TPU_KINDS = {
    "TPU v4": ("v4", 1), "TPU v5 lite": ("v5e", 1), "TPU v5e": ("v5e", 1), "TPU v5": ("v5p", 1),
    "TPU v5p": ("v5p", 1), "TPU v6 lite": ("v6e", 1), "TPU v6e": ("v6e", 1),
    "TPU7x": ("tpu7x", 2),
}  # fmt: skip

# Dense bfloat16 rates from NVIDIA's data sheets, of the SXM boards.
_GPU_FLOPS = {"A100-SXM": 312e12, "H100 80GB HBM3": 989e12, "H200": 989e12}


def peak_flops(device_kind: str) -> float | None:
    """bfloat16 operations a second of a jax device of this kind; None where none is known."""
    if device_kind in _TPU_KINDS:
        name, devices = _TPU_KINDS[device_kind]
        return TPU_CHIP_FLOPS[name] / devices
    for part, flops in _GPU_FLOPS.items():
        if device_kind.startswith("NVIDIA") and part in device_kind:
            return flops
    return None
