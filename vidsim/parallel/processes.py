"""Starting several processes as one run: meet, agree, check the chips.

Trusted networks only: the coordination service asks nobody for a password. It listens on the
coordinator's own address, never on all of them.
"""

import functools
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, PartitionSpec

from vidsim.core.digest import digest
from vidsim.core.errors import BadInput, bad
from vidsim.core.exits import BAD_USE, RunEnded
from vidsim.core.host_random import stable_hash
from vidsim.parallel.clusters import Member

HEARTBEAT_S = 60  # without a sign of life for so long a process counts as dead
LAST_WORDS_S = 5  # that process 0 stays after an error, for the others to print theirs
CHECK_WIDTH = 256  # of the matrices that every chip multiplies at start-up


def start(member: Member, *, timeout_s: float = 300.0, bind: str | None = None) -> None:
    """Joins the processes of a run; must come before anything touches a device.

    bind       HOST:PORT on which process 0 listens; the coordinator's own address by default
    timeout_s  for everyone to come
    Raises     BadInput when process 0 cannot listen there, or when another cannot reach it in time.
               When it was reached and some process stays away, every process that came prints one
               line and leaves with code 2: the service itself would abort
    """
    deadline = time.monotonic() + timeout_s
    if member.process == 0:
        bind = _listening(bind or member.coordinator)
    else:
        _reach(member.coordinator, timeout_s, deadline)
    line = bad(
        "processes", f"not all {member.processes} came to {member.coordinator}",
        f"within {timeout_s:g} s", "look at the logs of the others, or raise --start-timeout",
    )  # fmt: skip
    left_s = max(deadline - time.monotonic(), 1.0)
    alarm = threading.Timer(left_s, _leave, (f"vidsim: {line}", BAD_USE))
    alarm.daemon = True
    alarm.start()
    try:
        jax.distributed.initialize(
            member.coordinator,
            member.processes,
            member.process,
            local_device_ids=member.local_devices,
            cluster_detection_method="deactivate",
            initialization_timeout=int(left_s) + 60,  # the alarm comes first
            heartbeat_timeout_seconds=HEARTBEAT_S,
            coordinator_bind_address=bind,
        )
    finally:
        alarm.cancel()


def agree(facts: Mapping[str, Any]) -> None:
    """Compares facts (JSON) over all processes, before anything is written.

    facts   e.g. {"config": {...}, "index": "9f..."}; nested mappings are compared key by key
    Raises  BadInput on every process when one differs, naming the first key that does
    """
    if jax.process_count() == 1:
        return
    mine = dict(sorted(_flat(json.loads(json.dumps(facts)))))
    text = json.dumps(mine).encode()
    number = stable_hash(text.decode())
    parts = (number & 0x7FFFFFFF, number >> 31 & 0x7FFFFFFF, len(text))
    head = np.array(parts, np.int32)
    heads = np.asarray(multihost_utils.process_allgather(head))
    if (heads == heads[:1]).all():
        return
    padded = np.zeros(int(heads[:, 2].max()), np.uint8)
    padded[: len(text)] = np.frombuffer(text, np.uint8)
    texts = np.asarray(multihost_utils.process_allgather(padded))
    all_facts = [
        json.loads(bytes(row[:size]).decode())
        for row, size in zip(texts, heads[:, 2].tolist(), strict=True)
    ]
    raise _disagreement(all_facts)


def _disagreement(all_facts: list[dict[str, Any]]) -> BadInput:
    """The complaint about the first key that some process sees otherwise than process 0."""
    for key in sorted({key for facts in all_facts for key in facts}):
        first = all_facts[0].get(key, "absent")
        for process, facts in enumerate(all_facts):
            if facts.get(key, "absent") != first:
                return bad(
                    "processes", f"{key} is {first!r} in process 0",
                    f"{facts.get(key, 'absent')!r} in process {process}",
                    "start all of them with the same command, code and data",
                )  # fmt: skip
    return bad("processes", "configurations differ", "the same in all")


def wait_for_all(name: str) -> None:
    """Returns when every process of the run has come to the place called `name`."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"vidsim {name}")


def abandon(code: int) -> NoReturn:
    """Leaves at once, after an error that the others may not have.

    They may stand in a collective that this process will never join; the usual way out would wait
    for them. When process 0 is gone, so is the coordination service, and they end too; it lets
    the others speak first.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.process_count() > 1 and jax.process_index() == 0:
        time.sleep(LAST_WORDS_S)
    os._exit(code)


def check_devices(mesh: Mesh) -> None:
    """Multiplies the same matrices on every chip, compares bit by bit, and sums over all of them.

    Raises RunEnded naming the chips whose product is not that of most
    """
    found, total = _checked(mesh)()
    values = np.asarray(jax.device_get(found)).reshape(-1)
    chips = [mesh.devices.flat[i] for i in odd_ones(values)]
    names = [f"{chip} of process {chip.process_index}" for chip in chips]
    if names:
        raise RunEnded(
            f"start-up check: a product on {', '.join(names[:4])} is not that of the other "
            f"{mesh.size - len(names)} devices; take the host out of the job"
        )
    wanted = mesh.size * (mesh.size - 1) // 2
    if int(total) != wanted:
        raise RunEnded(f"start-up check: the sum over all devices is {int(total)}, not {wanted}")


def odd_ones(values: np.ndarray) -> list[int]:
    """Places of the values that differ from the most frequent one."""
    known, count = np.unique(values, return_counts=True)
    return np.flatnonzero(values != known[np.argmax(count)]).tolist()


@functools.cache
def _checked(mesh: Mesh) -> Any:
    names = mesh.axis_names

    def on_each() -> tuple[jax.Array, jax.Array]:
        places = jnp.arange(CHECK_WIDTH * CHECK_WIDTH, dtype=jnp.float32)
        x = jnp.sin(places).reshape(CHECK_WIDTH, CHECK_WIDTH)
        mine = digest(x @ x)[None]
        total = jax.lax.psum(jax.lax.axis_index(names), names)
        return jax.lax.all_gather(mine, names, tiled=True), total

    copied = (PartitionSpec(), PartitionSpec())
    return jax.jit(
        jax.shard_map(on_each, mesh=mesh, in_specs=(), out_specs=copied, check_vma=False)
    )


def _listening(address: str) -> str:
    """The address with its host as a number. Raises BadInput when this machine cannot listen."""
    host, port = _split(address)
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        raise bad("--coordinator", f"process 0 cannot listen on {address} ({error.strerror})",
                  "an address of this machine and a free port",
                  "change it, or give --bind") from None  # fmt: skip
    number = str(place[0])
    return f"[{number}]:{port}" if ":" in number else f"{number}:{port}"


def _reach(address: str, timeout_s: float, deadline: float) -> None:
    """Waits until something listens there. Raises BadInput after the time-out."""
    host, port = _split(address)
    why = "no answer"
    while (left_s := deadline - time.monotonic()) > 0:
        try:
            socket.create_connection((host, port), timeout=min(left_s, 5.0)).close()
            return
        except OSError as error:
            why = str(error.strerror or error)
            time.sleep(min(0.2, max(left_s, 0.0)))
    raise bad("--coordinator", f"{address} cannot be reached ({why})", f"within {timeout_s:g} s",
              "start process 0 there, check the address, or raise --start-timeout")  # fmt: skip


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _leave(line: str, code: int) -> None:
    print(line, file=sys.stderr, flush=True)
    os._exit(code)


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, tree
