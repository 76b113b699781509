"""Several real processes on loopback, for tests; as a program it is one of them.

Each task below runs in every process and prints one JSON line.
"""

import argparse
import json
import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIMIT_S = 600  # for a busy machine; alone two processes take about 4 s


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def launch(module, number, of, port, *words, devices=1, timeout_s=300):
    """One process of `of`; every process has `devices` virtual CPU devices."""
    env = os.environ | {
        "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }  # fmt: skip
    place = ["--coordinator", f"127.0.0.1:{port}", "--processes", str(of), "--process", str(number),
             "--start-timeout", str(timeout_s)]  # fmt: skip
    command = [sys.executable, "-m", module, *words, *(place if of > 1 else [])]
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)  # fmt: skip


def finish(processes):
    """(codes, outputs, errors) of all; kills what is left."""
    try:
        ends = [p.communicate(timeout=LIMIT_S) for p in processes]
    finally:
        for p in processes:  # SIGTERM would be swallowed by the preemption service
            p.kill()
    return [p.returncode for p in processes], [e[0] for e in ends], [e[1] for e in ends]


def launch_all(module, of, *words, devices=1):
    """All processes of a run, each with the same words."""
    port = free_port()
    return [launch(module, i, of, port, *words, devices=devices) for i in range(of)]


def join(args):
    """What `vidsim train` does before anything else."""
    from vidsim.parallel.clusters import find_member
    from vidsim.parallel.processes import start

    member = find_member(coordinator=args.coordinator, processes=args.processes,
                         process=args.process)  # fmt: skip
    if member is not None:
        start(member, timeout_s=args.start_timeout)


def add_flags(parser):
    parser.add_argument("--coordinator")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--process", type=int)
    parser.add_argument("--start-timeout", type=float, default=60.0)


def main():
    from vidsim.core.errors import BadInput
    from vidsim.parallel.mesh import ParallelConfig, build_mesh
    from vidsim.parallel.processes import agree, check_devices

    parser = argparse.ArgumentParser()
    add_flags(parser)
    parser.add_argument("--lr", type=float, nargs="*", default=[0.5])
    args = parser.parse_args()
    try:
        join(args)
        lr = args.lr[(args.process or 0) % len(args.lr)]
        agree({"config": {"optim": {"lr": lr}, "seed": 1}, "index": "9f"})
        check_devices(build_mesh(ParallelConfig("fsdp")))
    except BadInput as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print(json.dumps({"lr": lr}), flush=True)


if __name__ == "__main__":
    main()
