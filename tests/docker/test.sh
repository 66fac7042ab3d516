#!/usr/bin/env bash
# Tests the image with the available Docker engine: builds it, runs two containers and a Redis on a network and under
# names of their own, and removes them. Without an engine it prints that and tests nothing. alone.sh provides an engine;
# BUILD_OPTIONS are passed to `docker build`; PAIR=1 also tries pair.sh, which uses ports 3000 and 3001.
set -euo pipefail
cd "$(dirname "$0")/../.."

if ! docker version >/dev/null 2>&1; then
    echo "no Docker engine answers here, so the image was not tested"
    echo "docker: 0 passed, 0 failed, 1 skipped"
    exit 0
fi

python=target/venv/bin/python
own=bobbin-test-$$
image=$own
passed=0 failed=0

end() {
    docker rm --force --volumes "$own-redis" "$own-one" "$own-two" >/dev/null 2>&1 || true
    docker network rm "$own" >/dev/null 2>&1 || true
    docker rmi "$image" >/dev/null 2>&1 || true
}
trap end EXIT

# Runs a test, which is a function that ends at its first failure, and shows its output if it failed. (Do not call `run`
# in a condition: the shell would ignore failures within it.)
run() {
    local output
    set +e
    output=$(set -e; "$1" 2>&1)
    status=$?
    set -e
    if [ $status = 0 ]; then
        passed=$((passed + 1))
        echo "ok      ${1//_/ }"
    else
        failed=$((failed + 1))
        echo "FAILED  ${1//_/ }"
        printf '%s\n' "$output" | tail -n 30 | sed 's/^/        /'
    fi
}

# The following tests depend on the last one.
or_end() { [ $status = 0 ] || { summary; exit 1; }; }

summary() {
    echo "docker: $passed passed, $failed failed"
    [ $failed = 0 ]
}

# Polls until the rest of the line succeeds, for this many seconds.
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        if [ $SECONDS -ge $end ]; then
            echo "not in time: $*"
            return 1
        fi
        sleep 0.2
    done
}

of() { docker inspect --format "$2" "$1"; }
url() { echo "http://$(docker port "$own-$1" 3000 | head -n 1)"; }
answers() { "$python" -c "import sys, urllib.request as u; u.urlopen(sys.argv[1], timeout=5)" "$1" 2>/dev/null; }
health_is() { [ "$(of "$own-$1" '{{if .State.Health}}{{.State.Health.Status}}{{end}}')" = "$2" ]; }
exited_with() {
    local code
    code=$(of "$own-$1" '{{.State.Status}} {{.State.ExitCode}}')
    [ "$code" = "exited $2" ] || { echo "$1: $code"; docker logs --tail 20 "$own-$1"; return 1; }
}

# As in the Fargate template: a read-only file system, no capabilities.
start() {
    docker run --detach --name "$own-$1" --net "$own" --publish 127.0.0.1::3000 --env REDIS_ENDPOINT="$own-redis" \
        --read-only --cap-drop ALL --security-opt no-new-privileges "$image"
    within 20 answers "$(url "$1")/readyz"
}

it_builds() {
    # shellcheck disable=SC2086 # options
    docker build ${BUILD_OPTIONS:-} --tag "$image" .
}

it_is_under_35_MB() {
    local size
    size=$(of "$image" '{{.Size}}')
    echo "$size bytes"
    [ "$size" -gt 1000000 ] && [ "$size" -lt 35000000 ]
}

it_starts_the_binary_itself_as_nobody_special_on_port_3000() {
    local facts
    facts=$(of "$image" '{{json .Config.Entrypoint}} {{json .Config.Cmd}} {{.Config.User}} {{json .Config.ExposedPorts}}')
    echo "$facts"
    [ "$facts" = '["/bobbin"] null 65532:65532 {"3000/tcp":{}}' ]
    [ -n "$(of "$image" '{{index .Config.Labels "org.opencontainers.image.title"}}')" ]
}

two_containers_run_on_a_read_only_root() {
    docker network create "$own"
    docker run --detach --name "$own-redis" --net "$own" redis
    start one
    start two
}

the_process_is_not_root() {
    local who
    # The engine requires the pid column first; the user's id is the second column.
    who=$(docker top "$own-one" -eo pid,uid,comm | awk 'NR > 1 { print $2, $3 }')
    echo "$who"
    [ "$who" = "65532 bobbin" ]
}

the_health_check_says_healthy() { within 40 health_is one healthy; }

the_health_check_fails_without_a_server() {
    local status=0
    docker run --rm "$image" --healthcheck || status=$?
    [ $status = 1 ]
}

a_chat_goes_across_the_containers() { "$python" tests/docker/talk.py across "$(url one)" "$(url two)"; }

docker_stop_moves_the_people_on_it_and_exits_0_in_time() {
    local begin=$SECONDS
    # With the engine's default of ten seconds before it kills.
    "$python" tests/docker/talk.py move "$(url one)" "$(url two)" 1012 docker stop "$own-one"
    exited_with one 0
    [ $((SECONDS - begin)) -lt 15 ]
}

docker_kill_loses_nothing_and_nobody() {
    docker start "$own-one"
    within 20 answers "$(url one)/readyz"
    "$python" tests/docker/talk.py move "$(url two)" "$(url one)" 1006 docker kill "$own-two"
    exited_with two 137
}

a_killed_container_starts_again_into_the_same_chat() {
    docker start "$own-two"
    within 20 answers "$(url two)/readyz"
    "$python" tests/docker/talk.py across "$(url one)" "$(url two)"
}

# The article's commands, and Ctrl-C.
the_articles_own_commands_work() {
    local log pid status=0
    log=$(mktemp)
    tests/docker/pair.sh >"$log" 2>&1 &
    pid=$!
    within 900 grep -q 'Ctrl-C ends all' "$log"
    within 20 answers http://127.0.0.1:3000/readyz
    within 20 answers http://127.0.0.1:3001/readyz
    "$python" tests/docker/talk.py across http://127.0.0.1:3000 http://127.0.0.1:3001
    kill "$pid"
    wait "$pid" || status=$?
    cat "$log"
    rm "$log"
    [ $status = 143 ]
    [ -z "$(docker ps --all --quiet --filter network=chatapp)" ] && ! docker network inspect chatapp
}

run it_builds
or_end
run it_is_under_35_MB
run it_starts_the_binary_itself_as_nobody_special_on_port_3000
run two_containers_run_on_a_read_only_root
or_end
run the_process_is_not_root
run the_health_check_says_healthy
run the_health_check_fails_without_a_server
run a_chat_goes_across_the_containers
run docker_stop_moves_the_people_on_it_and_exits_0_in_time
run docker_kill_loses_nothing_and_nobody
run a_killed_container_starts_again_into_the_same_chat
if [ -n "${PAIR:-}" ]; then run the_articles_own_commands_work; fi
summary
