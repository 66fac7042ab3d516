# Bobbin's image: one binary with the page inside, on a base without shell or package manager. Uses only syntax that
# both BuildKit and the classic builder support; builds for amd64 and arm64, natively or emulated (docker buildx build
# --platform linux/amd64,linux/arm64).

FROM rust:1-slim-bookworm AS build
WORKDIR /bobbin

# Dependencies in a separate layer, cached until Cargo.toml or Cargo.lock changes. Cargo needs sources to build, so it
# gets empty ones.
COPY Cargo.toml Cargo.lock ./
# SQLite's build options.
COPY .cargo .cargo
RUN mkdir -p src tests/chaos \
    && touch src/lib.rs \
    && echo 'fn main() {}' | tee src/main.rs > tests/chaos/main.rs \
    && cargo build --release --locked

# The real sources. Update their times: Cargo would skip sources older than what was built from the empty ones.
COPY static static
COPY src src
RUN touch src/lib.rs src/main.rs \
    && cargo build --release --locked \
    && mkdir /data

# Contains only glibc and the certificate authorities for TLS to Redis; its user is nonroot, 65532.
FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="Bobbin" \
      org.opencontainers.image.description="A realtime chat server: one binary, one thread per connection, Redis between instances" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /bobbin/target/release/bobbin /bobbin
# For DATA_FILE=/data/…: a new volume mounted here gets this owner.
COPY --from=build --chown=65532:65532 /data /data
# `docker stop` kills after 10 seconds by default: closing the sessions within 6 leaves time for the slowest answer. Set
# more where more time is given, as on Fargate.
ENV DRAIN_SECONDS=6
# Numeric, so that runtimes that require a non-root user can verify it.
USER 65532:65532
EXPOSE 3000
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["/bobbin", "--healthcheck"]
ENTRYPOINT ["/bobbin"]
