#!/usr/bin/env bash
# Asks for the slice, waits for the end of the training, and asks again when the slice is taken
# away. May be stopped and started at any time; it finds what exists. Ends with the training's code.
set -euo pipefail
cd "$(dirname "$0")"

name=@{name}
project=@{project}
zone=@{zone}
ended=@{ended}
restarts=@{restarts}
poll_s=${POLL_S:-60}

queued() { gcloud compute tpus queued-resources "$@" --project="$project" --zone="$zone" --quiet; }

state() {
  queued describe "$name" --format='value(state.state)' 2>/dev/null || echo NONE
}

code() {
  gcloud storage cat "$ended" 2>/dev/null | sed -n 's/.*"code": \([0-9]*\).*/\1/p'
}

create() {
  queued create "$name" \
    @{options}
}

remove() { queued delete "$name" --force || echo "not deleted yet; trying again"; }

if [[ $(state) == NONE ]]; then
  gcloud storage rm "$ended" 2>/dev/null || true # of an earlier run
fi

asked=0
while true; do
  end=$(code || true)
  if [[ -n $end ]]; then
    echo "$name ended with $end; deleting the slice"
    remove
    exit "$end"
  fi
  now=$(state)
  echo "$(date '+%F %T') $name: $now"
  case "$now" in
    NONE)
      if ((asked > restarts)); then
        echo "$name: asked $asked times, restarts=$restarts; giving up"
        exit 42
      fi
      if create; then asked=$((asked + 1)); else echo "not created; trying again"; fi
      ;;
    SUSPENDED | FAILED) remove ;; # preempted, or never given; asked for again when it is gone
  esac
  sleep "$poll_s"
done
