set -euo pipefail
image=@{image}
sudo gcloud auth configure-docker "${image%%/*}" --quiet
sudo docker pull "$image"
sudo docker rm --force vidsim >/dev/null 2>&1 || true
sudo @{docker_run}
