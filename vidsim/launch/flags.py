"""Compiler flags for each kind of device: the only table of them.

A set that helps one TPU generation can stop another, so each has its own and nothing is shared.
A generation of which no published set is known gets none. Sources: MaxText's launch scripts and
benchmarks/xla_flags_library.py (August 2026), axlearn's compiler_options.py (July 2026), JAX's
page "GPU performance tips". Every TPU set was compiled for its own generation with libtpu
0.0.42.1, which refuses names that it does not know; none of them was timed by this project.
"""

from collections.abc import Mapping

FLAGS: Mapping[str, Mapping[str, str]] = {
    # MaxText, configs/tpu/v5e/*.sh: gathers are fused into the work they can hide behind.
    "v5e": {
        "xla_enable_async_all_gather": "true",
        "xla_tpu_enable_async_collective_fusion": "true",
        "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true",
        "xla_tpu_enable_async_collective_fusion_multiple_steps": "true",
        "xla_tpu_overlap_compute_collective_tc": "true",
    },
    # MaxText, configs/tpu/v5p/*.sh.
    "v5p": {
        "xla_enable_async_all_gather": "true",
        "xla_enable_async_collective_permute": "true",
        "xla_tpu_enable_async_collective_fusion": "true",
        "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true",
        "xla_tpu_enable_async_collective_fusion_multiple_steps": "true",
        "xla_tpu_enable_ag_backward_pipelining": "true",
        "xla_tpu_megacore_fusion_allow_ags": "false",
        "xla_tpu_overlap_compute_collective_tc": "true",
    },
    # axlearn, version "v6e"; MaxText, xla_flags_library.py: DENSE_VMEM_LIMIT_FLAG,
    # CF_FOR_ALL_GATHER, DISABLE_COLLECTIVE_MATMUL.
    "v6e": {
        "xla_enable_async_all_gather": "true",
        "xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000",
        "xla_tpu_enable_async_collective_fusion": "true",
        "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true",
        "xla_tpu_enable_async_collective_fusion_multiple_steps": "true",
        "xla_tpu_overlap_compute_collective_tc": "true",
        "xla_tpu_scoped_vmem_limit_kib": "98304",
    },
    # axlearn, version "7x": gathers run on the sparse cores, so they are not fused.
    "tpu7x": {
        "xla_enable_async_all_gather": "true",
        "xla_sc_disable_megacore_partitioning": "true",
        "xla_tpu_enable_all_gather_offload_tracing": "true",
        "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "false",
        "xla_tpu_enable_sparse_core_collective_offload_all_gather": "true",
        "xla_tpu_prefer_async_allgather_to_allreduce": "true",
        "xla_tpu_scoped_vmem_limit_kib": "65536",
        "xla_tpu_use_tc_device_shape_on_sc": "true",
    },
    # JAX, "GPU performance tips".
    "gpu": {"xla_gpu_enable_latency_hiding_scheduler": "true"},
}

# MaxText, xla_flags_library.py: DATA_PARALLEL_OVERLAP; axlearn, num_slices > 1.
BETWEEN_SLICES: Mapping[str, str] = {
    "xla_tpu_enable_data_parallel_all_reduce_opt": "true",
    "xla_tpu_data_parallel_opt_different_sized_ops": "true",
}


def compiler_flags(kind: str, slices: int) -> dict[str, str]:
    """Flag -> value for devices of this kind; empty where none are known."""
    between = BETWEEN_SLICES if slices > 1 and kind != "gpu" else {}
    return {**FLAGS.get(kind, {}), **between}


def flag_variables(kind: str, slices: int) -> dict[str, str]:
    """The environment variable that carries the flags; empty where none are known."""
    text = " ".join(f"--{k}={v}" for k, v in compiler_flags(kind, slices).items())
    return {"XLA_FLAGS" if kind == "gpu" else "LIBTPU_INIT_ARGS": text} if text else {}
