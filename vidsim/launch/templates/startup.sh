#!/usr/bin/env bash
# Start-up script of every host of @{name}; the VM runs it as root at each boot.
# Nothing is installed here: the image has everything inside.
set -euo pipefail

image=@{image}

metadata() {
  curl --silent --fail --retry 10 --header 'Metadata-Flavor: Google' \
    "http://metadata.google.internal/computeMetadata/v1/instance/attributes/$1"
}

worker=$(metadata agent-worker-number)
slice=$(metadata tpu-env | sed -n "s/^MEGASCALE_SLICE_ID: *'\([0-9]*\)'.*/\1/p")
host=$((${slice:-0} * @{hosts} + worker))

gcloud auth configure-docker "${image%%/*}" --quiet
for _ in {1..30}; do
  if docker pull "$image"; then break; fi
  sleep 10
done
docker rm --force vidsim >/dev/null 2>&1 || true

@{docker_run}
