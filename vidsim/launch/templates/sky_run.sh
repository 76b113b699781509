set -euo pipefail
image=@{image}
gcloud auth configure-docker "${image%%/*}" --quiet
docker pull "$image"
docker rm --force vidsim >/dev/null 2>&1 || true
@{docker_run}
