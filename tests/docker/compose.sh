#!/usr/bin/env bash
# Tests docs/deploy/compose.yaml with the available Docker engine: both profiles behind Caddy, with its own authority,
# on ports 80 and 443. BOBBIN_IMAGE names an existing image. Removes what it started, volumes included, so it refuses to
# run if volumes of that name exist.
set -euo pipefail
cd "$(dirname "$0")/../.."

if docker compose version >/dev/null 2>&1; then compose=(docker compose); else compose=(docker-compose); fi
compose+=(--project-name bobbin-test --file docs/deploy/compose.yaml)
talk=(target/venv/bin/python tests/docker/tls_talk.py)
folder=$(mktemp --directory)
ca=$folder/root.crt

if [ -n "$(docker volume ls --quiet --filter name=bobbin-test)" ]; then
    echo "volumes named bobbin-test are there already"
    exit 1
fi

end() {
    "${compose[@]}" --profile file --profile pair down --volumes --timeout 20 >/dev/null 2>&1 || true
    rm -rf "$folder"
}
trap end EXIT

# Starts a profile and takes Caddy's authority from the service named.
up() {
    "${compose[@]}" --profile "$1" up --detach
    local end=$((SECONDS + 60))
    until docker cp "$("${compose[@]}" --profile "$1" ps --quiet "$2")":/data/caddy/pki/authorities/local/root.crt "$ca"; do
        [ $SECONDS -lt $end ]
        sleep 0.5
    done
    "${talk[@]}" wait "$ca"
}

echo "one instance with its file"
up file caddy
"${talk[@]}" say "$ca" "before the restart"
"${compose[@]}" --profile file restart --timeout 15 bobbin
"${talk[@]}" expect "$ca" "before the restart"
"${talk[@]}" say "$ca" "before it is made anew"
"${compose[@]}" --profile file down --timeout 15
up file caddy
"${talk[@]}" expect "$ca" "before the restart" "before it is made anew"
"${compose[@]}" --profile file down --timeout 15

echo "two instances on Redis"
up pair caddy-pair
"${talk[@]}" move "$ca" "${compose[@]}" --profile pair stop one
"${compose[@]}" --profile pair start one
"${talk[@]}" move "$ca" "${compose[@]}" --profile pair stop two
echo "compose: 2 passed, 0 failed"
