# Bobbin's image: one binary with the page inside, on a base without shell or package manager.
# Plain Dockerfile syntax, for BuildKit and for the classic builder alike; builds for amd64 and arm64, each on its own
# kind or emulated (docker buildx build --platform linux/amd64,linux/arm64).

FROM rust:1-slim-bookworm AS build
WORKDIR /bobbin

# The dependencies, in a layer of their own: it stays cached until Cargo.toml or Cargo.lock changes. Cargo wants sources
# to build, so it gets empty ones.
COPY Cargo.toml Cargo.lock ./
# How SQLite is built.
COPY .cargo .cargo
RUN mkdir -p src tests/chaos \
    && touch src/lib.rs \
    && echo 'fn main() {}' | tee src/main.rs > tests/chaos/main.rs \
    && cargo build --release --locked

# The real sources. They may be older than what was built from the empty ones, and Cargo goes by the time.
COPY static static
COPY src src
RUN touch src/lib.rs src/main.rs \
    && cargo build --release --locked \
    && mkdir /data

# glibc and authorities for TLS to Redis, and nothing else; its user is nonroot, 65532.
FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="Bobbin" \
      org.opencontainers.image.description="A realtime chat server: one binary, one thread per connection, Redis between instances" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /bobbin/target/release/bobbin /bobbin
# For DATA_FILE=/data/…: a volume that is mounted here the first time gets this owner.
COPY --from=build --chown=65532:65532 /data /data
# `docker stop` kills after 10 seconds by itself: goodbyes within 6 leave time for the slowest answer. Where more time
# is given, as on Fargate, set more.
ENV DRAIN_SECONDS=6
# By number, so that whoever demands a user that is not root can see that it is none.
USER 65532:65532
EXPOSE 3000
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["/bobbin", "--healthcheck"]
ENTRYPOINT ["/bobbin"]
