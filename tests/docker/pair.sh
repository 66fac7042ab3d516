#!/bin/sh
# The setup of the original article in its own commands: one network, one Redis, two containers, one chat, on
# http://localhost:3000 and http://localhost:3001. Ctrl-C stops and removes everything but the images.
set -eu
cd "$(dirname "$0")/../.."

say_and_do() {
    echo "+ $*"
    "$@"
}

# Removes only what was made here: first the chats, then their Redis, which keeps their last messages.
chats= redis= network=
end() {
    trap - EXIT INT TERM
    echo "ending"
    # shellcheck disable=SC2086 # lists of names
    {
        [ -z "$chats" ] || docker stop $chats
        [ -z "$chats$redis" ] || docker rm --force --volumes $chats $redis
        [ -z "$network" ] || docker network rm $network
    } >/dev/null
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say_and_do docker build -t chat .
say_and_do docker network create chatapp
network=chatapp
say_and_do docker run -d --net=chatapp --name=redis redis
redis=redis
say_and_do docker run -d --net=chatapp --name=chat1 -p 3000:3000 -e "REDIS_ENDPOINT=redis" chat
chats=chat1
say_and_do docker run -d --net=chatapp --name=chat2 -p 3001:3000 -e "REDIS_ENDPOINT=redis" chat
chats="chat1 chat2"

echo "open http://localhost:3000 and http://localhost:3001; Ctrl-C ends all"
docker wait chat1 chat2 >/dev/null &
wait $!
