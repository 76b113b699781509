"""Real processes on loopback: they meet, agree and check; whoever cannot says so in one line."""

import ipaddress
import socket
import time

import jax
import numpy as np
import pytest

from tests.parallel.members import LIMIT_S, finish, free_port, launch, launch_all
from vidsim.core.errors import BadInput
from vidsim.core.exits import RunEnded
from vidsim.parallel import processes
from vidsim.parallel.clusters import Member
from vidsim.parallel.mesh import ParallelConfig, build_mesh

ME = "tests.parallel.members"


@pytest.mark.slow
def test_processes_that_agree_go_on_and_those_that_do_not_all_leave_with_2():
    codes, _, errors = finish(launch_all(ME, 2, devices=2))
    assert codes == [0, 0], errors
    codes, _, errors = finish(launch_all(ME, 2, "--lr", "0.5", "0.25"))
    assert codes == [2, 2], errors
    line = "processes: config.optim.lr is 0.5 in process 0; 0.25 in process 1; start all"
    assert all(line in text for text in errors), errors


def test_a_coordinator_that_cannot_be_reached_is_named():
    port = free_port()
    before = time.monotonic()
    with pytest.raises(BadInput, match=f"127.0.0.1:{port} cannot be reached .*within 0.5 s"):
        processes.start(Member(f"127.0.0.1:{port}", 2, 1), timeout_s=0.5)
    assert time.monotonic() - before < 5.0


def test_a_coordinator_address_of_another_machine_is_refused():
    with pytest.raises(BadInput, match="process 0 cannot listen on 192.0.2.1:8476"):
        processes.start(Member("192.0.2.1:8476", 2, 0), timeout_s=0.5)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=f"cannot listen on 127.0.0.1:{port} .*in use"):
            processes.start(Member(f"127.0.0.1:{port}", 2, 0), timeout_s=0.5)


@pytest.mark.slow
def test_a_process_that_stays_away_ends_the_others_with_2():
    """The coordination service alone would abort with a stack trace."""
    alone = launch(ME, 0, 2, free_port(), timeout_s=3)
    codes, _, (error,) = finish([alone])
    assert codes == [2], error
    assert "not all 2 came to 127.0.0.1" in error and "within 3 s" in error


@pytest.mark.slow
def test_the_coordinator_listens_on_its_own_address_only():
    port = free_port()
    first = launch(ME, 0, 2, port, timeout_s=60)
    try:
        deadline = time.monotonic() + LIMIT_S
        while (listening := sockets(port)) == []:
            assert first.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        assert listening == [f"127.0.0.1:{port}"]
    finally:
        first.kill()
        first.communicate()


def sockets(port):
    """Local addresses that listen on a port, from the kernel's tables."""
    found = []
    for name in ("tcp", "tcp6"):
        with open(f"/proc/net/{name}") as table:
            for line in list(table)[1:]:
                place, state = line.split()[1], line.split()[3]
                host, _, number = place.rpartition(":")
                if state == "0A" and int(number, 16) == port:
                    words = [bytes.fromhex(host[i : i + 8])[::-1] for i in range(0, len(host), 8)]
                    address = ipaddress.ip_address(b"".join(words))
                    mapped = getattr(address, "ipv4_mapped", None)
                    found.append(f"{mapped or address}:{port}")
    return found


def test_the_start_up_check_passes_here_and_names_a_chip_that_multiplies_wrongly(monkeypatch):
    mesh = build_mesh(ParallelConfig("fsdp_tensor", tensor=2))
    processes.check_devices(mesh)
    found, total = processes._checked(mesh)()
    wrong = np.asarray(found).copy()
    wrong[5] ^= 1
    monkeypatch.setattr(processes, "_checked", lambda mesh: lambda: (wrong, total))
    with pytest.raises(
        RunEnded, match="product on cpu:5 of process 0 is not that of the other 7 devices"
    ):
        processes.check_devices(mesh)
    assert jax.process_count() == 1
