#!/usr/bin/env bash
# Mounts the buckets named in VIDSIM_BUCKETS below /gcs, then becomes the command. Where something
# else mounts them (the CSI driver of GKE, SkyPilot) the variable is not set.
set -euo pipefail

read -r -a buckets <<<"${VIDSIM_BUCKETS:-}"
root=${VIDSIM_MOUNTS:-/gcs}
for bucket in "${buckets[@]}"; do
  mkdir -p "$root/$bucket"
  # folders made by other tools have no objects of their own: --implicit-dirs shows them all the same
  gcsfuse --implicit-dirs "$bucket" "$root/$bucket"
done
exec "$@"
