"""What a log line says of the machines: work a device, utilisation, memory, the slowest process."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from vidsim.core.peaks import peak_flops


def device_facts(rates: Mapping[str, float], devices: Sequence[Any]) -> dict[str, float]:
    """Numbers for one log line.

    rates    `<unit>_per_s` of the whole step; `flops_per_s` counts useful operations
    devices  all of the run's
    Returns  `<unit>_per_s_device`; `mfu`, the share of the devices' published bfloat16 peak that
             useful operations take, where a peak is known; `memory_peak_bytes`, the most that a
             device of this process has held, where its backend says so
    """
    facts = {f"{name}_device": rate / len(devices) for name, rate in rates.items()}
    peak = peak_flops(devices[0].device_kind)
    if peak is not None and "flops_per_s" in rates:
        facts["mfu"] = rates["flops_per_s"] / (peak * len(devices))
    here = [d for d in devices if d.process_index == jax.process_index()]
    held = [(d.memory_stats() or {}).get("peak_bytes_in_use") for d in here]
    known = [float(n) for n in held if n is not None]
    if known:
        facts["memory_peak_bytes"] = max(known)
    return facts


def slowest_process(host_s: float) -> dict[str, float]:
    """Which process held the others up.

    host_s   seconds that this one spent on its own side of the last step: waiting for data
    Returns  its number and its seconds; nothing for a run of one process. All processes must call
             this at the same step
    """
    if jax.process_count() == 1:
        return {}
    all_s = np.asarray(multihost_utils.process_allgather(np.float32(host_s))).reshape(-1)
    slowest = int(all_s.argmax())
    return {"slowest_process": float(slowest), "slowest_process_s": float(all_s[slowest])}
