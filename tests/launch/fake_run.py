"""A process that behaves like a training run towards its supervisor, in milliseconds.

Start number n of a folder does what word n of --plan says: an exit code, "kill" (SIGKILL to
itself), "hang" (ignores SIGTERM) or "wait" (leaves with 42 at SIGTERM). Before that it gains
--gain steps of --step_s seconds: metrics lines and a checkpoint with a manifest.
"""

import argparse
import json
import os
import pathlib
import signal
import sys
import time

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=pathlib.Path)
parser.add_argument("--plan", required=True)
parser.add_argument("--gain", type=int, default=10)
parser.add_argument("--step_s", type=float, default=0.01)
args = parser.parse_args()

args.folder.mkdir(parents=True, exist_ok=True)
provenance = args.folder / "provenance.json"
starts = json.loads(provenance.read_text()) if provenance.exists() else []
word = args.plan.split(",")[len(starts)]
if word == "2":
    sys.exit(2)  # refused: nothing is touched

saved = [int(p.name) for p in (args.folder / "checkpoints").glob("*")]
step = max(saved, default=0)
provenance.write_text(json.dumps([*starts, step]))
with (args.folder / "metrics.jsonl").open("a") as stream:
    for s in range(step + 1, step + args.gain + 3):  # two steps more than are saved
        stream.write(json.dumps({"step": s, "kind": "train", "step_s": args.step_s}) + "\n")
if args.gain:
    checkpoint = args.folder / "checkpoints" / str(step + args.gain)
    checkpoint.mkdir(parents=True)
    (checkpoint / "VIDSIM_MANIFEST.json").write_text("{}")
time.sleep(args.gain * args.step_s)

if word == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if word in ("hang", "wait"):
    leave = signal.SIG_IGN if word == "hang" else lambda *_: sys.exit(42)
    signal.signal(signal.SIGTERM, leave)
    (args.folder / "ready").touch()
    while True:
        time.sleep(0.02)
sys.exit(int(word))
