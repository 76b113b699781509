#!/usr/bin/env bash
@{directives}
# One process a device. SIGTERM goes to the processes before the time limit: they save and leave
# with 42. Ends that another start can mend put the job back into the queue.
set -uo pipefail

command -v vidsim >/dev/null || { echo "vidsim is not on PATH: activate its environment before sbatch"; exit 2; }

workdir=@{workdir}
restarts=@{restarts}
@{exports}

rm -f "$workdir/ended.json"
srun --kill-on-bad-exit=1 @{srun}
code=$?

# The task that gave up says why; the others were only killed with it.
if [[ -f $workdir/ended.json ]]; then
  said=$(sed -n 's/.*"code": \([0-9]*\).*/\1/p' "$workdir/ended.json")
  code=${said:-$code}
fi
case "$code" in
  0 | @{give_up})
    echo "@{name} ended with $code"
    exit "$code"
    ;;
esac
if ((${SLURM_RESTART_COUNT:-0} < restarts)); then
  echo "@{name} ended with $code; back into the queue"
  exec scontrol requeue "$SLURM_JOB_ID"
fi
echo "@{name} ended with $code after $restarts restarts"
exit "$code"
