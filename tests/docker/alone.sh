#!/usr/bin/env bash
# Tests the image on a Debian machine that has no engine and reaches no image registry: installs Debian's docker.io,
# starts a private engine in a temporary folder, makes stand-ins for the base images, runs test.sh and compose.sh, and
# removes everything except the packages. Needs root and 6 GB; takes about five minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."

[ "$(id -u)" = 0 ] || { echo "this starts an engine, which needs root"; exit 1; }
if docker version >/dev/null 2>&1; then
    echo "an engine runs here already: tests/docker/test.sh tests with it"
    exit 1
fi
tests/setup.sh docker.io docker-compose debootstrap iptables

folder=$(mktemp --directory)
export DOCKER_HOST=unix://$folder/docker.sock
dockerd --host "$DOCKER_HOST" --data-root "$folder/data" --exec-root "$folder/run" --pidfile "$folder/dockerd.pid" \
    ${ENGINE_OPTIONS:-} >"$folder/dockerd.log" 2>&1 &
engine=$!

end() {
    kill "$engine" 2>/dev/null && wait "$engine" || true
    ip link delete docker0 2>/dev/null || true
    rm -rf "$folder"
}
trap end EXIT

deadline=$((SECONDS + 30))
until docker version >/dev/null 2>&1; do
    if ! kill -0 "$engine" 2>/dev/null || [ $SECONDS -ge $deadline ]; then
        echo "the engine does not start:"
        tail -n 20 "$folder/dockerd.log"
        exit 1
    fi
    sleep 0.2
done
tests/docker/standins.sh "$folder"
PAIR=1 tests/docker/test.sh
# Uses the layers built so far.
tests/docker/compose.sh
