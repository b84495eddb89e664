# make demo | test | check | bench: everything a newcomer runs. Missing packages are installed
# when run as root, else they are named.
SHELL := /bin/bash
PACKAGES := deploy/packages.sh
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: demo test check bench fmt

demo:
	@$(PACKAGES) demo
	cargo build --workspace
	$(TARGET)/debug/demo

# The services first: end-to-end tests run their binaries.
test:
	@$(PACKAGES) test
	cargo build --workspace
	cargo test --workspace

check:
	@$(PACKAGES) check
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo test -p tests --test floors
	cargo deny check licenses bans sources

bench:
	@$(PACKAGES) bench
	cargo build --release --workspace
	$(TARGET)/release/bench

fmt:
	cargo fmt --all
