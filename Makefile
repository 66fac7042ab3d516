# Common tasks; `make` alone lists them.

.DEFAULT_GOAL := help
SECONDS ?= 60
CARGO_DEB := target/tools/bin/cargo-deb
BENCH ?= --doc docs/benchmarks.md

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## build and serve the chat at http://localhost:3000, without any other service; keeps rooms in chat.db
	$(if $(REDIS_ENDPOINT),,DATA_FILE=$${DATA_FILE-chat.db}) cargo run --release --locked

pair: ## a redis-server and two instances, on ports 3000 and 3001; Ctrl-C ends all
	cargo build --release --locked
	tests/setup.sh redis-server
	tests/pair.sh

check: ## format, lints and docs, with warnings denied
	cargo fmt --check
	cargo clippy --locked --all-targets -- --deny warnings
	RUSTDOCFLAGS='--deny warnings' cargo doc --locked --no-deps --document-private-items

test: ## install what the tests need, if missing, and run them all in parallel (about 10 minutes)
	tests/setup.sh
	cargo build --locked
	tests/all.sh

package: $(CARGO_DEB) ## a Debian package, in target/debian
	tests/setup.sh dpkg-dev
	cargo run --quiet --locked --example package_files -- target/package
	$(CARGO_DEB) --locked

package-test: package ## install, upgrade and purge it on a clean Debian with systemd (root; about 2 minutes after the build)
	tests/setup.sh debootstrap
	tests/setup.sh
	mkdir -p target/deploy
	for revision in 1 2; do \
	    $(CARGO_DEB) --quiet --no-build --locked --deb-revision $$revision --output target/deploy/revision-$$revision.deb; \
	done
	target/venv/bin/pytest -q -x -p no:cacheprovider tests/deploy/install.py

$(CARGO_DEB):
	cargo install --quiet --locked --root target/tools cargo-deb@3.8.0

hostile: ## the hostile test: every attack, from 1 and 32 addresses, on all backplanes (about an hour); ATTACK=word selects some
	tests/setup.sh redis-server
	HOSTILE=full cargo test --release --locked --test hostile -- $(ATTACK)

slow: ## the slow attacks of slowhttptest, with 1,000 connections (about 2 minutes)
	tests/slow.sh

conformance: ## the Autobahn cases against the server's own session code
	tests/setup.sh
	tests/conformance/run.sh

chaos: ## the fault test, for SECONDS=60; SEED=… repeats a run, BACKPLANE=file uses a data file
	tests/setup.sh redis-server faketime
	SECONDS=$(SECONDS) cargo test --release --locked --test chaos

bench: ## the benchmark beside its peers, about 40 minutes on a quiet machine; BENCH=--quick takes three
	tests/setup.sh redis-server npm strace
	cargo build --release --locked
	cargo run --release --locked --manifest-path tests/bench/Cargo.toml --target-dir target/bench/tool -- $(BENCH)

docker-pair: ## the image, and two containers and a Redis on one Docker network, on ports 3000 and 3001
	tests/docker/pair.sh

docker-test: ## the image, with a Docker engine and base images of its own (root, Debian, about 8 minutes)
	tests/docker/alone.sh

screenshots: ## update the page's pictures in tests/browser/screenshots
	tests/setup.sh
	cargo build --locked
	SCREENSHOTS=1 target/venv/bin/pytest -q -p no:cacheprovider tests/browser -k picture

deploy: ## deploy to AWS: ENV=… REGION=… [CERT=…] [DRY_RUN=1]
	@cfn/deploy.sh deploy

destroy: ## remove it from AWS: ENV=… REGION=… [DRY_RUN=1]
	@cfn/deploy.sh destroy

clean: ## remove what was built
	cargo clean

.PHONY: help run pair check test hostile slow conformance package package-test chaos bench docker-pair docker-test screenshots deploy destroy clean
