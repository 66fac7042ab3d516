#!/usr/bin/env bash
# Makes stand-ins for the images named by the Dockerfile and pair.sh, for an engine that can reach no image registry:
# plain Debian packages, and this machine's Rust. They are imported under the real names, so never run this on an engine
# that is used for anything else. Needs root, debootstrap, and the release of Debian that it runs on.
#
#     standins.sh FOLDER    a folder to work in, with 3 GB free, on a file system that allows device files
set -euo pipefail

folder=$1
debian=$folder/debian
runtime=$folder/runtime
authorities=etc/ssl/certs/ca-certificates.crt

echo "a small Debian, with a C compiler, Redis and Caddy"
debootstrap --variant=minbase --include=ca-certificates,caddy,gcc,libc6-dev,libstdc++6,netbase,redis-server \
    bookworm "$debian" >"$folder/debootstrap.log" || { tail "$folder/debootstrap.log"; exit 1; }
cp "/$authorities" "$debian/$authorities"

echo "redis"
tar -C "$debian" -c . | docker import --change 'EXPOSE 6379' \
    --change 'CMD ["redis-server", "--protected-mode", "no", "--save", ""]' - redis >/dev/null
# Outside its package, Redis rejects other machines by default (protected mode); the real image turns that off.
docker build --quiet --tag redis:7 - >/dev/null <<'END'
FROM redis
ENTRYPOINT ["sh", "-c", "mkdir -p /data && cd /data && exec \"$@\" --protected-mode no", "--"]
END

echo "caddy"
docker build --quiet --tag caddy:2 - >/dev/null <<'END'
FROM redis
ENV XDG_DATA_HOME=/data XDG_CONFIG_HOME=/config
CMD ["caddy", "run", "--config", "/etc/caddy/Caddyfile"]
END

echo "gcr.io/distroless/cc-debian12:nonroot"
# Like the real one: the files of these packages, and no shell or package manager.
mkdir -p "$runtime"/usr/{bin,sbin,lib,lib64} "$runtime/home/nonroot"
chroot "$debian" dpkg --listfiles base-files ca-certificates libc6 libgcc-s1 libgomp1 libssl3 libstdc++6 netbase tzdata |
    sed 's,^/,./,' | sort --unique | grep --invert-match --extended-regexp '^\./usr/share/(info|locale|man)' |
    tar -C "$debian" --no-recursion --files-from=- -c | tar -C "$runtime" -x
cp "$debian/$authorities" "$runtime/$authorities"
printf '%s\n' 'root:x:0:0:root:/root:/sbin/nologin' 'nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin' \
    >"$runtime/etc/passwd"
printf '%s\n' 'root:x:0:' 'nonroot:x:65532:' >"$runtime/etc/group"
chown 65532:65532 "$runtime/home/nonroot"
tar -C "$runtime" -c . | docker import --change 'USER 65532' --change 'WORKDIR /home/nonroot' \
    - gcr.io/distroless/cc-debian12:nonroot >/dev/null

echo "rust:1-slim-bookworm"
sysroot=$(rustc --print sysroot)
cp "$sysroot/bin/cargo" "$sysroot/bin/rustc" "$debian/usr/local/bin"
cp -r "$sysroot/lib" "$debian/usr/local"
# This machine's Cargo configuration, to find crates.
for config in "${CARGO_HOME:-$HOME/.cargo}"/config{,.toml}; do
    if [ -e "$config" ]; then mkdir -p "$debian/root/.cargo" && cp "$config" "$debian/root/.cargo"; fi
done
tar -C "$debian" -c . | docker import --change 'ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
    - rust:1-slim-bookworm >/dev/null
rm -rf "$debian" "$runtime"
