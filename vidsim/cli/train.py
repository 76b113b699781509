"""`vidsim train`: a configuration to a work directory; the same command resumes."""

import argparse
import sys
import traceback


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--config", required=True, metavar="FILE[:VARIANT]",
                        help="experiments/NAME.py[:variant], or a config.json")  # fmt: skip
    parser.add_argument(
        "--workdir", required=True, help="folder of the run; resumed when it exists"
    )
    parser.add_argument("settings", nargs="*", metavar="a.b=value",
                        help="replaces a setting; also --config.a.b=value")  # fmt: skip
    parser.add_argument("--profile", metavar="steps=FIRST:END", default="",
                        help="trace these steps into the work directory's profile/")  # fmt: skip
    together = parser.add_argument_group(
        "several processes", "the same command on every host; trusted networks only"
    )
    together.add_argument("--cluster", default="auto", metavar="NAME",
                          help="who tells the processes of each other: auto, none, plain (the next "
                          "three, or VIDSIM_COORDINATOR, VIDSIM_PROCESSES, VIDSIM_PROCESS), slurm, "
                          "gke, tpu")  # fmt: skip
    together.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    together.add_argument("--processes", type=int, metavar="N", help="how many there are")
    together.add_argument("--process", type=int, metavar="I", help="number of this one, from 0")
    together.add_argument("--bind", metavar="HOST:PORT",
                          help="where process 0 listens; by default --coordinator")  # fmt: skip
    together.add_argument("--start-timeout", type=float, default=300.0, metavar="S",
                          help="seconds for all processes to come")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Trains to the end of the configuration, or from where the work directory stands."""
    from vidsim.config import load_experiment, override
    from vidsim.core.errors import BadInput
    from vidsim.core.exits import BAD_USE, NonFiniteLimit, Preempted, RunEnded
    from vidsim.parallel.clusters import find_member
    from vidsim.parallel.processes import abandon, start
    from vidsim.runs import build_run, run_training

    traced = [f"run.profile={args.profile.removeprefix('steps=')!r}"] if args.profile else []
    run = build_run(override(load_experiment(args.config), [*args.settings, *traced]))
    member = find_member(args.cluster, coordinator=args.coordinator, processes=args.processes,
                         process=args.process)  # fmt: skip
    if member is None:
        run_training(run, args.workdir)
        return 0
    start(member, timeout_s=args.start_timeout, bind=args.bind)
    try:
        run_training(run, args.workdir)
    except (Preempted, NonFiniteLimit):  # every process has these at the same step
        raise
    except (RunEnded, BadInput) as error:
        print(f"vidsim train: {error}", file=sys.stderr)
        abandon(getattr(error, "code", BAD_USE))
    except Exception:
        traceback.print_exc()
        abandon(1)
    return 0
