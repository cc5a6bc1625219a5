#!/usr/bin/env bash
# Build both images where no Docker engine runs, start them, and train through them.
#
# Needs root, and Debian's buildah and mmdebstrap (apt-get install buildah mmdebstrap). The base image
# cannot be fetched everywhere either: a Debian of the same release takes its place and its name.
# What that does not show: a root that is read-only, capabilities and networks, which Docker provides.
#
#   TORCH="torch==2.13.0 torchvision==0.28.0"  other versions than the tested ones, such as those of
#                                              CPU-only wheels that pip finds here; else 6 GB of CUDA
#   FOLDER=/somewhere                          where images are kept, some 10 GB; else build/images
set -euo pipefail
cd "$(dirname "$0")/.."
for tool in buildah mmdebstrap; do
    command -v "$tool" >/dev/null || { echo "try-images: $tool is missing: apt-get install $tool" >&2; exit 2; }
done

base=$(sed -n 's/^ARG PYTHON=//p' docker/Dockerfile)
folder=$(realpath -m "${FOLDER:-build/images}")
mkdir -p "$folder"
export CONTAINERS_STORAGE_CONF=$folder/storage.conf
cat >"$CONTAINERS_STORAGE_CONF" <<CONF
[storage]
driver = "${STORAGE_DRIVER:-overlay}"
runroot = "$folder/run"
graphroot = "$folder/graph"
CONF

say() { printf '\n== %s\n' "$*"; }
fail() { echo "try-images: $*" >&2; exit 1; }

# The base, and the images.

if ! buildah inspect --type image "$base" >/dev/null 2>&1; then
    say "a Debian in place of $base"
    mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates \
        "${base##*-}" "$folder/base.tar"
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$folder/base.tar" / >/dev/null
    rm "$folder/base.tar"
    buildah commit --quiet --rm "$container" "$base" >/dev/null
fi

# How pip is set up here, which is nobody's business elsewhere: mounted for the build alone, with the
# folders and the certificates that it names.
python3 -m pip config list | sed -nE "s/^(global|:env:)\.([a-z-]+)='(.*)'$/\2 = \3/p" | sort -u -t= -k1,1 |
    sed '1i [global]' >"$folder/pip.conf"
mounts=(--volume "$folder/pip.conf:/etc/pip.conf:ro")
# Of an index in a folder "simple" the files lie beside it.
for place in $(grep -oE '/[A-Za-z0-9._/-]+' "$folder/pip.conf" | xargs -rn1 realpath -ms | sed 's,/simple$,,' | sort -u); do
    if [ -e "$place" ]; then mounts+=(--volume "$place:$place:ro"); fi
done

build() { # IMAGE DOCKERFILE ARGUMENTS...
    local image=$1 file=$2
    shift 2
    say "building $image"
    buildah bud --quiet --isolation chroot --pull-never --layers --format docker "${mounts[@]}" "$@" \
        --file "$file" --tag "$image" . >"$folder/$image.log" 2>&1 ||
        { tail -20 "$folder/$image.log" >&2; fail "building $image failed: $folder/$image.log"; }
}
build adarelu-sweep-mlflow docker/mlflow.Dockerfile
build adarelu-sweep docker/Dockerfile --build-arg "TORCH=${TORCH:-}" --build-arg EXTRAS=ray,postgresql,s3

size() { # IMAGE: the sum of its layers, as they lie on a disk
    buildah inspect --type image "$1" |
        python3 -c 'import json, sys; print(sum(l["size"] for l in json.loads(json.load(sys.stdin)["Manifest"])["layers"]))'
}
say "sizes, in MB"
for image in "$base" adarelu-sweep-mlflow adarelu-sweep; do
    echo "$(($(size "$image") / 1000000)) $image"
done
[ "$(size adarelu-sweep-mlflow)" -lt 1200000000 ] || fail "the server's image is larger than 1.2 GB"

# The containers: a server and a worker, with a volume each, and the secrets.

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
volumes=$(mktemp -d "$folder/volumes.XXXX")
mkdir "$volumes"/{mlflow,sweep,secrets}
chown 10001 "$volumes"/*
chmod 755 "$volumes"
server=$(buildah from --pull-never adarelu-sweep-mlflow)
worker=$(buildah from --pull-never adarelu-sweep)
# Else buildah 1.28 now and then mounts the image's own volume over the one that is given.
buildah config --volume /var/lib/mlflow- "$server"
buildah config --volume /var/lib/adarelu-sweep- "$worker"
finish() {
    if [ -s "$volumes/mlflow/pid" ]; then kill "$(cat "$volumes/mlflow/pid")" 2>/dev/null && wait; fi || true
    buildah rm "$server" "$worker" >/dev/null
    rm -rf "$volumes"
}
trap finish EXIT

in_server() { # COMMAND...
    buildah run --isolation chroot --volume "$volumes/mlflow:/var/lib/mlflow" --volume "$volumes/secrets:/secrets" \
        --env HOST=127.0.0.1 --env "PORT=$port" "$server" -- "$@"
}
in_worker() { # COMMAND..., as the image's entrypoint runs it
    buildah run --isolation chroot --volume "$volumes/sweep:/var/lib/adarelu-sweep" --volume "$volumes/secrets:/secrets:ro" \
        --env "MLFLOW_TRACKING_URI=http://127.0.0.1:$port" --env MLFLOW_TRACKING_USERNAME=admin \
        --env "MLFLOW_TRACKING_PASSWORD_FILE=${PASSWORD_FILE:-/secrets/mlflow-password}" "$worker" -- with-secrets "$@"
}

say "who they run as, and the secrets"
in_server python3 /opt/make_secrets.py /secrets
[ "$(in_server id -u) $(in_worker id -u)" = "10001 10001" ] || fail "not the user 10001"
before=$(sha256sum "$volumes"/secrets/*)
in_server python3 /opt/make_secrets.py /secrets
[ "$(sha256sum "$volumes"/secrets/*)" = "$before" ] || fail "secrets that were there were made again"
[ -z "$(find "$volumes/secrets" -type f ! -perm 400)" ] || fail "a secret can be read by others"
echo "user 10001 in both; $(find "$volumes/secrets" -type f | wc -l) secrets, for their owner only"

say "the server"
# The shell's process becomes the server, and says beforehand which it is.
in_server sh -c 'echo $$ > pid; exec python3 /opt/serve.py' >"$folder/server.log" 2>&1 &
healthy() { in_server python3 -c "from urllib.request import urlopen; urlopen('http://127.0.0.1:$port/health', timeout=4)"; }
for _ in $(seq 60); do
    if healthy 2>/dev/null; then break; fi
    sleep 1
done
healthy || { tail -20 "$folder/server.log" >&2; fail "the server does not answer: $folder/server.log"; }
echo "healthy at http://127.0.0.1:$port"

say "doctor, in the worker"
in_worker adarelu-sweep doctor || fail "doctor found something that fails"

say "doctor with a wrong password"
echo wrong-password-of-ours >"$volumes/secrets/wrong" && chmod 644 "$volumes/secrets/wrong"
code=0
PASSWORD_FILE=/secrets/wrong in_worker adarelu-sweep doctor >"$folder/wrong.log" || code=$?
grep '^failed' "$folder/wrong.log"
[ "$code" = 1 ] || fail "it ended with $code, not 1"

say "a digits study, in the worker, recorded by the server"
in_worker adarelu-sweep launch /opt/adarelu-sweep/studies/quickstart.toml --name digits \
    --set matrix.network='[{name = "vgg16_bn", width = 0.125}]' --set 'matrix.activation=["relu", "adarelu"]' \
    --set matrix.seeds=2 --set training.epochs=2 --set data.train_limit=256 --set data.test_limit=100
in_worker adarelu-sweep status digits
in_worker adarelu-sweep doctor | grep -E 'database|storage'
in_worker python3 -c '
from mlflow.tracking import MlflowClient
client = MlflowClient()
runs = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
trials = [run for run in runs if "test/accuracy" in run.data.metrics and run.info.status == "FINISHED"]
artifacts = sum(len(client.list_artifacts(run.info.run_id)) for run in runs)
print(f"{len(runs)} runs in MLflow, {len(trials)} of them finished with an accuracy, {artifacts} artifacts")
assert len(trials) >= 4 and artifacts'

say "what was written outside of the volumes and /tmp"
for container in "$server" "$worker"; do
    root=$(buildah mount "$container")
    layer=$(sed -n "s,^overlay $root .*upperdir=\([^\,]*\).*,\1,p" /proc/mounts)
    written=$(cd "${layer:-/nowhere}" && find . -type f ! -path './tmp/*' ! -path './etc/*')
    [ -z "$written" ] || fail "$container wrote $written"
done
echo "nothing"
say "done"
